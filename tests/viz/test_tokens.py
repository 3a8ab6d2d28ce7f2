from __future__ import annotations

import numpy as np
import pytest
import torch

from sbmgraph import SampledGraph, viz
from sbmgraph.analysis import neighbours


def gid(ax, name):
    return [child for child in ax.get_children() if child.get_gid() == name]


def boxes(ax):
    """The marked tokens and how opaque their box is."""
    found = {}
    for patch in ax.patches:
        if patch.get_gid() and patch.get_gid().startswith("token-"):
            found[int(patch.get_gid()[6:])] = patch.get_facecolor()[3]
    return found


@pytest.mark.parametrize("side", ["query", "key"])
def test_neighbours_are_marked(planted, rendered, side):
    _, _, sampled = planted
    tokens = [f"w{i}" for i in range(48)]
    ax = viz.plot_token_neighbours(tokens, sampled, 5, side=side)
    assert [text.get_text() for text in ax.texts] == tokens
    found = neighbours(sampled, 5, side=side)
    marked = boxes(ax)
    assert {index for index, alpha in marked.items() if alpha > 0} == set(found.tolist())
    assert 5 in marked
    verb = "attends to" if side == "query" else "is attended by"
    assert f"{side} 5 {verb} {len(found)} of 48" in ax.get_title(loc="left")
    rendered(ax)


def test_boxes_lie_under_their_tokens(planted):
    _, _, sampled = planted
    ax = viz.plot_token_neighbours(["ab", "c"] * 24, sampled, 5, columns=20)
    for patch in ax.patches:
        x, y = ax.texts[int(patch.get_gid()[6:])].get_position()
        assert patch.get_x() < x < patch.get_x() + patch.get_width()
        assert patch.get_y() < y < patch.get_y() + patch.get_height()
    assert max(text.get_position()[0] for text in ax.texts) <= 20
    assert max(text.get_position()[1] for text in ax.texts) > 3


def test_weights_set_the_opacity():
    sampled = SampledGraph.from_edge_index(torch.tensor([[0, 1, 2], [0, 0, 1]]), 3, 3)
    ax = viz.plot_token_neighbours("abc", sampled, 0, weights=torch.tensor([0.2, 0.8, 1.0]))
    marked = boxes(ax)
    assert marked[0] == pytest.approx(marked[1] / 4)
    assert 2 not in marked


def test_long_sequences_become_cells(rendered):
    size = 16384
    sampled = SampledGraph.from_edge_index(torch.tensor([[3, 9000], [7, 7]]), size, size)
    ax = viz.plot_token_neighbours(["x"] * size, sampled, 7)
    cells = gid(ax, "neighbours")[0].get_array().filled(np.nan).ravel()
    assert np.flatnonzero(cells == 1).tolist() == [3, 9000]
    assert np.count_nonzero(~np.isnan(cells)) == size
    assert not ax.texts
    assert "each cell is a token" in ax.get_title(loc="left")
    rendered(ax)


def test_image_neighbours(planted, rendered):
    _, _, sampled = planted
    image = torch.arange(48).view(6, 8)
    ax = viz.plot_image_neighbours(image, sampled, 13)
    picture, overlay = ax.images
    np.testing.assert_array_equal(picture.get_array(), image)
    marked = np.flatnonzero(overlay.get_array()[..., 3].ravel())
    np.testing.assert_array_equal(marked, neighbours(sampled, 13))
    (frame,) = gid(ax, "node")
    assert (frame.get_x() + 0.5, frame.get_y() + 0.5) == (5, 1)
    rendered(ax)
    rendered(viz.plot_image_neighbours(np.zeros((6, 8, 3)), sampled, 13))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: viz.plot_token_neighbours(["a"] * 48, g, 48), "'node' must be an integer"),
        (lambda g: viz.plot_token_neighbours(["a"] * 4, g, 0), "'tokens' must hold 48 tokens"),
        (lambda g: viz.plot_token_neighbours(["a"] * 48, g, 0, head=1), "'head'"),
        (lambda g: viz.plot_image_neighbours(np.zeros((5, 5)), g, 0), "'image' must have shape"),
        (lambda g: viz.plot_image_neighbours(np.zeros(48), g, 0), "'image' must have shape"),
    ],
)
def test_bad_arguments(planted, call, message):
    with pytest.raises(ValueError, match=message):
        call(planted[2])
