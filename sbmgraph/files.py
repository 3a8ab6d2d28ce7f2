"""Files and folders: written whole or not at all, so that what is half-written never stands at its
place; gone on with where a writer was cut short; and named where their content cannot be read.

A temporary name is fixed where one process writes at a time, and otherwise says whose it is, so
that what killed processes leave is found.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def writing(folder: str | Path, what: str) -> Iterator[None]:
    """Names a folder in whatever error the system raises on writing there.

    Args:
        folder: The folder.
        what: What is written.

    Raises:
        ValueError: Naming the folder, what was to be written and the reason.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{folder}: expected a folder with room for {what}, but could not write to it "
            f"({error.strerror or error}). Free some space, or name another folder"
        ) from error


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
        with writing(path.parent, path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            place(temporary, path)
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


def place(temporary: Path, path: Path) -> None:
    """Gives a complete file its name, in the place of whatever has it, once it is on disk.

    Raises:
        OSError: If that cannot be done.
    """
    _to_disk(temporary)
    os.replace(temporary, path)


@contextlib.contextmanager
def making_folder(path: str | Path, what: str) -> Iterator[Path]:
    """A folder beside ``path`` to fill with files; at the end of the block it is ``path``.

    Several processes may do so at once: each has a folder of its own, the first to finish wins,
    and what the others made is removed. Errors of the block itself are passed on as they are.

    Args:
        path: The folder; missing ones above it are made.
        what: What it holds, for messages.

    Yields:
        Path: The temporary folder, one of :func:`abandoned` if the process is killed.

    Raises:
        ValueError: If the folder above cannot be written or the disk is full.
    """
    path = Path(path)
    with writing(path.parent, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _own_path(path, ".tmp")
        temporary.mkdir()
    try:
        yield temporary
        with writing(path.parent, what):
            for file in temporary.iterdir():
                _to_disk(file)
            _to_disk(temporary)
            try:
                os.rename(temporary, path)
            except OSError:
                if not path.exists():
                    raise
            _to_disk(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def resuming(path: str | Path) -> Iterator[Path]:
    """A file of this call's own beside ``path``, to append to and then to :func:`place`, which
    begins with what earlier calls left.

    What has not been placed at the end of the block is kept in ``<path>.part``.

    Args:
        path: The file that is to be; missing folders are made.

    Yields:
        Path: The partial file, which may be empty.

    Raises:
        ValueError: If the folder cannot be written or the disk is full.
    """
    path = Path(path)
    left = path.with_name(f"{path.name}.part")
    with writing(path.parent, path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _own_path(path, ".part")
        if not any(_adopt(each, part) for each in [left, *abandoned(path, ".part")]):
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        try:
            yield part
        finally:
            with contextlib.suppress(OSError):
                if part.stat().st_size:
                    os.replace(part, left)
                part.unlink(missing_ok=True)


def abandoned(path: Path, suffix: str) -> Iterator[Path]:
    """What processes of this machine that are no more have left beside ``path``: of
    :func:`making_folder` with the suffix ``".tmp"``, of :func:`resuming` with ``".part"``."""
    prefix = _prefix(path)
    for found in sorted(path.parent.glob(f"{glob.escape(prefix)}*{suffix}")):
        pid = found.name[len(prefix) :].split(".")[0]
        if pid.isdigit() and not _lives(int(pid)):
            yield found


def open_regular(path: Path) -> BinaryIO:
    """Opens a file of one's own to read and append, and follows no link.

    Raises:
        OSError: If it is a link, has several names, or is no regular file.
    """
    flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(handle)
        raise OSError(f"{path} is no regular file of one name")
    return os.fdopen(handle, "rb+")


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


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON, whole or not at all.

    Raises:
        ValueError: As :func:`replacing`.
    """
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def _own_path(path: Path, suffix: str) -> Path:
    """A new hidden name beside ``path``, with this machine and process in it."""
    return path.with_name(f"{_prefix(path)}{os.getpid()}.{secrets.token_hex(4)}{suffix}")


def _prefix(path: Path) -> str:
    return f".{path.name}.{socket.gethostname()}."


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _adopt(left: Path, part: Path) -> bool:
    """Takes over a partial file, unless another process is quicker or it is no plain file."""
    try:
        if not stat.S_ISREG(left.lstat().st_mode):
            return False
        os.rename(left, part)
    except FileNotFoundError:
        return False
    try:
        open_regular(part).close()
    except OSError:
        part.unlink()
        return False
    return True


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, outlast a power failure."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
