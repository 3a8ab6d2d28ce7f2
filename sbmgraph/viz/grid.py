"""Small multiples: the same picture for every layer and head."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.runs import recorded_samples
from sbmgraph.checks import check_positive_int
from sbmgraph.record import LayerSample
from sbmgraph.viz.adjacency import plot_sampled
from sbmgraph.viz.style import blank, new_grid, set_title
from sbmgraph.viz.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Plot = Callable[..., object]


@accepts_old_names
def plot_grid(
    runs: Iterable[LayerSample],
    plot: Plot | None = None,
    graph_index: int = 0,
    max_layers: int = 8,
    max_heads: int = 8,
    cell: tuple[float, float] = (2.4, 2.5),
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """One picture for every layer (down) and head (across) on one graph; of a layer with several
    samples the first.

    Args:
        runs (iterable of LayerSample): What :func:`sbmgraph.record` recorded.
        plot (callable, optional): Called as ``plot(run, head, graph, ax)``.
            (default: the sampled matrix sorted by block)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        max_layers (int, optional): How many layers to show, the first. (default: :obj:`8`)
        max_heads (int, optional): How many heads to show, the first. (default: :obj:`8`)
        cell (tuple, optional): Width and height of a picture in inches.
        ax (array of matplotlib.axes.Axes, optional): Layers × heads. (default: a new figure)

    Returns:
        Axes of shape :obj:`[layers, heads]`.

    Raises:
        ValueError: If ``runs`` is empty, the graph does not exist or ``ax`` has another shape.
    """
    check_positive_int("max_layers", max_layers)
    check_positive_int("max_heads", max_heads)
    first: dict[str, LayerSample] = {}
    for run in recorded_samples(runs):
        first.setdefault(run.name, run)
    layers = list(first.values())
    heads = max(run.sbm.heads for run in layers)
    shown = layers[:max_layers]
    columns = min(heads, max_heads)
    axes = new_grid(ax, len(shown), columns, cell)
    plot = plot or _plot_sampled_cell
    for row, run in enumerate(shown):
        for head in range(columns):
            _plot_cell(plot, run, head, graph_index, axes[row, head], row == len(shown) - 1)
    if len(shown) < len(layers) or columns < heads:
        axes[0, 0].figure.suptitle(
            f"the first {len(shown)} of {len(layers)} layers and {columns} of {heads} heads",
            fontsize=9,
        )
    return axes


def _plot_cell(
    plot: Plot, run: LayerSample, head: int, graph_index: int, ax: Axes, last: bool
) -> None:
    if head >= run.sbm.heads:
        blank(ax, "", "no such head")
        return
    plot(run, head, graph_index, ax)
    set_title(ax, f"head {head}, {ax.get_title(loc='left')}", pad=15)
    ax.set_ylabel("" if head > 0 else f"{plain(run.name)}\n{ax.get_ylabel()}")
    if not last:
        ax.set_xlabel("")


def _plot_sampled_cell(run: LayerSample, head: int, graph_index: int, ax: Axes) -> None:
    plot_sampled(run.graph, run.sbm, head, graph_index, max_size=160, colorbar=False, ax=ax)
    title = ax.get_title(loc="left").replace("sampled, ", "").replace("cells: ", "")
    set_title(ax, title, pad=15)
