"""Density: by head, over training, over inputs and against their length; degrees and reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sbmgraph.analysis import degrees, expected_degrees
from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.matrix import bin_edges, bin_means
from sbmgraph.analysis.select import as_weights, check_pair
from sbmgraph.analysis.tables import check_table
from sbmgraph.checks import check_choice, check_positive_int
from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM
from sbmgraph.viz.color import density_cmap
from sbmgraph.viz.style import (
    EXPECTED_COLOR,
    INK,
    SAMPLED_COLOR,
    add_colorbar,
    blank,
    despine,
    new_axes,
    set_title,
)
from sbmgraph.viz.text import plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

TABLE = ("layer", "head", "graph", "expected", "sampled")


def plot_density_by_head(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Density of each head of each layer: a faint dot for every sampled graph, their mean, and the
    mean expectation.

    Args:
        table (DataFrame): :func:`sbmgraph.analysis.density_table`.
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If ``table`` lacks a column.
    """
    check_table(table, TABLE)
    heads = list(table.groupby(["layer", "head"], sort=False))
    ax = new_axes(ax, (max(3.2, 0.5 * len(heads) + 1.5), 3.2))
    if not heads:
        return blank(ax, "density by head", "no recorded graphs")
    for x, (_, part) in enumerate(heads):
        jitter = np.random.default_rng(x).uniform(-0.18, 0.18, len(part))
        label = "one graph" if x == 0 else None
        ax.scatter(
            x + jitter, part["sampled"], s=9, alpha=0.35, color=SAMPLED_COLOR, lw=0, label=label
        )
    positions = np.arange(len(heads))
    means = {name: [part[name].mean() for _, part in heads] for name in ("expected", "sampled")}
    ax.scatter(
        positions, means["expected"], marker="_", s=380, lw=2, color=EXPECTED_COLOR, zorder=4,
        label="expected, mean",
    )  # fmt: skip
    ax.scatter(
        positions, means["sampled"], s=34, zorder=3, color=SAMPLED_COLOR, label="sampled, mean"
    )
    _label_heads(ax, [(plain(layer), int(head)) for (layer, head), _ in heads])
    _density_axis(ax)
    ax.legend(fontsize=7, frameon=False, loc="best")
    num_graphs = table["graph"].nunique()
    set_title(ax, "density by head", f"{num_graphs:,} input{'s' if num_graphs > 1 else ''}")
    return ax


def plot_density_by_input(
    table: pd.DataFrame, value: str = "sampled", max_inputs: int = 256, ax: Axes | None = None
) -> Axes:
    """Density of every head (down) on every input (across); the mean over samples.

    Args:
        table (DataFrame): :func:`sbmgraph.analysis.density_table`.
        value (str, optional): The column to show. (default: :obj:`"sampled"`)
        max_inputs (int, optional): Above this, columns are means over neighbouring inputs.
            (default: :obj:`256`)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If ``table`` lacks a column.
    """
    check_table(table, (*TABLE, value))
    check_positive_int("max_inputs", max_inputs)
    if table.empty:
        return blank(new_axes(ax), "density by input", "no recorded graphs")
    wide = table.pivot_table(
        index=["layer", "head"], columns="graph", values=value, aggfunc="mean", sort=False
    ).sort_index(axis=1)
    ax = new_axes(ax, (6.0, 0.3 * len(wide) + 1.4))
    edges = bin_edges(wide.shape[1], max_inputs)
    values = bin_means(wide.to_numpy().T, "order", None, edges).T
    image = ax.imshow(
        values, cmap=density_cmap(), vmin=0, aspect="auto", interpolation="nearest",
        extent=(-0.5, wide.shape[1] - 0.5, len(wide) - 0.5, -0.5),
    )  # fmt: skip
    ax.set_yticks(np.arange(len(wide)), [plain(f"{layer} · {head}") for layer, head in wide.index])
    ax.tick_params(labelsize=7)
    ax.locator_params(axis="x", integer=True)
    ax.set(xlabel="input", ylabel="layer · head")
    add_colorbar(image, ax, plain(f"{value} density"))
    note = ""
    if len(edges) - 1 < wide.shape[1]:
        note = f"columns are means over {np.diff(edges).max()} inputs"
    set_title(ax, "density by input", note)
    return ax


