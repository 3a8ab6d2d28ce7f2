"""Colours: of blocks, of densities, and what can be read on them.

Distances between colours are Euclidean in OKLab (Ottosson 2020), where 0.02 is about what an eye
can just tell; contrasts are those of WCAG 2.1.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

NUM_COLORS = 256
"""Blocks with a colour of their own; from there on colours come again."""

BLACK, WHITE = "#000000", "#ffffff"

_LAB_TO_CONES = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_CONES_TO_LINEAR = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def block_color(block: int) -> str:
    """The colour of a block, the same in every picture, as ``"#rrggbb"``.

    Colours are chosen one after the other, each the farthest in OKLab from all before, among those
    of middle lightness that are not grey: the first few lie far apart, and any two of the first 16,
    64 and 128 differ by at least 0.14, 0.07 and 0.05. After :data:`NUM_COLORS` they come again.

    Raises:
        ValueError: If ``block`` is negative.
    """
    if block < 0:
        raise ValueError(f"'block' must be at least 0, got {block}")
    return _block_colors()[block % NUM_COLORS]


@cache
def _block_colors() -> tuple[str, ...]:
    """Farthest-point sampling of the middle of sRGB's gamut, from a blue on."""
    axis = np.linspace(-0.2, 0.2, 41)
    lab = np.stack(np.meshgrid(np.linspace(0.42, 0.84, 22), axis, axis, indexing="ij"), axis=-1)
    lab = lab.reshape(-1, 3)
    linear = _lab_to_linear(lab)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    vivid = (chroma >= 0.06) & (chroma <= 0.19)
    inside = ((linear >= 0) & (linear <= 1)).all(axis=1) & vivid
    lab = lab[inside]
    chosen = [int(np.argmin(((lab - np.array([0.56, -0.04, -0.16])) ** 2).sum(axis=1)))]
    nearest = np.full(len(lab), np.inf)
    while len(chosen) < NUM_COLORS:
        np.minimum(nearest, ((lab - lab[chosen[-1]]) ** 2).sum(axis=1), out=nearest)
        chosen.append(int(nearest.argmax()))
    return tuple(_hex(rgb) for rgb in _to_srgb(_lab_to_linear(lab[chosen])))


def ink_on(color: str) -> str:
    """Black or white, whichever is read better on ``color``: a contrast of at least 4.58."""
    light = luminance(color)
    return WHITE if 1.05 / (light + 0.05) >= (light + 0.05) / 0.05 else BLACK


def luminance(color: str) -> float:
    """The relative luminance (WCAG 2.1) of ``"#rrggbb"``."""
    return float(_linear(color) @ np.array([0.2126, 0.7152, 0.0722]))


def contrast(first: str, second: str) -> float:
    """The contrast ratio (WCAG 2.1) of two colours, from 1 to 21."""
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def oklab(color: str) -> np.ndarray:
    """``"#rrggbb"`` in OKLab, of shape :obj:`[3]`."""
    cones = np.linalg.solve(_CONES_TO_LINEAR, _linear(color))
    return np.linalg.solve(_LAB_TO_CONES, np.cbrt(cones))


@cache
def density_cmap() -> Colormap:
    """White where there is nothing, down to dark indigo in equal steps of perceived lightness."""
    from matplotlib.colors import ListedColormap

    steps = np.linspace(0, 1, 256)
    chroma = 0.13 * np.minimum(np.minimum(3 * steps, 1.0), 2.4 - 1.9 * steps)
    hue = 3.9 + 1.1 * steps
    lab = np.stack([1 - 0.78 * steps, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    return ListedColormap(_to_srgb(_lab_to_linear(lab)) / 255, name="density")


def _lab_to_linear(lab: np.ndarray) -> np.ndarray:
    return (lab @ _LAB_TO_CONES.T) ** 3 @ _CONES_TO_LINEAR.T


def _to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light in 0–255, clipped to the gamut."""
    light = np.clip(linear, 0, 1)
    gamma = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    return np.round(255 * gamma).astype(int)


def _linear(color: str) -> np.ndarray:
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)


def _hex(rgb: np.ndarray) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb.tolist())
