"""Pathfinder32: do the two marked points lie on one dashed curve? One token a pixel, row by row.

Two long dashed curves ("snakes" of "paddles") cross a 32 x 32 picture among shorter distractors.
The generator follows the published algorithm (Linsley et al., *Learning long-range spatial
dependencies with horizontal gated recurrent units*, 2018) with the parameters of LRA. Pictures are
pressed from stamps that are drawn once, which is compiled; or read from LRA's release
(:mod:`sbmgraph.data.pathfinder_release`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from sbmgraph.checks import check_choice, check_positive_int
from sbmgraph.data._pathfinder_stamps import Tables, tables
from sbmgraph.data.cache import load_or_build
from sbmgraph.data.chunks import in_order
from sbmgraph.data.pathfinder_release import PIXELS, read_release, release_files
from sbmgraph.data.release import missing, released, signature, take
from sbmgraph.data.sequence import SequenceDataset

__all__ = [
    "GREY_LEVELS",
    "LEVELS",
    "PIXELS",
    "Tables",
    "generate",
    "prepare_pathfinder32",
    "read_release",
    "tables",
]

VERSION = 2
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
    verify: bool = False,
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
        verify: Whether to compare prepared data with their checksums.

    Raises:
        ValueError: On bad options or a damaged release.
        FileNotFoundError: If the release is not there.
    """
    check_choice("source", source, ("generate", "release"))
    check_choice("level", level, LEVELS)
    if grey_levels not in GREY_LEVELS:
        raise ValueError(
            f"'grey_levels' must be one of {', '.join(map(str, GREY_LEVELS))}, got {grey_levels!r}"
        )
    band = 256 // grey_levels
    parameters: dict[str, Any] = {"version": VERSION, "level": level, "seed": seed}
    if source == "generate":
        parameters["num_images"] = num_images
        chunks = generate(num_images, level=level, seed=seed, workers=workers)
    else:
        where = f"pathfinder32/{LEVELS[level][0]}"
        folder = released(root, where)
        if folder is None:
            raise missing("pathfinder32", root, f"lra_release/lra_release/{where}")
        parameters["source"] = signature(release_files(folder), folder)
        chunks = read_release(folder, faintest=band)
    limits = {"train": limit_train, "val": limit_val, "test": limit_test}
    parameters["limits"] = limits
    if grey_levels != 256:
        parameters["grey_levels"] = grey_levels

    def build(open_split) -> None:
        images, labels = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        images //= band
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
        verify=verify,
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
    check_choice("level", level, LEVELS)
    check_positive_int("num_images", num_images, 10)
    if workers is not None:
        check_positive_int("workers", workers)
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