def plot_density_by_length(
    table: pd.DataFrame, value: str = "sampled", max_points: int = 2000, ax: Axes | None = None
) -> Axes:
    """Density against the number of keys, one colour for each layer and head. Above ``max_points``
    graphs a head is drawn by means over bins of length.

    Args:
        table (DataFrame): :func:`sbmgraph.analysis.density_table`.
        value (str, optional): The column to show. (default: :obj:`"sampled"`)
        max_points (int, optional): How many points to draw one by one. (default: :obj:`2000`)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If ``table`` lacks a column.
    """
    check_table(table, (*TABLE, "num_keys", value))
    check_positive_int("max_points", max_points)
    ax = new_axes(ax, (5.0, 3.4))
    if table.empty:
        return blank(ax, "density against length", "no recorded graphs")
    binned = len(table) > max_points
    heads = list(table.groupby(["layer", "head"], sort=False))
    for ((layer, head), part), color in zip(heads, _series_colors(len(heads)), strict=True):
        points = part[["num_keys", value]].to_numpy(dtype=np.float64)
        points = points[np.argsort(points[:, 0], kind="stable")]
        if binned:
            points = bin_means(points, "order", None, bin_edges(len(points), 40))
        ax.plot(
            points[:, 0], points[:, 1], color=color, label=plain(f"{layer} · {head}"), marker="o",
            ms=3.5, alpha=0.7, lw=1.0 if binned else 0,
        )  # fmt: skip
    ax.set_xlabel("length (tokens)")
    _density_axis(ax)
    _legend(ax, len(heads))
    set_title(
        ax, "density against length", "points are means over bins of length" if binned else ""
    )
    return ax


def plot_density_history(
    history: pd.DataFrame, value: str = "density", ax: Axes | None = None
) -> Axes:
    """Density over training, one line for each layer and head.

    Args:
        history (DataFrame): Columns ``step``, the ``value``, and where known ``layer`` and
            ``head``.
        value (str, optional): The column to show. (default: :obj:`"density"`)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If ``history`` lacks a column.
    """
    check_table(history, ("step", value), "history")
    ax = new_axes(ax, (5.4, 3.2))
    if history.empty:
        return blank(ax, "density over training", "no steps")
    by = [key for key in ("layer", "head") if key in history.columns]
    groups = list(history.groupby(by, sort=False)) if by else [((), history)]
    for (key, part), color in zip(groups, _series_colors(len(groups)), strict=True):
        part = part.sort_values("step")
        label = plain(" · ".join(str(piece) for piece in key))
        marker = "o" if len(part) < 3 else None
        ax.plot(part["step"], part[value], lw=1.4, color=color, label=label, marker=marker)
    ax.set_xlabel("step")
    _density_axis(ax)
    if by:
        _legend(ax, len(groups))
    set_title(ax, "density over training")
    return ax


