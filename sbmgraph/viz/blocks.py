"""Blocks: who belongs to them, and the graph they form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sbmgraph.analysis import block_order, block_share, memberships
from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.blocks import SIDES
from sbmgraph.analysis.matrix import bin_edges, bin_matrix, bin_means
from sbmgraph.analysis.select import biadjacency_matrix, check_pair, to_list
from sbmgraph.analysis.strength import describe_strength
from sbmgraph.checks import check_choice, check_positive_int, describe
from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM
from sbmgraph.viz.adjacency import blocks_note
from sbmgraph.viz.color import block_color, ink_on
from sbmgraph.viz.style import (
    FAINT,
    INK,
    MEMBERSHIP_CMAP,
    add_colorbar,
    blank,
    new_axes,
    percent,
    set_title,
)
from sbmgraph.viz.text import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    import networkx as nx
    from matplotlib.axes import Axes


@accepts_old_names
def plot_memberships(
    sbm: SBM,
    head: int = 0,
    graph_index: int = 0,
    side: str = "query",
    tokens: Sequence[Any] | None = None,
    sort: bool = False,
    max_blocks: int = 32,
    max_tokens: int = 1024,
    ax: Axes | None = None,
) -> Axes:
    """How strongly each token belongs to each block: blocks down, those with the largest share of
    the expected edges first, tokens across.

    Args:
        sbm (SBM): The block models.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        side (str, optional): :obj:`"query"` or :obj:`"key"` memberships.
            (default: :obj:`"query"`)
        tokens (sequence, optional): What stands at each position, written below up to 64 tokens.
            (default: :obj:`None`)
        sort (bool, optional): Whether tokens are sorted by block. (default: :obj:`False`)
        max_blocks (int, optional): How many blocks to show. (default: :obj:`32`)
        max_tokens (int, optional): Above this, columns are means over neighbouring tokens.
            (default: :obj:`1024`)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If the head or the graph does not exist or an argument does not fit.
    """
    check_choice("side", side, SIDES)
    check_positive_int("max_blocks", max_blocks)
    check_positive_int("max_tokens", max_tokens)
    member = memberships(sbm, head, graph_index)[SIDES.index(side)]
    if tokens is not None:
        tokens = to_list(f"'tokens' must hold {len(member)} tokens", tokens, len(member))
    ax = new_axes(ax, (7.0, 3.2))
    if not len(member):
        return blank(ax, f"{side} memberships", "no tokens")
    order = np.arange(len(member))
    if sort:
        order = getattr(block_order(sbm, head, graph_index), f"{side}_order")
    shown = np.argsort(-block_share(sbm, head, graph_index), kind="stable")[:max_blocks]
    edges = bin_edges(len(member), max_tokens)
    values = bin_means(member, "order", order, edges)[:, shown].T
    binned = len(edges) - 1 < len(member)
    highest = float(values.max()) if binned else 1.0
    extent = (0, len(member), len(shown), 0)
    image = ax.imshow(
        values, cmap=MEMBERSHIP_CMAP, vmin=0, vmax=highest, aspect="auto", extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    step = -(-len(shown) // 16)
    ax.set_yticks(np.arange(len(shown))[::step] + 0.5, shown[::step].tolist(), fontsize=7)
    for label, block in zip(ax.get_yticklabels(), shown[::step].tolist(), strict=True):
        color = block_color(block)
        label.set(color=ink_on(color), weight="bold")
        label.set_bbox({"facecolor": color, "edgecolor": "none", "pad": 1.4})
    if tokens is not None and len(tokens) <= 64:
        names = [plain(tokens[index]) for index in order.tolist()]
        ax.set_xticks(np.arange(len(tokens)) + 0.5, names, rotation=90, fontsize=7)
    else:
        ax.tick_params(axis="x", labelsize=7)
    ax.set(xlabel=f"{side}, sorted by block" if sort else side, ylabel="block")
    add_colorbar(image, ax, "membership")
    notes = [blocks_note(sbm, head, graph_index)]
    if len(shown) < sbm.num_clusters:
        notes.append(f"{len(shown)} of {sbm.num_clusters} blocks")
    if binned:
        notes.append(f"columns are means over {np.diff(edges).max()} tokens")
    set_title(ax, f"{side} memberships", ", ".join(notes))
    return ax


def plot_block_graph(
    graph: nx.DiGraph, max_blocks: int = 16, max_edges: int = 120, ax: Axes | None = None
) -> Axes:
    """The graph of the blocks: areas are shares of the edge mass, arrows run from key block to
    query block, as wide as their mass.

    Args:
        graph (networkx.DiGraph): Of :func:`sbmgraph.analysis.block_graph`.
        max_blocks (int, optional): How many blocks to show, those with the largest share.
            (default: :obj:`16`)
        max_edges (int, optional): How many arrows to show, the heaviest. (default: :obj:`120`)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If ``graph`` is no block graph.
    """
    import networkx as nx

    expected = "'graph' must be a block graph, as sbmgraph.analysis.block_graph returns"
    if not isinstance(graph, nx.DiGraph):
        raise ValueError(f"{expected}, got {describe(graph)}")
    share = nx.get_node_attributes(graph, "share")
    if len(share) != graph.number_of_nodes():
        raise ValueError(f"{expected}, got nodes without a share")
    check_positive_int("max_blocks", max_blocks)
    check_positive_int("max_edges", max_edges)
    ax = new_axes(ax, (4.8, 4.8))
    total = sum(weight for *_, weight in graph.edges(data="weight"))
    title = f"blocks, {total:,.0f} edges"
    if not total:
        return blank(ax, title, "no edges")
    blocks = sorted(share, key=lambda block: (-share[block], block))[:max_blocks]
    blocks = sorted(block for block in blocks if share[block] > 0)
    part = graph.subgraph(blocks)
    arrows = sorted(part.edges(data="weight"), key=lambda edge: -edge[2])[:max_edges]
    position = nx.circular_layout(blocks) if len(blocks) > 1 else {blocks[0]: np.zeros(2)}
    size = np.array([2600 * share[block] + 170 for block in blocks])
    nx.draw_networkx_nodes(
        part, position, nodelist=blocks, node_size=size, edgecolors="white", ax=ax,
        node_color=[block_color(block) for block in blocks],
    )  # fmt: skip
    heaviest = arrows[0][2] if arrows else 1.0
    for source, target, weight in reversed(arrows):
        strength = weight / heaviest
        nx.draw_networkx_edges(
            part, position, edgelist=[(source, target)], nodelist=blocks, node_size=size, ax=ax,
            width=0.3 + 4 * strength, alpha=0.25 + 0.6 * strength,
            edge_color=block_color(source), connectionstyle="arc3,rad=0.12",
            arrowsize=6 + 6 * strength,
        )  # fmt: skip
    for block in blocks:
        ax.annotate(
            str(block), tuple(position[block]), ha="center", va="center_baseline", fontsize=7,
            color=ink_on(block_color(block)), weight="bold", zorder=5,
        )  # fmt: skip
    ax.set_axis_off()
    ax.margins(0.14)
    ax.set_aspect("equal")
    drawn = sum(weight for *_, weight in arrows)
    note = "arrows run from key block to query block"
    if "strength" in graph.graph:
        note = f"{describe_strength(graph.graph['strength'])}\n{note}"
    if drawn < total * (1 - 1e-9):
        note += (
            f"\n{len(blocks)} of {graph.number_of_nodes()} blocks and {len(arrows)} arrows, "
            f"{percent(drawn / total)} of the mass"
        )
    set_title(ax, title, note)
    return ax


@accepts_old_names
def plot_bipartite(
    graph: SampledGraph,
    sbm: SBM | None = None,
    head: int = 0,
    graph_index: int = 0,
    by: str = "membership",
    tokens: Sequence[Any] | None = None,
    max_nodes: int = 64,
    max_edges: int = 2000,
    ax: Axes | None = None,
) -> Axes:
    """The sampled graph as two columns, keys left and queries right, sorted and coloured by block;
    edges take the colour of their key's block.

    Above ``max_nodes`` tokens on a side a node is a group of tokens of one block, and an edge the
    density between two groups.

    Args:
        graph (SampledGraph): The sampled graphs.
        sbm (SBM, optional): Their block models. (default: tokens in natural order, one colour)
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        by (str, optional): How tokens get their block, see
            :func:`sbmgraph.analysis.assign_blocks`. (default: :obj:`"membership"`)
        tokens (sequence, optional): What stands at each position, written beside the nodes where
            there are no groups. (default: :obj:`None`)
        max_nodes (int, optional): How many nodes a side has at most, or a few more where blocks are
            many. (default: :obj:`64`)
        max_edges (int, optional): How many edges between groups to draw, the densest.
            (default: :obj:`2000`)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If the head or the graph does not exist or an argument does not fit.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    check_positive_int("max_nodes", max_nodes)
    check_positive_int("max_edges", max_edges)
    if sbm is not None:
        check_pair(sbm, graph)
    matrix = biadjacency_matrix(graph, head, graph_index)
    ax = new_axes(ax, (4.2, 5.6))
    title = f"sampled, {matrix.nnz:,} edges"
    if 0 in matrix.shape:
        return blank(ax, title, "no tokens")
    sides = _sides(matrix.shape, sbm, head, graph_index, by, max_nodes)
    (query_order, query_edges, query_block), (key_order, key_edges, key_block) = sides
    groups = bin_matrix(matrix, query_edges, key_edges, query_order, key_order)
    row, col = np.nonzero(groups.values)
    number = len(row)
    if groups.binned:
        densest = np.argsort(-groups.values[row, col], kind="stable")[:max_edges]
        row, col = row[densest], col[densest]
    density = groups.values[row, col]
    height = [_centres(edges) for edges in (query_edges, key_edges)]
    lines = np.stack(
        [
            np.stack([np.zeros(len(row)), height[1][col]], axis=1),
            np.stack([np.ones(len(row)), height[0][row]], axis=1),
        ],
        axis=1,
    )
    opacity = np.clip(25 / max(len(row), 1) ** 0.5, 0.12, 0.7)
    faint = density / density.max() if len(density) else density
    colors = np.array([to_rgba(block_color(block)) for block in key_block])[col]
    colors[:, 3] = opacity * (0.05 + 0.95 * faint) if groups.binned else opacity
    strongest_last = np.argsort(density, kind="stable")
    edges = LineCollection(
        list(lines[strongest_last]), colors=colors[strongest_last], linewidths=0.9
    )
    edges.set_gid("edges")
    ax.add_collection(edges)
    for x, heights, block, kind in (
        (0, height[1], key_block, "keys"),
        (1, height[0], query_block, "queries"),
    ):
        size = np.clip(1200 / len(heights), 8, 60)
        nodes = ax.scatter(
            np.full(len(heights), x), heights, s=size, zorder=3, edgecolors="white", linewidths=0.3,
            c=[block_color(b) for b in block],
        )  # fmt: skip
        nodes.set_gid(kind)
    if tokens is not None and not groups.binned:
        _write_tokens(ax, tokens, key_order, height[1], 0, "key")
        _write_tokens(ax, tokens, query_order, height[0], 1, "query")
    ax.set(xlim=(-0.35, 1.35), ylim=(1.02, -0.06))
    ax.text(0, -0.03, "keys", ha="center", fontsize=8, color=INK)
    ax.text(1, -0.03, "queries", ha="center", fontsize=8, color=INK)
    ax.set_axis_off()
    note = "" if sbm is None else blocks_note(sbm, head, graph_index)
    if groups.binned:
        note += "\n" * bool(note) + (
            f"{matrix.shape[1]:,} keys in {len(key_edges) - 1} groups, "
            f"{matrix.shape[0]:,} queries in {len(query_edges) - 1}"
        )
        if len(row) < number:
            note += f"\nthe densest {len(row):,} of {number:,} pairs of groups"
    set_title(ax, title, note)
    return ax


