"""The official releases: where they lie, whether they have changed, what to say where they are
absent."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sbmgraph.checks import check_positive_int
from sbmgraph.data.reading import bad_file

_LRA = "LRA's release (lra_release.gz, see https://github.com/google-research/long-range-arena)"
_SOURCES = {
    "listops": _LRA,
    "retrieval": f"{_LRA}, which holds the AAN pairs,",
    "pathfinder32": _LRA,
    "text": "aclImdb_v1.tar.gz (https://ai.stanford.edu/~amaas/data/sentiment/)",
    "image": "cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html)",
}
#: Tasks that need no release, and those whose release can be downloaded: what to say, and the
#: options that do it.
_WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "listops": ("or generate the data", {"source": "generate"}),
    "pathfinder32": ("or generate the data", {"source": "generate"}),
    "text": ("or have it downloaded", {"download": True}),
    "image": ("or have it downloaded", {"download": True}),
}


def missing(task: str, root: Path, where: str, release: str | None = None) -> FileNotFoundError:
    """The error for data that are not there: what to get, where to put it, or how to make it.

    Args:
        task: Name of the task.
        root: The data folder that was searched.
        where: The path inside it.
        release: What to put there, where that is not the task's release.
    """
    root = Path(root).absolute()
    message = f"{root / where}: expected the data of task {task!r}, got nothing. " + (
        f"Put {release} there"
        if release
        else f"Fetch {_SOURCES[task]} and unpack it in {root}, so that this path exists"
    )
    if task in _WAYS:
        way, options = _WAYS[task]
        message += f"; {way} (data option {_option(options)}), which this command does: "
        return FileNotFoundError(message + command(task, root, options))
    return FileNotFoundError(message + ".")


def command(task: str, root: Path, options: dict[str, Any]) -> str:
    """A line for the shell that prepares a task's data, wherever it is typed."""
    arguments = "".join(f", {name}={value!r}" for name, value in options.items())
    code = f"from sbmgraph.data import prepare; prepare({task!r}, {str(root)!r}{arguments})"
    return f"python -c {shlex.quote(code)}"


def _option(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {json.dumps(value)}" for name, value in options.items())


def released(root: Path, name: str) -> Path | None:
    """A folder of LRA's release, with or without the two outer folders that it comes in."""
    outer = ("lra_release/lra_release", "lra_release", "")
    return next((p for prefix in outer if (p := Path(root) / prefix / name).is_dir()), None)


def signature(paths: Iterable[str | Path], base: Path | None = None) -> list[Any]:
    """Tells source files from others: prepared data are made anew when one is replaced, changed,
    added or removed.

    Args:
        paths: The files, in an order that does not depend on chance.
        base: The folder that their names are relative to; their own names alone, if left out.

    Returns:
        Number and bytes of the files, and the SHA-256 of their names, sizes and times of change.

    Raises:
        ValueError: If a file is not there.
    """
    digest = hashlib.sha256()
    prefix = "" if base is None else os.path.join(base, "")
    files = size = 0
    for path in map(str, paths):
        try:
            status = os.stat(path)
        except OSError as error:
            raise bad_file(
                path, f"expected a file of the release, got nothing ({error.strerror})"
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise bad_file(path, "expected a file of the release, got something else")
        name = os.path.basename(path) if base is None else path.removeprefix(prefix)
        digest.update(repr((name, status.st_size, status.st_mtime_ns)).encode())
        files += 1
        size += status.st_size
    return [files, size, digest.hexdigest()]


def files_below(folder: str | Path) -> Iterator[str]:
    """Paths of all files below a folder, in the order of names (text: there may be 200,000)."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (os.path.join(place, name) for name in sorted(names))


def take(total: int, limit: int | None, seed: int) -> np.ndarray:
    """Numbers of the items to use: all, or ``limit`` of them drawn at random, ascending.

    Raises:
        ValueError: If the limit is not positive.
    """
    if limit is not None:
        check_positive_int("limit", limit)
    if limit is None or limit >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng([seed, 1]).permutation(total)[:limit])
