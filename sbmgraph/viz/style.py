"""What all pictures share: Axes without pyplot, colours of blocks, titles, the empty picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MEMBERSHIP_CMAP = "viridis"
EXPECTED_COLOR = "#3b6fb6"
SAMPLED_COLOR = "#d1495b"
INK = "#333333"
FAINT = "#8a8a8a"

GOLDEN_ANGLE = np.pi * (3 - 5**0.5)


def block_color(block: int) -> str:
    """The colour of a block, the same in every picture: equal steps of hue by the golden angle at
    alternating lightness, in OKLCH, as ``"#rrggbb"``.

    Raises:
        ValueError: If ``block`` is negative.
    """
    if block < 0:
        raise ValueError(f"'block' must be at least 0, got {block}")
    lightness = (0.62, 0.76, 0.5)[block % 3]
    red, green, blue = oklch_to_rgb(lightness, 0.14, 0.45 + block * GOLDEN_ANGLE)
    return f"#{red:02x}{green:02x}{blue:02x}"


def oklch_to_rgb(lightness: float, chroma: float, hue: float) -> tuple[int, int, int]:
    """An OKLCH colour (Ottosson's perceptual space, hue in radians) in sRGB, clipped to 0–255."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    to_cones = np.array(
        [
            [1.0, 0.3963377774, 0.2158037573],
            [1.0, -0.1055613458, -0.0638541728],
            [1.0, -0.0894841775, -1.2914855480],
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(to_linear @ (to_cones @ np.array([lightness, a, b])) ** 3, 0, 1)
    gamma = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    red, green, blue = np.round(255 * gamma).astype(int).tolist()
    return red, green, blue


@cache
def density_cmap() -> Colormap:
    """White where there is nothing, down to dark indigo in equal steps of perceived lightness."""
    from matplotlib.colors import ListedColormap

    steps = np.linspace(0, 1, 256)
    colors = [
        oklch_to_rgb(1 - 0.78 * t, 0.13 * min(3 * t, 1.0, 2.4 - 1.9 * t), 3.9 + 1.1 * t)
        for t in steps
    ]
    return ListedColormap(np.array(colors) / 255, name="density")


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
                color="white", weight="bold", rotation=0 if top else 270,
            )  # fmt: skip
        start += size
