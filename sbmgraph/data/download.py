"""Downloads that go on where they broke off, and are checked before they count."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sbmgraph.data.reading import bad_file
from sbmgraph.data.transfer import complete
from sbmgraph.files import open_regular, place, resuming

MIRROR_VARIABLE = "SBMGRAPH_MIRROR"


class Archive(NamedTuple):
    """A published file: name, address, checksum as ``algorithm:hexdigest``, and bytes."""

    name: str
    url: str
    checksum: str
    size: int


IMDB = Archive(
    "aclImdb_v1.tar.gz",
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    "md5:7c2ac02c03563afcf9b574c7e56c153a",
    84_125_825,
)
CIFAR10 = Archive(
    "cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "md5:c58f30108f718f92721af3b95e74349a",
    170_498_071,
)


def fetch(archive: Archive, root: Path, mirror: str | None = None) -> Path:
    """Downloads an archive into ``root``, unless it is there already.

    Args:
        archive: What to download.
        root: Where to put it.
        mirror: Base address to try before the archive's own; default: the environment variable
            ``SBMGRAPH_MIRROR``, if set.

    Returns:
        Path of the file; one that was there is not checked here, see :func:`check_published`.

    Raises:
        ValueError: If no address has it, it is cut short again and again, its checksum is wrong,
            or it cannot be written.
    """
    path = Path(root) / archive.name
    if path.exists():
        return path
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    mirrored = [f"{mirror.rstrip('/')}/{archive.name}"] if mirror else []
    download([*mirrored, archive.url], path, archive.checksum, size=archive.size)
    return path


def check_published(path: Path, archive: Archive) -> None:
    """Checks that a file is the published archive, before its content is used.

    Raises:
        ValueError: If its checksum is another.
    """
    with open(path, "rb") as file:
        found = _checksum(file, archive.checksum)
    if found != archive.checksum:
        raise bad_file(
            path,
            f"expected the published archive, with the checksum {archive.checksum}, got {found}. "
            "Delete the file to have it downloaded, or leave out the data option 'download' to "
            "use it as it is.",
        )


def download(
    urls: Sequence[str],
    path: Path,
    checksum: str,
    timeout: float = 30.0,
    size: int | None = None,
) -> None:
    """Downloads a file from the first of several addresses that has it.

    Every call writes to a file of its own, so that several processes may download the same; the
    first to finish wins. What has come of a download that fails is kept in ``<path>.part``, and a
    later call, like one after a process that was killed, goes on from there if the server can (HTTP
    ranges), and starts again if it cannot.

    Args:
        urls: Addresses to try in turn.
        path: The file; it appears once its checksum is right.
        checksum: ``"md5:..."`` or ``"sha256:..."``.
        timeout: Seconds without any data after which a connection counts as broken.
        size: Bytes of the file, if known: no more are taken.

    Raises:
        ValueError: As :func:`fetch`; what has a wrong checksum is removed.
    """
    algorithm, _, digest = checksum.partition(":")
    if algorithm not in ("md5", "sha256") or not digest:
        raise ValueError(f"'checksum' must be 'md5:...' or 'sha256:...', got {checksum!r}")
    reasons = []
    with resuming(path) as part:
        for url in urls:
            reason = complete(url, part, path.name, timeout, size)
            if reason is None:
                reason = _place(part, path, checksum)
            if reason is None:
                return
            reasons.append(f"{url}: {reason}")
    raise bad_file(
        path,
        f"expected a file that can be downloaded, got nothing. {'; '.join(reasons)}. "
        "Fetch it by other means and put it at this path, or name a mirror "
        f"(data option mirror, or the environment variable {MIRROR_VARIABLE}).",
    )


def _place(part: Path, path: Path, checksum: str) -> str | None:
    """Moves what was downloaded into its place, if it is right; the reason, if it is not."""
    with open_regular(part) as file:
        found = _checksum(file, checksum)
        if found != checksum:
            file.truncate(0)
            return f"expected the checksum {checksum}, got {found} (removed)"
    place(part, path)
    return None


def _checksum(file: BinaryIO, like: str) -> str:
    """The checksum of an open file, by the algorithm of another one."""
    algorithm = like.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    while block := file.read(1 << 20):
        digest.update(block)
    return f"{algorithm}:{digest.hexdigest()}"
