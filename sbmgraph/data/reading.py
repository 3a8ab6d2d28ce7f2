"""Files that others made, read with care: regular ones of a bounded size, every failure named."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def bad_file(path: str | Path, reason: str, line: int | None = None) -> ValueError:
    """The error of a file whose content is not as expected: path and line come first.

    Args:
        path: The file; for a part of it, any text that begins with its path.
        reason: ``"expected ..., got ..."``.
        line: The line, from 1.
    """
    place = path if line is None else f"{path}, line {line}"
    return ValueError(f"{place}: {reason}")


class UnexpectedError(ValueError):
    """``"expected ..., got ..."`` of something within a file, which :func:`refusing` names."""


@contextlib.contextmanager
def refusing(path: str | Path, what: str) -> Iterator[None]:
    """Turns whatever a parser raises on damaged content into an error that names the file.

    Parsers of archives and pictures document no closed set of exceptions (on damaged input they
    raise anything from :class:`struct.error` to :class:`RecursionError`), so all are taken.

    Args:
        path: The file, or text that begins with its path.
        what: What was expected, e.g. ``"a complete .tar.gz archive"``.

    Raises:
        ValueError: ``"path: expected ..., got none that can be read (...)"``, or
            ``"path: expected ..., got ..."`` with the words of an :class:`UnexpectedError`.
    """
    try:
        yield
    except UnexpectedError as error:
        raise bad_file(path, str(error)) from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise bad_file(path, f"expected {what}, got none that can be read ({reason})") from error


def open_file(path: Path, what: str) -> BinaryIO:
    """Opens a regular file to read its bytes.

    Args:
        path: The file.
        what: What was expected of it, for messages.

    Raises:
        ValueError: If there is none at ``path``, or it may not be read.
    """
    try:
        # A pipe or a device would keep us waiting.
        if not stat.S_ISREG(path.stat().st_mode):
            raise bad_file(path, f"expected {what}, got something that is no regular file")
        return open(path, "rb")
    except OSError as error:
        reason = error.strerror or str(error)
        raise bad_file(path, f"expected {what}, got none that can be read ({reason})") from error


def read_file(path: Path, largest: int, what: str) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        largest: Bytes that it may have.
        what: What was expected of it, for messages.

    Raises:
        ValueError: If there is no regular file at ``path`` that may be read, or a larger one.
    """
    with open_file(path, what) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise bad_file(path, f"expected {what} of at most {largest:,} bytes, got a larger one")
    return content
