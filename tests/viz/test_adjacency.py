from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sbmgraph import SBM, SampledGraph, viz
from sbmgraph.analysis import block_mass
from tests.planted import PROB, SIZES, planted_graph, planted_sbm


def gid(ax, name):
    """The artists of an Axes with this name."""
    return [artist for artist in ax.get_children() if artist.get_gid() == name]


def bars(ax, side):
    """(block, start, stop, colour) of every bracket along a side."""
    found = []
    for line in ax.lines:
        if line.get_gid() and line.get_gid().endswith(side):
            span = line.get_xdata() if side == "top" else line.get_ydata()
            block = int(line.get_gid().split("-")[1])
            found.append((block, span[0], span[1], to_hex(line.get_color())))
    return found


def test_expected_and_sampled_show_the_planted_blocks(planted, rendered):
    sbm, _, sampled = planted
    axes = viz.plot_expected_and_sampled(sbm, sampled)
    expected, drawn = (gid(ax, "adjacency")[0].get_array() for ax in axes)
    starts = np.cumsum([0, *SIZES])
    truth = np.repeat(np.repeat(np.array(PROB), SIZES, axis=0), SIZES, axis=1)
    np.testing.assert_allclose(expected, truth)
    pairs = np.outer(SIZES, SIZES)
    counts = np.add.reduceat(np.add.reduceat(drawn, starts[:-1], 0), starts[:-1], 1)
    np.testing.assert_allclose(counts, block_mass(sbm, sampled))
    assert np.abs(counts / pairs - np.array(PROB)).max() < 0.15
    for ax in axes:
        for side in ("top", "right"):
            assert bars(ax, side) == [
                (b, starts[b], starts[b + 1], viz.block_color(b)) for b in range(3)
            ]
        assert {text.get_text() for text in ax.texts} == {"0", "1", "2"}
    rendered(axes)


def test_both_share_one_scale_and_order(planted):
    sbm, _, sampled = planted
    left, right = viz.plot_expected_and_sampled(sbm, sampled)
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, max(map(max, PROB)))
    assert left.images[0].cmap == right.images[0].cmap
    assert left.images[0].get_extent() == right.images[0].get_extent() == [0, 48, 48, 0]


def test_labels_and_density_are_written(planted):
    sbm, _, sampled = planted
    ax = viz.plot_sampled(sampled, sbm)
    assert ax.get_xlabel() == "key, sorted by block"
    assert ax.get_ylabel() == "query, sorted by block"
    density = 100 * float(sampled.density())
    assert ax.get_title(loc="left") == f"sampled, density {density:.3g} %\nblocks, strength 0.44"
    assert ax.figure.axes[1].get_ylabel() == "edge density"
    expected = viz.plot_expected(sbm)
    density = 100 * float(sbm.expected_density())
    assert (
        expected.get_title(loc="left")
        == f"expected, density {density:.3g} %\nblocks, strength 0.44"
    )


def test_natural_order_without_a_model(planted):
    _, _, sampled = planted
    ax = viz.plot_sampled(sampled)
    shown = gid(ax, "adjacency")[0].get_array()
    key, query = sampled.edges_of()
    assert shown.sum() == sampled.num_edges
    assert (shown[query, key] == 1).all()
    assert not bars(ax, "top")


def test_weights_take_the_place_of_ones(planted):
    _, _, sampled = planted
    weights = torch.linspace(0, 1, sampled.num_edges)
    ax = viz.plot_sampled(sampled, weights=weights)
    key, query = sampled.edges_of()
    np.testing.assert_allclose(gid(ax, "adjacency")[0].get_array()[query, key], weights)


@pytest.mark.parametrize("max_size", [12, 7])
def test_large_inputs_are_binned_and_say_so(planted, rendered, max_size):
    sbm, _, sampled = planted
    axes = viz.plot_expected_and_sampled(sbm, sampled, max_size=max_size)
    for ax in axes:
        assert ax.images[0].get_array().shape == (max_size, max_size)
        assert f"cells: means over {-(-48 // max_size)}×" in ax.get_title(loc="left")
        assert ax.images[0].get_extent() == [0, 48, 48, 0]
        assert bars(ax, "top")[-1][2] == 48
    rendered(axes)


