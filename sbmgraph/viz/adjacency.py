"""Adjacency matrices: what a head expects beside what it sampled, sorted by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sbmgraph.analysis import (
    BinnedMatrix,
    BlockOrder,
    block_mass,
    block_order,
    block_share,
    expected_matrix,
    sampled_matrix,
)
from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.select import check_pair
from sbmgraph.analysis.strength import block_strength, describe_strength
from sbmgraph.checks import check_positive_int, check_range
from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM
from sbmgraph.viz.color import density_cmap
from sbmgraph.viz.style import (
    add_colorbar,
    blank,
    draw_block_bars,
    new_axes,
    new_grid,
    percent,
    set_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@accepts_old_names
def plot_sampled(
    graph: SampledGraph,
    sbm: SBM | None = None,
    head: int | None = 0,
    graph_index: int = 0,
    by: str = "membership",
    max_size: int = 512,
    vmax: float | None = None,
    weights: Tensor | None = None,
    colorbar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """The sampled adjacency matrix of one head on one graph: queries down, keys across.

    With ``sbm`` tokens are sorted by block, and bars in the blocks' colours bracket them. Above
    ``max_size`` tokens a cell is the density of a rectangle of pairs, and the title says so.

    Args:
        graph (SampledGraph): The sampled graphs.
        sbm (SBM, optional): Their block models. (default: tokens in natural order)
        head (int, optional): The head; without ``sbm`` :obj:`None` is the union of all heads.
            (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        by (str, optional): How tokens get their block, see
            :func:`sbmgraph.analysis.assign_blocks`. (default: :obj:`"membership"`)
        max_size (int, optional): The largest number of cells along a side. (default: :obj:`512`)
        vmax (float, optional): The value of the darkest colour. (default: the largest)
        weights (Tensor, optional): A value for every edge to show instead of 1, for instance
            attention weights, of shape :obj:`[E]`. (default: :obj:`None`)
        colorbar (bool, optional): Whether to draw one. (default: :obj:`True`)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If the head or the graph does not exist or an argument does not fit.
    """
    order = None
    if sbm is not None:
        check_pair(sbm, graph)
        order = block_order(sbm, head, graph_index, by)  # type: ignore[arg-type]
    matrix = sampled_matrix(
        graph,
        head,
        graph_index,
        None if order is None else order.query_order,
        None if order is None else order.key_order,
        max_size,
        weights,
    )
    label = "edge density" if weights is None else "mean weight of a pair"
    note = "" if sbm is None else blocks_note(sbm, head, graph_index)  # type: ignore[arg-type]
    return _draw(matrix, order, "sampled", label, vmax, colorbar, new_axes(ax), note)


@accepts_old_names
def plot_expected(
    sbm: SBM,
    head: int = 0,
    graph_index: int = 0,
    by: str = "membership",
    max_size: int = 512,
    vmax: float | None = None,
    exploration: float = 0.0,
    colorbar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """The edge probabilities of one head on one graph, like :func:`plot_sampled`.

    Args:
        sbm (SBM): The block models.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        by (str, optional): See :func:`plot_sampled`. (default: :obj:`"membership"`)
        max_size (int, optional): See :func:`plot_sampled`. (default: :obj:`512`)
        vmax (float, optional): See :func:`plot_sampled`. (default: the largest)
        exploration (float, optional): Added to every probability. (default: :obj:`0.0`)
        colorbar (bool, optional): Whether to draw one. (default: :obj:`True`)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If the head or the graph does not exist or an argument does not fit.
    """
    order = block_order(sbm, head, graph_index, by)
    matrix = expected_matrix(
        sbm, head, graph_index, order.query_order, order.key_order, max_size, exploration
    )
    note = blocks_note(sbm, head, graph_index)
    return _draw(matrix, order, "expected", "edge probability", vmax, colorbar, new_axes(ax), note)


@accepts_old_names
def plot_expected_and_sampled(
    sbm: SBM,
    graph: SampledGraph,
    head: int = 0,
    graph_index: int = 0,
    by: str = "membership",
    max_size: int = 512,
    exploration: float = 0.0,
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """Expectation and sample side by side, in the same order and on the same scale of colours.

    The darkest colour stands for the largest probability; single sampled edges lie above it.

    Args:
        sbm (SBM): The block models.
        graph (SampledGraph): The sampled graphs.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        by (str, optional): See :func:`plot_sampled`. (default: :obj:`"membership"`)
        max_size (int, optional): See :func:`plot_sampled`. (default: :obj:`512`)
        exploration (float, optional): The :math:`\\delta` that ``graph`` was drawn with.
            (default: :obj:`0.0`)
        ax (array of matplotlib.axes.Axes, optional): Two Axes. (default: a new figure)

    Returns:
        The two Axes.

    Raises:
        ValueError: If the head or the graph does not exist or an argument does not fit.
    """
    check_pair(sbm, graph)
    order = block_order(sbm, head, graph_index, by)
    orders = (order.query_order, order.key_order)
    expected = expected_matrix(sbm, head, graph_index, *orders, max_size, exploration)
    drawn = sampled_matrix(graph, head, graph_index, *orders, max_size=max_size)
    axes = new_grid(ax, 1, 2, cell=(4.4, 4.0)).ravel()
    vmax = float(expected.values.max(initial=0.0)) or 1.0
    if drawn.binned:
        vmax = max(vmax, float(np.quantile(drawn.values, 0.999)))
    note = blocks_note(sbm, head, graph_index)
    _draw(expected, order, "expected", "", vmax, False, axes[0], note)
    _draw(drawn, order, "sampled", "", vmax, False, axes[1], note)
    axes[1].set_ylabel("")
    if axes[1].images:
        extend = "neither" if drawn.binned else "max"
        label = "edge probability, density"
        add_colorbar(axes[1].images[0], list(axes), label, extend=extend, shrink=0.85)
    return axes


@accepts_old_names
def plot_block_mass(
    sbm: SBM,
    graph: SampledGraph | None = None,
    head: int = 0,
    graph_index: int = 0,
    max_blocks: int = 32,
    weights: Tensor | None = None,
    exploration: float = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Edge mass between blocks as a matrix, query blocks down and key blocks across, those with the
    largest expected share first. See :func:`sbmgraph.analysis.block_mass`.

    Args:
        sbm (SBM): The block models.
        graph (SampledGraph, optional): The sampled graphs. (default: the expectation)
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        max_blocks (int, optional): How many blocks to show. (default: :obj:`32`)
        weights (Tensor, optional): What every edge counts, of shape :obj:`[E]`. (default: one)
        exploration (float, optional): The :math:`\\delta` that ``graph`` was drawn with.
            (default: :obj:`0.0`)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If the head or the graph does not exist or an argument does not fit.
    """
    check_positive_int("max_blocks", max_blocks)
    mass = block_mass(sbm, graph, head, graph_index, weights=weights, exploration=exploration)
    shown = np.argsort(-block_share(sbm, head, graph_index), kind="stable")[:max_blocks]
    part = mass[np.ix_(shown, shown)]
    total = mass.sum()
    note = blocks_note(sbm, head, graph_index)
    if len(shown) < len(mass):
        covered = part.sum() / total if total > 0 else 0.0
        note += f"\n{len(shown)} of {len(mass)} blocks, {percent(covered)} of the mass"
    ax = new_axes(ax, (4.6, 4.0))
    image = ax.imshow(part, cmap=density_cmap(), vmin=0)
    positions = np.arange(len(shown))
    step = max(len(shown) // 16, 1)
    ax.set_xticks(positions[::step], [str(block) for block in shown[::step]], fontsize=7)
    ax.set_yticks(positions[::step], [str(block) for block in shown[::step]], fontsize=7)
    ax.set(xlabel="key block", ylabel="query block")
    add_colorbar(image, ax, "edges" if weights is None else "attention mass")
    kind = "expected" if graph is None else "sampled"
    unit = "edges" if weights is None else "attention"
    set_title(ax, f"{kind}, {total:,.0f} {unit}", note)
    return ax


def blocks_note(sbm: SBM, head: int, graph_index: int) -> str:
    """How much block structure a picture of blocks shows."""
    return describe_strength(float(block_strength(sbm)[graph_index, head]))


def _draw(
    matrix: BinnedMatrix,
    order: BlockOrder | None,
    kind: str,
    label: str,
    vmax: float | None,
    colorbar: bool,
    ax: Axes,
    note: str = "",
) -> Axes:
    num_queries, num_keys = int(matrix.query_edges[-1]), int(matrix.key_edges[-1])
    if matrix.values.size == 0:
        return blank(ax, kind, "no tokens")
    if vmax is None:
        vmax = float(matrix.values.max()) or 1.0
    check_range("vmax", vmax, 0.0, float("inf"), low_open=True)
    extent = (0, num_keys, num_queries, 0)
    image = ax.imshow(matrix.values, cmap=density_cmap(), vmin=0, vmax=vmax, extent=extent)
    image.set_gid("adjacency")
    suffix = ""
    if order is not None:
        suffix = ", sorted by block"
        draw_block_bars(ax, order.blocks, order.key_sizes, "top")
        draw_block_bars(ax, order.blocks, order.query_sizes, "right")
        _draw_borders(ax, order)
    ax.set(xlabel=f"key{suffix}", ylabel=f"query{suffix}")
    ax.tick_params(labelsize=7)
    ax.locator_params(nbins=5, integer=True)
    if colorbar:
        add_colorbar(image, ax, label, shrink=0.85)
    width = np.diff(matrix.query_edges).max(), np.diff(matrix.key_edges).max()
    if matrix.binned:
        note = "\n".join(filter(None, [note, f"cells: means over {width[0]}×{width[1]} pairs"]))
    density = _weighted_mean(matrix)
    set_title(ax, f"{kind}, density {percent(density)}", note, pad=15 if order is not None else 6)
    return ax


def _draw_borders(ax: Axes, order: BlockOrder) -> None:
    """Thin lines between blocks, unless they would hide what they part."""
    if not 1 < len(order.blocks) <= 16:
        return
    style: dict[str, Any] = {"color": "#bbbbbb", "linewidth": 0.5}
    for border in np.cumsum(order.query_sizes)[:-1]:
        ax.axhline(border, **style)
    for border in np.cumsum(order.key_sizes)[:-1]:
        ax.axvline(border, **style)


def _weighted_mean(matrix: BinnedMatrix) -> float:
    """The mean over all pairs."""
    rows, columns = np.diff(matrix.query_edges), np.diff(matrix.key_edges)
    return float(rows @ matrix.values @ columns / (rows.sum() * columns.sum()))
