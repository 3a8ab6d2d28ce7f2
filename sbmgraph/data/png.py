"""PNG pictures, whose size and checksums are looked at before anything is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np

from sbmgraph.data.reading import UnexpectedError, bad_file, read_file, refusing

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LARGEST = 1 << 20


def read_png(path: Path, height: int, width: int, place: str) -> np.ndarray | None:
    """A picture in grey.

    Args:
        path: The file, of at most 1 MiB.
        height: Pixels of a column.
        width: Pixels of a row.
        place: What refers to the file, for messages.

    Returns:
        uint8 ``[height, width]``, or :obj:`None` for an empty file.

    Raises:
        ValueError: Naming the file and ``place``, if there is no whole PNG picture of this size.
    """
    from PIL import Image

    what = f"a PNG picture of {width} x {height} pixels"
    try:
        content = read_file(path, _LARGEST, what)
        if not content:
            return None
        with refusing(path, what):
            size = _size(content)
        if size != (width, height):
            raise bad_file(path, f"expected {what}, got {size[0]} x {size[1]}")
        with refusing(path, what), Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size != size:
                raise UnexpectedError(f"expected {what} as its header says, got {image.size}")
            return np.array(image.convert("L"))
    except ValueError as error:
        raise ValueError(f"{error} ({place})") from error


def _size(content: bytes) -> tuple[int, int]:
    """Width and height of a PNG file whose pieces are whole and in their order."""
    if not content.startswith(_SIGNATURE):
        raise UnexpectedError(f"expected a PNG picture by its signature, got {content[:8]!r}")
    kinds: list[bytes] = []
    at = len(_SIGNATURE)
    while not kinds or kinds[-1] != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 8 + length
        (checksum,) = struct.unpack_from(">I", content, end)
        if zlib.crc32(content[at + 4 : end]) != checksum:
            raise UnexpectedError(f"expected a whole piece {kind!r}, got another checksum")
        kinds.append(kind)
        at = end + 4
    if kinds[0] != b"IHDR" or kinds.count(b"IHDR") != 1 or at != len(content):
        raise UnexpectedError("expected one IHDR, first, and the end after IEND, got other pieces")
    width, height, depth = struct.unpack_from(">IIB", content, len(_SIGNATURE) + 8)
    if depth > 8:
        raise UnexpectedError(f"expected at most 8 bits a channel, got {depth}")
    return width, height
