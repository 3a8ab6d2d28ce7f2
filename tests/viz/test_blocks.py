from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch

from sbmgraph import SBM, SampledGraph, viz
from sbmgraph.analysis import block_graph
from tests.planted import SIZES, planted_graph, planted_sbm


def gid(ax, name):
    (artist,) = [child for child in ax.get_children() if child.get_gid() == name]
    return artist


def test_memberships_of_planted_tokens(planted, rendered):
    sbm, blocks, _ = planted
    ax = viz.plot_memberships(sbm)
    order = [int(label.get_text()) for label in ax.get_yticklabels()]
    assert sorted(order) == [0, 1, 2]
    shown = ax.images[0].get_array()
    np.testing.assert_array_equal(np.array(order)[shown.argmax(axis=0)], blocks)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("query", "block")
    for label in ax.get_yticklabels():
        face = label.get_bbox_patch().get_facecolor()
        assert to_hex(face) == viz.block_color(int(label.get_text()))
    sorted_ax = viz.plot_memberships(sbm, side="key", sort=True)
    blocks_shown = np.array(order)[sorted_ax.images[0].get_array().argmax(axis=0)]
    np.testing.assert_array_equal(blocks_shown, np.repeat([0, 1, 2], SIZES))
    rendered(ax)


def test_memberships_write_tokens_and_say_what_they_leave_out(planted):
    sbm, _, _ = planted
    tokens = [f"w{i}" for i in range(48)]
    ax = viz.plot_memberships(sbm, tokens=tokens)
    assert [label.get_text() for label in ax.get_xticklabels()] == tokens
    few = viz.plot_memberships(sbm, max_blocks=2, max_tokens=10)
    assert few.images[0].get_array().shape == (2, 10)
    title = few.get_title(loc="left")
    assert "2 of 3 blocks" in title
    assert "columns are means over 5 tokens" in title


def test_block_graph_draws_nodes_and_arrows_of_the_data(planted, rendered):
    sbm, _, sampled = planted
    graph = block_graph(sbm, sampled)
    ax = viz.plot_block_graph(graph)
    (nodes,) = ax.collections
    assert [to_hex(color) for color in nodes.get_facecolors()] == [
        viz.block_color(b) for b in range(3)
    ]
    sizes = nodes.get_sizes()
    shares = [graph.nodes[block]["share"] for block in range(3)]
    assert np.array_equal(np.argsort(sizes), np.argsort(shares))
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == graph.number_of_edges()
    source = max(graph.edges(data="weight"), key=lambda edge: edge[2])[0]
    widest = max(arrows, key=lambda arrow: arrow.get_linewidth())
    assert to_hex(widest.get_edgecolor()) == viz.block_color(source)
    assert {text.get_text() for text in ax.texts} == {"0", "1", "2"}
    assert f"blocks, {sampled.num_edges:,} edges" in ax.get_title(loc="left")
    rendered(ax)


def test_block_graph_says_what_it_leaves_out(rendered):
    sbm = SBM(torch.rand(50, 1, 30), torch.rand(50, 1, 30), torch.rand(1, 30, 30) / 900)
    ax = viz.plot_block_graph(block_graph(sbm), max_blocks=5, max_edges=7)
    assert "5 of 30 blocks and 7 arrows" in ax.get_title(loc="left")
    assert len(ax.texts) == 5
    rendered(ax)