def _sides(
    shape: tuple[int, int], sbm: SBM | None, head: int, graph_index: int, by: str, max_nodes: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For queries and keys: the order, where groups start, and the block of each group."""
    if sbm is None:
        edges = [bin_edges(size, max_nodes) for size in shape]
        return [(np.arange(e[-1]), e, np.zeros(len(e) - 1, dtype=int)) for e in edges]
    order = block_order(sbm, head, graph_index, by)
    out = []
    for size, tokens, sizes in zip(
        shape,
        (order.query_order, order.key_order),
        (order.query_sizes, order.key_sizes),
        strict=True,
    ):
        groups = np.minimum(sizes, -(-sizes * max_nodes // max(size, 1)))
        parts = zip(sizes[sizes > 0], groups[sizes > 0], strict=True)
        width = np.concatenate([np.diff(bin_edges(*part)) for part in parts])
        out.append((tokens, np.append(0, np.cumsum(width)), np.repeat(order.blocks, groups)))
    return out


def _centres(edges: np.ndarray) -> np.ndarray:
    """The middle of each group, from 0 at the top to 1."""
    return (edges[:-1] + edges[1:]) / 2 / edges[-1]


def _write_tokens(
    ax: Axes, tokens: Sequence[Any], order: np.ndarray, heights: np.ndarray, x: int, kind: str
) -> None:
    expected = f"'tokens' must hold one token for each {kind}, {len(order)}"
    tokens = to_list(expected, tokens, len(order))
    side, shift = ("right", -0.04) if x == 0 else ("left", 0.04)
    for index, height in zip(order.tolist(), heights, strict=True):
        ax.text(
            x + shift, height, plain(tokens[index]), ha=side, va="center_baseline", color=FAINT,
            fontsize=float(np.clip(300 / len(order), 4, 8)),
        )  # fmt: skip
