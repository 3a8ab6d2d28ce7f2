"""The input itself, with what a chosen query sampled: texts, token sequences and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sbmgraph.analysis import biadjacency_matrix, neighbour_weights
from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.select import as_weights
from sbmgraph.checks import check_positive_int
from sbmgraph.graph import SampledGraph
from sbmgraph.viz.style import INK, SAMPLED_COLOR, blank, new_axes, percent, set_title
from sbmgraph.viz.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUERY_COLOR = "#00a0b0"


@accepts_old_names
def plot_token_neighbours(
    tokens: Sequence[Any],
    graph: SampledGraph,
    node: int,
    head: int = 0,
    graph_index: int = 0,
    side: str = "query",
    weights: Tensor | None = None,
    columns: int = 88,
    max_tokens: int = 600,
    ax: Axes | None = None,
) -> Axes:
    """A sequence, wrapped like text, with a token's neighbours marked.

    Above ``max_tokens`` every token is a cell without its text, in reading order.

    Args:
        tokens (sequence): What stands at each position.
        graph (SampledGraph): The sampled graphs.
        node (int): The token whose neighbours to mark; it is framed.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        side (str, optional): With :obj:`"query"` marks the keys that ``node`` attends to, with
            :obj:`"key"` the queries that attend to it. (default: :obj:`"query"`)
        weights (Tensor, optional): A value for every edge that sets how strongly a neighbour is
            marked, for instance its attention weight, of shape :obj:`[E]`. (default: all alike)
        columns (int, optional): Characters in a line. (default: :obj:`88`)
        max_tokens (int, optional): How many tokens are written out. (default: :obj:`600`)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If the token, the head or the graph does not exist or an argument does not fit.
    """
    check_positive_int("columns", columns)
    check_positive_int("max_tokens", max_tokens)
    strength, title = _strength(graph, node, head, graph_index, side, weights)
    other = len(strength)
    if len(tokens) < other or len(tokens) <= node:
        raise ValueError(f"'tokens' must hold {max(other, node + 1)} tokens, got {len(tokens)}")
    if len(tokens) > max_tokens:
        return _token_cells(strength, len(tokens), node, title, new_axes(ax, (6.0, 4.0)))
    texts = [plain(token) for token in tokens]
    lengths = [len(str(token)) for token in tokens]
    places = _wrap(lengths, columns)
    lines = places[-1][1] + 1 if places else 1
    ax = new_axes(ax, (0.085 * columns + 0.4, 0.2 * lines + 0.7))
    from matplotlib.patches import Rectangle

    for index, (text, (x, y)) in enumerate(zip(texts, places, strict=True)):
        marked = float(strength[index]) if index < other else 0.0
        width = max(lengths[index], 1)
        if marked > 0 or index == node:
            box = Rectangle(
                (x - 0.3, y - 0.45), width + 0.6, 0.9,
                facecolor=(*_rgb(SAMPLED_COLOR), 0.7 * marked),
                edgecolor=QUERY_COLOR if index == node else "none", lw=1.6,
                zorder=2 if index == node else 1,
            )  # fmt: skip
            box.set_gid(f"token-{index}")
            ax.add_patch(box)
        weight = "bold" if index == node else "normal"
        ax.text(
            x + width / 2, y, text, ha="center", va="center_baseline", family="monospace",
            fontsize=8, weight=weight, color=INK, clip_on=True, zorder=3,
        )  # fmt: skip
    ax.set(xlim=(-1, columns + 1), ylim=(lines - 0.3, -0.7))
    ax.set_axis_off()
    set_title(ax, title)
    return ax


@accepts_old_names
def plot_image_neighbours(
    image: np.ndarray | Tensor,
    graph: SampledGraph,
    node: int,
    head: int = 0,
    graph_index: int = 0,
    side: str = "query",
    weights: Tensor | None = None,
    ax: Axes | None = None,
) -> Axes:
    """An image with the pixels that a chosen pixel attends to over it.

    Args:
        image (array or Tensor): Grey or colour, of shape :obj:`[height, width]` or
            :obj:`[height, width, 3]`; the tokens are its pixels row by row.
        graph (SampledGraph): The sampled graphs.
        node (int): The pixel, row · width + column; it is framed.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        side (str, optional): See :func:`plot_token_neighbours`. (default: :obj:`"query"`)
        weights (Tensor, optional): See :func:`plot_token_neighbours`. (default: all alike)
        ax (matplotlib.axes.Axes, optional): Where to draw. (default: a new figure)

    Raises:
        ValueError: If the pixel, the head or the graph does not exist or ``image`` does not fit.
    """
    picture = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    strength, title = _strength(graph, node, head, graph_index, side, weights)
    if picture.ndim not in (2, 3) or picture.shape[0] * picture.shape[1] != len(strength):
        raise ValueError(
            f"'image' must have shape [height, width] or [height, width, 3] with {len(strength)} "
            f"pixels, got shape {list(picture.shape)}"
        )
    height, width = picture.shape[:2]
    ax = new_axes(ax, (4.2, 4.4))
    ax.imshow(picture, cmap="gray", interpolation="nearest")
    overlay = np.zeros((height, width, 4))
    overlay[..., :3] = _rgb(SAMPLED_COLOR)
    overlay[..., 3] = 0.72 * strength.reshape(height, width)
    ax.imshow(overlay, interpolation="nearest").set_gid("neighbours")
    _frame(ax, node % width, node // width)
    ax.set(xticks=[], yticks=[])
    set_title(ax, title)
    return ax


def _strength(
    graph: SampledGraph, node: int, head: int, graph_index: int, side: str, weights: Tensor | None
) -> tuple[np.ndarray, str]:
    """How strongly every token is marked, from 0 to 1, and the title."""
    found, weight = neighbour_weights(graph, weights, node, head, graph_index, side)
    as_weights("weights", weight)
    sizes = biadjacency_matrix(graph, head, graph_index).shape
    size = sizes[1] if side == "query" else sizes[0]
    strength = np.zeros(size)
    largest = float(weight.max(initial=0.0))
    strength[found] = weight / largest if largest > 0 else 0.0
    word = "attends to" if side == "query" else "is attended by"
    other = "keys" if side == "query" else "queries"
    title = (
        f"{side} {node} {word} {len(found):,} of {size:,} {other} ({percent(len(found) / size)})"
    )
    return strength, title


def _wrap(lengths: list[int], columns: int) -> list[tuple[int, int]]:
    """Column and line of each word when words are set one space apart in lines of ``columns``."""
    places, x, y = [], 0, 0
    for length in lengths:
        if x and x + length > columns:
            x, y = 0, y + 1
        places.append((x, y))
        x += max(length, 1) + 1
    return places


def _token_cells(strength: np.ndarray, size: int, node: int, title: str, ax: Axes) -> Axes:
    if not size:
        return blank(ax, title, "no tokens")
    width = int(np.ceil((1.6 * size) ** 0.5))
    height = -(-size // width)
    cells = np.full(height * width, np.nan)
    cells[:size] = 0.0
    cells[: len(strength)] = strength
    from matplotlib.colors import LinearSegmentedColormap

    cmap = LinearSegmentedColormap.from_list("neighbours", ["#eeeeee", SAMPLED_COLOR])
    image = ax.imshow(
        cells.reshape(height, width),
        cmap=cmap,
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    image.set_gid("neighbours")
    _frame(ax, node % width, node // width)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    set_title(ax, title, f"each cell is a token, {width} to a line")
    return ax


def _frame(ax: Axes, x: int, y: int) -> None:
    """Frames the chosen token, larger than its cell so that it is seen in a fine grid."""
    from matplotlib.patches import Rectangle

    frame = Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=QUERY_COLOR, lw=2.2)
    frame.set_gid("node")
    ax.add_patch(frame)
    ax.plot(x, y, "o", ms=13, mfc="none", mec=QUERY_COLOR, mew=1.2, clip_on=False)


def _rgb(color: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(color)
