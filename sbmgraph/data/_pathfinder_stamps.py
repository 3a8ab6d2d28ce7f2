"""The stamps and steps that Pathfinder's pictures are pressed from.

A paddle can only lie at so many angles, and starts on a pixel, so that its picture and mask are
drawn once for each angle.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

_LENGTH = 2
_MARGIN = 1
_SEED_DISTANCE = 7
_ANTIALIAS = 2
_MARKER_RADIUS = 1.5
_SIZE = 32


class Tables(NamedTuple):
    """What the compiled loops look up; row ``a`` of ``A = 360 + K`` belongs to one angle.

    The first 360 rows are the integer degrees at which a snake may start, the other ``K`` the
    steps from a pivot to the pixels of the circle around it.
    """

    angle: np.ndarray  #: [A], radians.
    advance: np.ndarray  #: [A, 2], from a pivot to the next, along the angle.
    reach: np.ndarray  #: [360, 2], from the tail of a first paddle to its head.
    behind: np.ndarray  #: [360, 2], from the head of a first paddle back to its pivot.
    beside: np.ndarray  #: [360, 2], from the tail of the first target snake to the second's.
    step: np.ndarray  #: [K, 2], from a pivot to the head of the next paddle.
    ink: np.ndarray  #: [A, P, P], stamps of paddles.
    mask: np.ndarray  #: [A, P, P], stamps of paddles with their margin.
    kernels: np.ndarray  #: [-, 2], pixels of the footprints that a first paddle has to keep free.
    starts: np.ndarray  #: [361], first row of every degree's footprint.
    sound: np.ndarray  #: [360], whether a first paddle may lie at this angle.
    marker: np.ndarray  #: [32, 32, 32, 32], the picture with a marker at each pixel.


@cache
def tables() -> Tables:
    """Draws the stamps and works out the steps (needs Pillow)."""
    degrees = np.arange(-180, 180) * np.pi / 180
    step = _circle_steps()
    turns = np.arctan2(step[:, 0], step[:, 1])
    angle = np.concatenate([degrees, turns])
    # A first paddle is drawn from its tail along the angle; later ones from the head, backwards.
    drawn = [_paddle(a) for a in np.concatenate([degrees, _reverse(turns)])]
    ink, mask = (np.stack(stamps) for stamps in zip(*drawn, strict=True))
    footprints = [_footprint(stamp) for stamp in mask[: len(degrees)]]
    starts = np.cumsum([0, *map(len, footprints)])
    marker = np.array([[_marker(y, x) for x in range(_SIZE)] for y in range(_SIZE)])
    return Tables(
        angle=angle,
        advance=_displacement(angle, _LENGTH + 2 * _MARGIN),
        reach=_displacement(degrees, _LENGTH),
        behind=_displacement(_reverse(degrees), _LENGTH + _MARGIN),
        beside=np.round(
            _SEED_DISTANCE * np.stack([np.sin(degrees), np.cos(degrees)], axis=-1)
        ).astype(np.int64),
        step=step,
        ink=ink,
        mask=mask,
        kernels=np.concatenate(footprints),
        starts=starts,
        sound=np.array([_sound(footprint) for footprint in footprints]),
        marker=marker,
    )


def _displacement(angle: np.ndarray, distance: int) -> np.ndarray:
    """Whole pixels (rounded up, as in the original) travelled along an angle, ``[..., 2]``."""
    # Seen from a coordinate that is not zero, sines of 1e-16 vanish rather than round up to one.
    exact = np.stack([distance * np.sin(angle), distance * np.cos(angle)], axis=-1)
    return (np.ceil(_SIZE // 2 + exact) - _SIZE // 2).astype(np.int64)


def _reverse(angle: np.ndarray) -> np.ndarray:
    return np.where(angle < 0, angle + np.pi, angle - np.pi)


def _circle_steps() -> np.ndarray:
    """Pixels on the circle around a pivot, one sample a pixel of its circumference, ``[K, 2]``."""
    radius = _LENGTH + _MARGIN
    around = np.arange(0, 2 * np.pi, 1 / radius)
    exact = np.stack([radius * np.sin(around), radius * np.cos(around)], axis=-1)
    return np.unique(np.floor(exact).astype(np.int64), axis=0)


def _paddle(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Ink and mask of a paddle that starts at the centre of its stamp, each ``[P, P]``."""
    from PIL import Image, ImageDraw

    radius = _LENGTH + 1 + _MARGIN
    centre = radius * _ANTIALIAS
    y, x = np.ceil(centre + _LENGTH * _ANTIALIAS * np.array([np.sin(angle), np.cos(angle)]))
    large = Image.new("L", (2 * centre + 1, 2 * centre + 1))
    ImageDraw.Draw(large).line([(centre, centre), (int(x), int(y))], fill=255, width=1)
    grown = _dilate(np.asarray(large), _MARGIN * _ANTIALIAS)
    return _shrink(np.asarray(large), 2 * radius + 1), _shrink(grown, 2 * radius + 1)


def _dilate(picture: np.ndarray, radius: int) -> np.ndarray:
    """Grey dilation by a disc."""
    height, width = picture.shape
    padded = np.pad(picture, radius)
    shifts = np.argwhere(np.hypot(*np.ogrid[-radius : radius + 1, -radius : radius + 1]) <= radius)
    return np.max([padded[y : y + height, x : x + width] for y, x in shifts], axis=0)


def _shrink(picture: np.ndarray, size: int) -> np.ndarray:
    """Lanczos reduction to ``[size, size]``; rounded to 256 levels, in [0, 1]."""
    from PIL import Image

    small = Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS)
    return (np.asarray(small) / np.float32(255)).astype(np.float64)


def _footprint(mask: np.ndarray) -> np.ndarray:
    """Pixels to keep free around the start of a paddle, ``[-, 2]``.

    Those that the mask covers whole, cut to a window of length + margin about the start, and
    shifted by one pixel: the original anchors the window one pixel off its middle.
    """
    window = _LENGTH + _MARGIN
    offsets = np.argwhere(mask == 1.0) - mask.shape[0] // 2 + 1
    return offsets[(np.abs(offsets) <= window).all(axis=1)]


def _sound(footprint: np.ndarray) -> bool:
    """Whether the footprint reaches into the picture from each of its pixels.

    Where it does not, the original takes the lack of a value for a lack of room. Only the degrees
    from -150 to -121 are sound: its distractors, and the first of its target snakes, all start
    towards the upper left.
    """
    pixels = np.indices((_SIZE, _SIZE)).transpose(1, 2, 0)[:, :, None] + footprint
    return bool(((pixels >= 0) & (pixels < _SIZE)).all(axis=-1).any(axis=-1).all())


def _marker(y: int, x: int) -> np.ndarray:
    """The whole picture of a disc at a pixel, ``[32, 32]``."""
    rows, columns = np.ogrid[: _SIZE * _ANTIALIAS, : _SIZE * _ANTIALIAS]
    distance = np.hypot(rows - y * _ANTIALIAS, columns - x * _ANTIALIAS)
    disc = np.where(distance <= _MARKER_RADIUS * _ANTIALIAS, 255, 0).astype(np.uint8)
    return _shrink(disc, _SIZE)