def test_sixteen_thousand_tokens(rendered):
    sizes = (8192, 4096, 4096)
    sbm, _ = planted_sbm(sizes, prob=np.array(PROB) / 200)
    count = 200_000
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(16384, (2, count), generator=generator)
    sampled = SampledGraph.from_edge_index(edges, 16384, 16384)
    left, right = viz.plot_expected_and_sampled(sbm, sampled)
    assert left.images[0].get_array().shape == right.images[0].get_array().shape == (512, 512)
    assert left.images[0].get_array()[0, 0] == pytest.approx(0.8 / 200)
    rendered([left])
    rendered([viz.plot_bipartite(sampled, sbm)])
    rendered([viz.plot_memberships(sbm)])


def test_block_mass(planted, rendered):
    sbm, _, sampled = planted
    ax = viz.plot_block_mass(sbm, sampled)
    order = [int(label.get_text()) for label in ax.get_xticklabels()]
    mass = block_mass(sbm, sampled)
    np.testing.assert_allclose(ax.images[0].get_array(), mass[np.ix_(order, order)])
    assert (
        ax.get_title(loc="left") == f"sampled, {sampled.num_edges:,} edges\nblocks, strength 0.44"
    )
    rendered(ax)
    some = viz.plot_block_mass(sbm, max_blocks=2)
    assert "2 of 3 blocks" in some.get_title(loc="left")


def test_given_axes_are_used(planted):
    sbm, _, sampled = planted
    figure = Figure()
    ax = figure.subplots(1, 2)
    assert viz.plot_expected(sbm, ax=ax[0]) is ax[0]
    assert viz.plot_sampled(sampled, ax=ax[1]) is ax[1]
    pair = viz.plot_expected_and_sampled(sbm, sampled, ax=ax)
    assert list(pair) == list(ax)


def test_pictures_of_nothing(rendered):
    member = torch.rand(4, 1, 2)
    sbm = SBM(member, member, torch.zeros(1, 2, 2))
    empty = SampledGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 4, 4)
    axes = viz.plot_expected_and_sampled(sbm, empty)
    assert not axes[0].images[0].get_array().any()
    rendered(axes)
    none = SBM(member[:0], member[:0], torch.ones(1, 2, 2) / 4)
    nothing = SampledGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 0, 0)
    for ax in (viz.plot_expected(none), viz.plot_sampled(nothing, none)):
        assert [text.get_text() for text in ax.texts] == ["no tokens"]
        rendered(ax)
    rendered(viz.plot_expected_and_sampled(none, nothing))
    rendered(viz.plot_block_mass(none))


def test_one_block(rendered):
    sbm = SBM(torch.rand(5, 1, 1), torch.rand(5, 1, 1), torch.ones(1, 1, 1))
    rendered(viz.plot_expected_and_sampled(sbm, planted_graph(sbm)))
    rendered(viz.plot_block_mass(sbm))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda sbm, g: viz.plot_expected(sbm, head=1), r"'head' must be an integer in \[0, 1\)"),
        (lambda sbm, g: viz.plot_sampled(g, graph_index=4), "'graph_index' must be an integer"),
        (lambda sbm, g: viz.plot_sampled(g, by="x", sbm=sbm), "'by' must be one of"),
        (lambda sbm, g: viz.plot_sampled(g, vmax=0.0), "'vmax'"),
        (lambda sbm, g: viz.plot_expected(sbm, max_size=0), "'max_size'"),
        (lambda sbm, g: viz.plot_expected(sbm, ax=3), "'ax' must be a matplotlib Axes"),
        (lambda sbm, g: viz.plot_expected_and_sampled(sbm, g, ax=[1, 2]), "'ax' must hold 1×2"),
        (lambda sbm, g: viz.plot_expected(g), "'sbm' must be an SBM"),
        (lambda sbm, g: viz.plot_sampled(sbm), "'graph' must be a SampledGraph"),
    ],
)
def test_bad_arguments(planted, call, message):
    sbm, _, sampled = planted
    with pytest.raises(ValueError, match=message):
        call(sbm, sampled)
