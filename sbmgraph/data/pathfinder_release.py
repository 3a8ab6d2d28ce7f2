"""Pathfinder32 as LRA released it: small PNG pictures, listed in metadata files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from sbmgraph.data.png import read_png
from sbmgraph.data.reading import bad_file, read_file
from sbmgraph.data.release import files_below

SIZE = 32
PIXELS = SIZE * SIZE
_LARGEST_METADATA = 1 << 28


class _Row(NamedTuple):
    """A picture's path, its label, and the metadata file and line that say so."""

    path: Path
    label: int
    place: str


def release_files(folder: Path) -> Iterator[str | Path]:
    """Every file that the pictures of a level are read from, in one order."""
    yield from _metadata_files(folder)
    yield from files_below(folder / "imgs")


def read_release(folder: Path, faintest: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields pictures ``[1, 1024]`` and labels ``[1]`` of one level of LRA's release.

    Empty PNG files, of which the release has some, are left out with one warning.

    Args:
        folder: The level's folder, holding ``metadata/`` and ``imgs/``.
        faintest: The least grey level that shows.

    Raises:
        ValueError: Naming the file, if metadata or a picture is not as expected, shows nothing or
            lies outside the folder, or if every picture is empty.
    """
    inside = folder.resolve()
    rows = [row for path in _metadata_files(folder) for row in _metadata(path)]
    empty = []
    for row in tqdm(rows, desc=f"pathfinder32: reading {folder.name}", unit="picture"):
        path = folder / row.path
        if not path.resolve().is_relative_to(inside):
            raise bad_file(row.place, f"expected a picture inside {folder}, got {str(row.path)!r}")
        picture = read_png(path, SIZE, SIZE, row.place)
        if picture is None:
            empty.append(path)
            continue
        if picture.max() < faintest:
            raise bad_file(
                path,
                f"expected a picture with a pixel of at least {faintest}, "
                f"got {picture.max()} ({row.place})",
            )
        yield picture.reshape(1, PIXELS), np.array([row.label])
    if len(empty) == len(rows):
        raise bad_file(folder, f"expected pictures, got {len(rows)} PNG files that are all empty")
    if empty:
        warnings.warn(
            f"{folder}: left out {len(empty)} of {len(rows)} pictures, whose PNG files are empty, "
            f"e.g. {empty[0].name}",
            stacklevel=2,
        )


def _metadata_files(folder: Path) -> list[Path]:
    files = sorted((folder / "metadata").glob("*.npy"), key=lambda p: (len(p.name), p.name))
    if not files:
        raise bad_file(folder / "metadata", "expected metadata files *.npy, got none")
    return files


def _metadata(path: Path) -> Iterator[_Row]:
    """Yields the rows of a file of metadata; one line of text each."""
    content = read_file(path, _LARGEST_METADATA, "metadata")
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            subpath, file, _, label, *_ = line.decode("ascii").split()
        except ValueError as error:
            raise bad_file(
                path,
                f"expected the text 'subpath file number label ...', got {line[:40]!r}",
                number,
            ) from error
        if label not in ("0", "1"):
            raise bad_file(path, f"expected a label 0 or 1, got {label[:20]!r}", number)
        picture = PurePosixPath(subpath, file)
        if picture.is_absolute() or ".." in picture.parts or "\0" in str(picture):
            raise bad_file(
                path, f"expected a path inside {path.parents[1]}, got {str(picture)[:80]!r}", number
            )
        yield _Row(Path(picture), int(label), f"{path}, line {number}")