def test_bipartite_draws_every_edge_from_key_to_query(rendered):
    sbm, blocks = planted_sbm(sizes=(8, 5, 3))
    sampled = planted_graph(sbm)
    tokens = [f"t{i}" for i in range(16)]
    ax = viz.plot_bipartite(sampled, sbm, tokens=tokens)
    segments = gid(ax, "edges").get_segments()
    assert len(segments) == sampled.num_edges
    heights = {}
    for name in ("keys", "queries"):
        nodes = gid(ax, name)
        heights[name] = nodes.get_offsets()[:, 1]
        colors = [to_hex(color) for color in nodes.get_facecolors()]
        assert colors == [viz.block_color(b) for b in np.repeat([0, 1, 2], (8, 5, 3))]
    left = [text for text in ax.texts if text.get_ha() == "right"]
    key_at = {round(text.get_position()[1], 9): text.get_text() for text in left}
    right = [text for text in ax.texts if text.get_ha() == "left"]
    query_at = {round(text.get_position()[1], 9): text.get_text() for text in right}
    drawn = set()
    for (x0, y0), (x1, y1) in segments:
        assert (x0, x1) == (0, 1)
        drawn.add((key_at[round(y0, 9)], query_at[round(y1, 9)]))
    assert drawn == {(f"t{j}", f"t{i}") for j, i in sampled.edges_of().T.tolist()}
    assert [blocks[int(text.get_text()[1:])] for text in left] == sorted(blocks)
    rendered(ax)


def test_bipartite_groups_are_of_one_block(planted, rendered):
    sbm, _, sampled = planted
    ax = viz.plot_bipartite(sampled, sbm, max_nodes=12, max_edges=20)
    assert len(gid(ax, "keys").get_offsets()) == 12
    colors = [to_hex(color) for color in gid(ax, "keys").get_facecolors()]
    assert colors == [viz.block_color(b) for b in np.repeat([0, 1, 2], (6, 4, 2))]
    title = ax.get_title(loc="left")
    assert "48 keys in 12 groups" in title
    assert "the densest 20 of" in title
    assert len(gid(ax, "edges").get_segments()) == 20
    rendered(ax)


def test_pictures_of_nothing(rendered):
    empty = SampledGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 3, 3)
    rendered(viz.plot_bipartite(empty))
    nothing = SampledGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 0, 0)
    none = SBM(torch.rand(0, 1, 2), torch.rand(0, 1, 2), torch.ones(1, 2, 2))
    for ax, message in (
        (viz.plot_bipartite(nothing), "no tokens"),
        (viz.plot_memberships(none), "no tokens"),
        (viz.plot_block_graph(block_graph(none)), "no edges"),
    ):
        assert [text.get_text() for text in ax.texts] == [message]
        rendered(ax)


def test_one_block(rendered):
    sbm = SBM(torch.rand(5, 1, 1), torch.rand(5, 1, 1), torch.ones(1, 1, 1))
    rendered(viz.plot_block_graph(block_graph(sbm)))
    rendered(viz.plot_bipartite(planted_graph(sbm), sbm))
    rendered(viz.plot_memberships(sbm))


def test_colors_of_blocks_are_distinct_and_fixed():
    colors = [viz.block_color(block) for block in range(128)]
    assert len(set(colors)) == 128
    assert colors[0] == viz.block_color(0)
    with pytest.raises(ValueError, match="'block' must be at least 0"):
        viz.block_color(-1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda sbm, g: viz.plot_memberships(sbm, side="left"), "'side' must be one of"),
        (lambda sbm, g: viz.plot_memberships(sbm, tokens=["a"]), "'tokens' must hold 48 tokens"),
        (
            lambda sbm, g: viz.plot_block_graph(nx.DiGraph([(0, 1)])),
            "'graph' must be a block graph",
        ),
        (lambda sbm, g: viz.plot_block_graph(nx.Graph()), "'graph' must be a block graph"),
        (lambda sbm, g: viz.plot_bipartite(g, tokens=["a"]), "'tokens' must hold one token"),
        (lambda sbm, g: viz.plot_bipartite(g, head=3), "'head' must be an integer"),
    ],
)
def test_bad_arguments(planted, call, message):
    sbm, _, sampled = planted
    with pytest.raises(ValueError, match=message):
        call(sbm, sampled)


@pytest.mark.parametrize("wrong", [None, 3, "x", torch.ones(2), nx.Graph()])
def test_what_is_no_block_graph_is_named(wrong):
    with pytest.raises(ValueError, match=r"'graph' must be a block graph, .*, got "):
        viz.plot_block_graph(wrong)
