"""Pathfinder32: do the two marked points lie on one dashed curve? One token a pixel, row by row.

Two long dashed curves ("snakes" of "paddles") cross a 32 x 32 picture among shorter distractors.
The generator follows the published algorithm (Linsley et al., *Learning long-range spatial
dependencies with horizontal gated recurrent units*, 2018) with the parameters of LRA. A paddle can
only lie at so many angles, and starts on a pixel, so that its picture and mask are drawn once for
each angle; what is left for every picture is to press these stamps, which is compiled.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from sbmgraph.data.cache import load_or_build
from sbmgraph.data.chunks import in_order
from sbmgraph.data.release import missing, released, signature, take
from sbmgraph.data.sequence import SequenceDataset

VERSION = 1
PIXELS = 1024
#: Level to the folder of LRA's release and the number of paddles in a target snake.
LEVELS = {
    "hard": ("curv_contour_length_14", 14),
    "intermediate": ("curv_contour_length_9", 9),
    "easy": ("curv_baseline", 6),
}
Level = Literal["hard", "intermediate", "easy"]

#: Numbers of grey levels that 256 can be grouped into.
GREY_LEVELS = (2, 4, 8, 16, 32, 64, 128, 256)

_CHUNK = 250
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


def prepare_pathfinder32(
    root: Path,
    cache_root: Path,
    *,
    source: Literal["generate", "release"] = "generate",
    level: Level = "hard",
    num_images: int = 200_000,
    grey_levels: int = 256,
    seed: int = 0,
    workers: int | None = None,
    limit_train: int | None = None,
    limit_val: int | None = None,
    limit_test: int | None = None,
) -> dict[str, SequenceDataset]:
    """Pathfinder32, generated (the default) or read from LRA's release: 80 / 10 / 10 %.

    Token ids are the grey levels, 0 to 255 by default; there is no padding.

    Args:
        root: Data folder, holding ``lra_release/lra_release/pathfinder32`` for the release.
        cache_root: Folder of prepared data.
        source: ``"generate"`` or ``"release"``.
        level: Length of the curves: ``"hard"``, ``"intermediate"`` or ``"easy"`` (:data:`LEVELS`).
        num_images: Pictures to generate.
        grey_levels: Equal bands that the grey levels 0 to 255 are grouped into: a power of two from
            2 to 256. The darkest of 32 holds the faint rims that shrinking leaves around ink.
        seed: Seed of the pictures, or of the split of the release.
        workers: Threads that generate (default: the machine's cores).
        limit_train: Use only so many training pictures, drawn at random.
        limit_val: As ``limit_train``, for validation.
        limit_test: As ``limit_train``, for testing.

    Raises:
        ValueError: On bad options or a damaged release.
        FileNotFoundError: If the release is not there.
    """
    _check_level(level)
    if grey_levels not in GREY_LEVELS:
        raise ValueError(
            f"grey_levels: expected one of {', '.join(map(str, GREY_LEVELS))}, got {grey_levels!r}"
        )
    parameters: dict[str, Any] = {"version": VERSION, "level": level, "seed": seed}
    if source == "generate":
        parameters["num_images"] = num_images
        chunks = generate(num_images, level=level, seed=seed, workers=workers)
    elif source == "release":
        where = f"pathfinder32/{LEVELS[level][0]}"
        folder = released(root, where)
        if folder is None:
            raise missing("pathfinder32", root, f"lra_release/lra_release/{where}")
        parameters["source"] = signature(_metadata_files(folder))
        chunks = read_release(folder)
    else:
        raise ValueError(f"source: expected 'generate' or 'release', got {source!r}")
    limits = {"train": limit_train, "val": limit_val, "test": limit_test}
    parameters["limits"] = limits
    if grey_levels != 256:
        parameters["grey_levels"] = grey_levels

    def build(open_split) -> None:
        images, labels = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        images //= 256 // grey_levels
        order = np.random.default_rng([seed, 3]).permutation(len(labels))
        tenth = len(labels) // 10
        ends = {"train": len(labels) - 2 * tenth, "val": len(labels) - tenth, "test": len(labels)}
        start = 0
        for split, end in ends.items():
            part, start = order[start:end], end
            with open_split(split) as writer:
                for i in part[take(len(part), limits[split], seed)]:
                    writer.add([images[i]], int(labels[i]))

    return load_or_build(
        cache_root,
        "pathfinder32",
        parameters,
        build,
        dtype="uint8",
        vocab_size=grey_levels,
        num_classes=2,
        max_length=PIXELS,
    )


def generate(
    num_images: int, *, level: Level = "hard", seed: int = 0, workers: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields pictures, uint8 ``[n, 1024]``, and labels, int64 ``[n]``, some hundred at a time.

    The pictures depend on ``level`` and ``seed`` alone, and not on the number of workers; fewer
    pictures are the first of more.

    Args:
        num_images: Pictures in all.
        level: As in :func:`prepare_pathfinder32`.
        seed: Seed of the pictures.
        workers: Threads that generate (default: the machine's cores).

    Raises:
        ValueError: On an unknown level, or fewer than ten pictures.
    """
    _check_level(level)
    if num_images < 10:
        raise ValueError(f"num_images: expected 10 or more, got {num_images}")
    return _generate(num_images, LEVELS[level][1], seed, workers)


def _generate(
    num_images: int, contour_length: int, seed: int, workers: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from sbmgraph.data._pathfinder_kernels import pictures

    distractor_length = contour_length // 3
    shape = (contour_length, distractor_length, 20 // distractor_length, tables())

    def chunk(number: int) -> tuple[np.ndarray, np.ndarray]:
        return pictures(np.random.default_rng([seed, number]), _CHUNK, *shape)

    left = num_images
    with tqdm(total=num_images, desc="pathfinder32: generating", unit="picture") as bar:
        for images, labels in in_order(chunk, workers):
            images, labels = images[:left], labels[:left]
            left -= len(labels)
            bar.update(len(labels))
            yield images, labels
            if left == 0:
                return


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


def read_release(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields pictures ``[1, 1024]`` and labels ``[1]`` of one level of LRA's release.

    Empty PNG files, of which the release has some, are left out with one warning.

    Args:
        folder: The level's folder, holding ``metadata/`` and ``imgs/``.

    Raises:
        ValueError: Naming the file, if metadata or a picture is not as expected, or if every
            picture is empty.
    """
    rows = [row for path in _metadata_files(folder) for row in _metadata(path)]
    empty = []
    for name, label in tqdm(rows, desc=f"pathfinder32: reading {folder.name}", unit="picture"):
        path = folder / name
        picture = _read_png(path)
        if picture is None:
            empty.append(path)
            continue
        yield picture.reshape(1, PIXELS), np.array([label])
    if len(empty) == len(rows):
        raise ValueError(f"{folder}: expected pictures, but all {len(rows)} PNG files are empty")
    if empty:
        warnings.warn(
            f"{folder}: left out {len(empty)} of {len(rows)} pictures, whose PNG files are empty, "
            f"e.g. {empty[0].name}",
            stacklevel=2,
        )


def _metadata_files(folder: Path) -> list[Path]:
    files = sorted((folder / "metadata").glob("*.npy"), key=lambda p: (len(p.name), p.name))
    if not files:
        raise ValueError(f"{folder / 'metadata'}: expected metadata files *.npy, found none")
    return files


def _metadata(path: Path) -> Iterator[tuple[str, int]]:
    """Yields a picture's path inside the level's folder, and its label; one line of text each."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            subpath, file, _, label, *_ = line.decode("ascii").split()
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: expected the text 'subpath file number label ...', "
                f"got {line[:40]!r}"
            ) from error
        if label not in ("0", "1"):
            raise ValueError(f"{path}, line {number}: expected a label 0 or 1, got {label!r}")
        yield f"{subpath}/{file}", int(label)


def _read_png(path: Path) -> np.ndarray | None:
    """The picture, uint8 ``[32, 32]``; :obj:`None` for an empty file."""
    from PIL import Image

    try:
        if path.stat().st_size == 0:
            return None
        with Image.open(path) as image:
            picture = np.asarray(image.convert("L"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: expected a PNG picture ({error})") from error
    if picture.shape != (_SIZE, _SIZE):
        raise ValueError(f"{path}: expected 32 x 32 pixels, got {picture.shape}")
    return picture


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise ValueError(f"level: expected one of {', '.join(LEVELS)}, got {level!r}")
