"""What all pictures share: Axes without pyplot, brackets of blocks, titles, the empty picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sbmgraph.viz.color import block_color, ink_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MEMBERSHIP_CMAP = "viridis"
EXPECTED_COLOR = "#3b6fb6"
SAMPLED_COLOR = "#d1495b"
INK = "#333333"
FAINT = "#6b6b6b"


def new_axes(ax: Axes | None, figsize: tuple[float, float] = (5.0, 4.0)) -> Axes:
    """``ax``, or the Axes of a new figure that pyplot does not know of.

    Raises:
        ValueError: If ``ax`` is something else.
    """
    from matplotlib.axes import Axes

    if ax is None:
        return _new_figure(figsize).add_subplot()
    if not isinstance(ax, Axes):
        raise ValueError(f"'ax' must be a matplotlib Axes, got {type(ax).__name__}")
    return ax


def new_grid(
    ax: Any, rows: int, columns: int, cell: tuple[float, float] = (3.0, 3.0)
) -> np.ndarray:
    """``ax`` as an array of Axes [rows, columns], or the Axes of a new figure.

    Raises:
        ValueError: If ``ax`` has another number of Axes.
    """
    from matplotlib.axes import Axes

    if ax is None:
        figure = _new_figure((cell[0] * columns, cell[1] * rows))
        return figure.subplots(rows, columns, squeeze=False)
    axes = np.asarray(ax, dtype=object)
    if axes.size != rows * columns or not all(isinstance(part, Axes) for part in axes.flat):
        raise ValueError(f"'ax' must hold {rows}×{columns} matplotlib Axes, got {ax!r}")
    return axes.reshape(rows, columns)


def _new_figure(figsize: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout="compressed")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.1)  # type: ignore[union-attr]
    return figure


def set_title(ax: Axes, title: str, note: str = "", pad: float = 6.0) -> None:
    """The title, under it what the picture leaves out or aggregates, and one size of letters."""
    ax.set_title(title + (f"\n{note}" if note else ""), loc="left", fontsize=9, pad=pad, color=INK)
    ax.xaxis.label.set_fontsize(8)
    ax.yaxis.label.set_fontsize(8)


def add_colorbar(image: AxesImage, ax: Axes | list[Axes], label: str, **options: Any) -> None:
    """A colour bar in the same size of letters."""
    bar = image.figure.colorbar(image, ax=ax, **options)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def blank(ax: Axes, title: str, message: str) -> Axes:
    """A picture of nothing that says why."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, message, ha="center", va="center", color=FAINT, transform=ax.transAxes)
    set_title(ax, title)
    return ax


def despine(ax: Axes) -> None:
    """Takes away the frame's upper and right lines, and puts a light grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)


def percent(value: float) -> str:
    """A density for people."""
    return f"{100 * value:.3g} %"


def draw_block_bars(
    ax: Axes, blocks: Sequence[int] | np.ndarray, sizes: np.ndarray, side: str
) -> None:
    """Brackets the tokens of each block by a bar in its colour along the ``"top"`` or ``"right"``
    of Axes over token positions, numbered where there is room."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation, blended_transform_factory

    top = side == "top"
    scale = ax.figure.dpi_scale_trans
    shift = 6 / 72
    pair = (ax.transData, ax.transAxes) if top else (ax.transAxes, ax.transData)
    offset = ScaledTranslation(0 if top else shift, shift if top else 0, scale)
    transform = blended_transform_factory(*pair) + offset
    total, start = int(np.sum(sizes)), 0
    window = ax.get_window_extent()
    length = (window.width if top else window.height) * 72 / ax.figure.dpi
    style: dict[str, Any] = {"lw": 8, "solid_capstyle": "butt", "clip_on": False}
    for block, size in zip(np.asarray(blocks).tolist(), np.asarray(sizes).tolist(), strict=True):
        span = (start, start + size)
        x, y = (span, (1, 1)) if top else ((1, 1), span)
        bar = Line2D(x, y, color=block_color(block), transform=transform, **style)
        bar.set_gid(f"block-{block}-{side}")
        ax.add_artist(bar)
        if length * size / total >= 4.5 * len(str(block)) + 3:
            centre = start + size / 2
            ax.text(
                centre if top else 1, 1 if top else centre, str(block), transform=transform,
                ha="center", va="center_baseline" if top else "center", fontsize=6,
                color=ink_on(block_color(block)), weight="bold", rotation=0 if top else 270,
            )  # fmt: skip
        start += size
