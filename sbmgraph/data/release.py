"""The official releases: where they lie, how they are opened, what to say if they are absent."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_LRA = "LRA's release (lra_release.gz, see https://github.com/google-research/long-range-arena)"
_SOURCES = {
    "listops": _LRA,
    "retrieval": f"{_LRA}, which holds the AAN pairs,",
    "pathfinder32": _LRA,
    "text": "aclImdb_v1.tar.gz (https://ai.stanford.edu/~amaas/data/sentiment/)",
    "image": "cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html)",
}
_GENERATED = ("listops", "pathfinder32")
_DOWNLOADED = ("text", "image")


def missing(task: str, root: Path, where: str) -> FileNotFoundError:
    """The error for data that are not there: what to get, where to put it, or how to make it.

    Args:
        task: Name of the task.
        root: The data folder that was searched.
        where: The path inside it.
    """
    message = (
        f"{task}: expected {Path(root) / where}, which does not exist. "
        f"Download {_SOURCES[task]} and unpack it so that this path exists"
    )
    command = f"python tasks/lra.py prepare --config tasks/configs/{task}.yaml"
    if task in _GENERATED:
        message += f", or generate the data (source: generate): {command}"
    if task in _DOWNLOADED:
        message += f", or have it downloaded (download: true): {command}"
    return FileNotFoundError(message + ".")


def released(root: Path, name: str) -> Path | None:
    """A folder of LRA's release, with or without the two outer folders that it comes in."""
    outer = ("lra_release/lra_release", "lra_release", "")
    return next((p for prefix in outer if (p := Path(root) / prefix / name).is_dir()), None)


def signature(paths: Iterable[Path]) -> list[list]:
    """Name and size of every source file: prepared data are made anew when they change.

    Raises:
        ValueError: If a file is not there.
    """
    paths = list(paths)
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise ValueError(f"{absent[0]}: expected a file of the release, which does not exist")
    return [[path.name, path.stat().st_size] for path in paths]


def take(total: int, limit: int | None, seed: int) -> np.ndarray:
    """Numbers of the items to use: all, or ``limit`` of them drawn at random, ascending.

    Raises:
        ValueError: If the limit is not positive.
    """
    if limit is None or limit >= total:
        return np.arange(total)
    if limit < 1:
        raise ValueError(f"limit: expected a positive number of items, got {limit}")
    return np.sort(np.random.default_rng([seed, 1]).permutation(total)[:limit])


@contextmanager
def reading_archive(path: Path) -> Iterator[None]:
    """Turns what a truncated or foreign archive raises into an error that names it.

    Raises:
        ValueError: Naming the archive.
    """
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path}: expected a complete .tar.gz archive, but reading it failed ({error}). "
            "Delete it and download it again."
        ) from error


def archive_files(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the files in an archive whose name is wanted.

    Raises:
        ValueError: If the archive is truncated or is none.
    """
    # Not as a stream ("r|*"): tarfile takes a stream that is cut between two files for a whole one.
    with reading_archive(path), tarfile.open(path, "r:*") as archive:
        for member in archive:
            file = archive.extractfile(member) if wanted(member.name) else None
            if file is not None:
                yield member.name, file.read()
