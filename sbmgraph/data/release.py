"""Where the official releases lie, and what to say when they do not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

_SOURCES = {
    "listops": "LRA's release (lra_release.gz, https://github.com/google-research/long-range-arena)",
    "retrieval": "LRA's release (lra_release.gz, https://github.com/google-research/long-range-arena)"
    ", which holds the AAN pairs",
    "pathfinder32": "LRA's release "
    "(lra_release.gz, https://github.com/google-research/long-range-arena)",
    "text": "aclImdb_v1.tar.gz from https://ai.stanford.edu/~amaas/data/sentiment/",
    "image": "cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html",
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
        message += f", or let it be downloaded (download: true): {command}"
    return FileNotFoundError(message + ".")


def released(root: Path, name: str) -> Path | None:
    """A folder of LRA's release, whether its outer folder is doubled (as released) or not."""
    candidates = [
        Path(root) / prefix / name for prefix in ("lra_release/lra_release", "lra_release", "")
    ]
    return next((path for path in candidates if path.is_dir()), None)


def signature(paths: Iterable[Path]) -> list[list]:
    """Name and size of every source file: prepared data are made anew when they change.

    Raises:
        FileNotFoundError: If a file is not there.
    """
    return [[path.name, path.stat().st_size] for path in paths]


def take(total: int, limit: int | None, seed: int) -> np.ndarray:
    """Numbers of the items to use: all, or ``limit`` of them drawn at random, ascending."""
    if limit is None or limit >= total:
        return np.arange(total)
    if limit < 1:
        raise ValueError(f"limit: expected a positive number of items, got {limit}")
    return np.sort(np.random.default_rng([seed, 1]).permutation(total)[:limit])