@accepts_old_names
def plot_degrees(
    graph: SampledGraph,
    sbm: SBM | None = None,
    head: int = 0,
    graph_index: int = 0,
    side: str = "query",
    bins: int = 40,
    ax: Axes | None = None,
) -> Axes:
    """The distribution of degrees on one side of a sampled graph, and with ``sbm`` that of the
    expected degrees as an outline.

    Args:
        graph (SampledGraph): The sampled graphs.
        sbm (SBM, optional): Their block models. (default: :obj:`None`)
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        side (str, optional): :obj:`"query"` (keys attended to) or :obj:`"key"` (queries attending).
            (default: :obj:`"query"`)
        bins (int, optional): The number of bins. (default: :obj:`40`)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If the head or the graph does not exist or an argument does not fit.
    """
    check_choice("side", side, ("query", "key"))
    check_positive_int("bins", bins)
    index = 0 if side == "query" else 1
    degree = degrees(graph, head, graph_index)[index]
    ax = new_axes(ax, (4.6, 3.0))
    title = f"{side} degrees"
    if not degree.size:
        return blank(ax, title, "no tokens")
    highest = int(degree.max())
    width = max(-(-(highest + 1) // bins), 1)
    edges = np.arange(0, highest + width + 1, width) - 0.5
    ax.hist(degree, edges.tolist(), color=SAMPLED_COLOR, alpha=0.65, label="sampled")
    if sbm is not None:
        check_pair(sbm, graph)
        expected = expected_degrees(sbm, head, graph_index)[index]
        last = max(float(expected.max()), edges[-1])
        edges = np.arange(edges[0], last + width, width)
        ax.hist(
            expected,
            edges.tolist(),
            histtype="step",
            color=EXPECTED_COLOR,
            lw=1.4,
            label="expected",
        )
        ax.legend(fontsize=7, frameon=False)
    other = "keys" if side == "query" else "queries"
    ax.set(xlabel=f"{other} per {side}", ylabel="tokens")
    ax.tick_params(labelsize=7)
    despine(ax)
    set_title(ax, title, f"mean {degree.mean():.3g}" + (f", bins of {width}" if width > 1 else ""))
    return ax


def plot_reach(counts: np.ndarray, ax: Axes | None = None) -> Axes:
    """How many tokens a token can see after each layer: median, and the range over the tokens.

    Args:
        counts (array): Of :func:`sbmgraph.analysis.reach`, of shape :obj:`[layers + 1, n]`.
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If ``counts`` is no matrix.
    """
    counts = as_weights("counts", counts)
    if counts.ndim != 2:
        raise ValueError(f"'counts' must have shape [layers + 1, n], got {list(counts.shape)}")
    ax = new_axes(ax, (4.2, 3.0))
    if not counts.size:
        return blank(ax, "reach", "no tokens")
    share = counts / counts.shape[1]
    layer = np.arange(len(counts))
    ax.fill_between(
        layer, share.min(axis=1), share.max(axis=1), color=EXPECTED_COLOR, alpha=0.2, lw=0,
        label="all tokens",
    )  # fmt: skip
    ax.plot(layer, np.median(share, axis=1), "o-", color=EXPECTED_COLOR, label="median")
    ax.set(xlabel="layers", ylabel="tokens seen", ylim=(0, 1.03))
    ax.locator_params(axis="x", integer=True)
    _percent(ax)
    despine(ax)
    ax.legend(fontsize=7, frameon=False, loc="lower right")
    set_title(ax, "reach", f"{counts.shape[1]:,} tokens")
    return ax


def _density_axis(ax: Axes) -> None:
    ax.set_ylabel("density (share of all pairs)")
    ax.set_ylim(bottom=0)
    ax.margins(y=0.1)
    ax.tick_params(labelsize=7)
    _percent(ax)
    despine(ax)


def _percent(ax: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def _label_heads(ax: Axes, keys: list[tuple[str, int]]) -> None:
    """Heads as ticks; every layer's name once, under the first of its heads."""
    previous = None
    labels = []
    for layer, head in keys:
        labels.append(f"{head}\n{layer}" if layer != previous else f"{head}")
        previous = layer
    ax.set_xticks(
        np.arange(len(keys)), labels, fontsize=7, ha="left" if len(keys) > 8 else "center"
    )
    ax.set_xlabel("head, by layer")


def _series_colors(number: int) -> list:
    """Evenly spaced perceptually uniform colours, in the order of layers and heads."""
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0.05, 0.85, number)))


def _legend(ax: Axes, number: int) -> None:
    if number > 16:
        ax.text(
            0.99, 0.97, f"{number} heads, first layer dark, last light", transform=ax.transAxes,
            ha="right", va="top", fontsize=7, color=INK,
        )  # fmt: skip
        return
    ax.legend(
        title="layer · head",
        fontsize=7,
        title_fontsize=7,
        frameon=False,
        ncols=1 + number // 9,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
