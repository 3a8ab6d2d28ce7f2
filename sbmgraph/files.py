"""Files: written whole or not at all, so that what is half-written never stands at its place; and
named where their content cannot be read."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; at the end of the block it takes the place of ``path``.

    The name is fixed, so that what a killed process leaves is overwritten by the next; processes
    that may write the same file at once hold a lock of their own.

    Args:
        path: The file, or its place if there is none. Missing folders are made.

    Yields:
        Path: The temporary file, with the suffix of ``path``.

    Raises:
        ValueError: If the folder cannot be written or the disk is full; ``path`` is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(
            f"{path.parent}: expected a folder with room for {path.name}, but could not write to "
            f"it ({error.strerror or error})"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes a file whole or not at all; see :func:`replacing`.

    Raises:
        ValueError: If the folder cannot be written or the disk is full.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Names a file in whatever error its content leads a reader to.

    Args:
        path: The file.
        what: What was expected of it.

    Raises:
        ValueError: Naming the file, what was expected and what came.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, csv.Error, RecursionError) as error:
        raise ValueError(f"{path}: expected {what}, got {error or type(error).__name__}") from None


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: As :func:`reading`.
    """
    with reading(path, what):
        return json.loads(Path(path).read_text())
