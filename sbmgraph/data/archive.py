"""Data sets in ``.tar.gz`` archives: only regular files of a bounded size are read from them."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sbmgraph.data.reading import UnexpectedError, bad_file, open_file, refusing

_WHAT = "a complete .tar.gz archive"
_LARGEST_ARCHIVE = 1 << 31
_MOST_FILES = 1_000_000


def archive_files(
    path: Path, wanted: Callable[[str], bool], largest: int
) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the files in an archive whose name is wanted.

    The archive is read to its end, where gzip's checksum stands, so that no damage goes unnoticed.

    Args:
        path: The archive.
        wanted: Whether a file of this name is wanted.
        largest: Bytes that a wanted file may have. The whole archive may unpack to 2 GiB.

    Raises:
        ValueError: If the archive is damaged, or a wanted file is too large, is none (a link, say),
            or is there twice.
    """
    names: set[str] = set()
    # Not as a stream ("r|gz"): tarfile takes one that is cut between two files for a whole one.
    with open_file(path, _WHAT) as raw, gzip.GzipFile(fileobj=raw) as unpacked:
        stream = _Bounded(unpacked, largest)
        with refusing(path, _WHAT):
            archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 - nothing to close
        for _ in range(_MOST_FILES):
            with refusing(path, _WHAT):
                member = archive.next()
            if member is None:
                break
            if not wanted(member.name):
                continue
            _check(path, member, largest, names)
            with refusing(path, _WHAT):
                file = archive.extractfile(member)
                content = b"" if file is None else file.read()
            yield member.name, content
        else:
            raise bad_file(path, f"expected at most {_MOST_FILES:,} files, got more")
        with refusing(path, _WHAT):
            while stream.read(1 << 16):
                pass


def _check(path: Path, member: tarfile.TarInfo, largest: int, names: set[str]) -> None:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise bad_file(path, f"expected {member.name!r} to be a regular file, got another kind")
    if member.size > largest:
        raise bad_file(
            path,
            f"expected {member.name!r} to have at most {largest:,} bytes, got {member.size:,}",
        )
    if member.name in names:
        raise bad_file(path, f"expected {member.name!r} once, got it twice")
    names.add(member.name)


class _Bounded(io.RawIOBase):
    """A stream that neither reads too much at once (tarfile reads headers of any size whole) nor
    goes on for ever, as some bytes of gzip can."""

    def __init__(self, stream: gzip.GzipFile, largest: int) -> None:
        self._stream = stream
        self._largest = max(largest, 1 << 20)

    def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        if not 0 <= size <= self._largest:
            raise UnexpectedError(
                f"expected at most {self._largest:,} bytes of a header or file, got {size:,}"
            )
        self._check(self._stream.tell() + size)
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            self._check(offset)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, end: int) -> None:
        if end > _LARGEST_ARCHIVE:
            raise UnexpectedError(f"expected at most {_LARGEST_ARCHIVE:,} bytes unpacked, got more")
