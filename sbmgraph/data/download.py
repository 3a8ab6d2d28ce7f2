"""Downloads that go on where they broke off, and are checked before they count."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

MIRROR_VARIABLE = "SBMGRAPH_MIRROR"
_BLOCK = 1 << 16
_IDLE_ATTEMPTS = 5
_ATTEMPTS = 100
_PAUSE = 0.5


class Archive(NamedTuple):
    """A published file: name, address, and checksum as ``algorithm:hexdigest``."""

    name: str
    url: str
    checksum: str


IMDB = Archive(
    "aclImdb_v1.tar.gz",
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    "md5:7c2ac02c03563afcf9b574c7e56c153a",
)
CIFAR10 = Archive(
    "cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "md5:c58f30108f718f92721af3b95e74349a",
)


def fetch(archive: Archive, root: Path, mirror: str | None = None) -> Path:
    """Downloads an archive into ``root``, unless it is there already.

    Args:
        archive: What to download.
        root: Where to put it.
        mirror: Base address to try before the archive's own; default: the environment variable
            ``SBMGRAPH_MIRROR``, if set.

    Returns:
        Path of the complete and checked file.

    Raises:
        ValueError: If no address has it, it is cut short again and again, its checksum is wrong,
            or it cannot be written.
    """
    path = Path(root) / archive.name
    if path.exists():
        return path
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    mirrored = [f"{mirror.rstrip('/')}/{archive.name}"] if mirror else []
    download([*mirrored, archive.url], path, archive.checksum)
    return path


def download(urls: Sequence[str], path: Path, checksum: str, timeout: float = 30.0) -> None:
    """Downloads a file from the first of several addresses that has it.

    What has come of it is kept in ``<path>.part``; a later call goes on from there if the server
    can (HTTP ranges), and starts again if it cannot.

    Args:
        urls: Addresses to try in turn.
        path: The file; it appears once its checksum is right.
        checksum: ``"md5:..."`` or ``"sha256:..."``.
        timeout: Seconds without any data after which a connection counts as broken.

    Raises:
        ValueError: As :func:`fetch`; a file with a wrong checksum is removed.
    """
    algorithm, _, digest = checksum.partition(":")
    if algorithm not in ("md5", "sha256") or not digest:
        raise ValueError(f"checksum: expected 'md5:...' or 'sha256:...', got {checksum!r}")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        reasons = []
        for url in urls:
            reason = _complete(url, part, timeout) or _verify(part, algorithm, digest)
            if reason is None:
                os.replace(part, path)
                return
            reasons.append(f"{url}: {reason}")
    except OSError as error:
        raise ValueError(
            f"{path.parent}: expected a folder with room for {path.name}, "
            f"but could not write to it ({error.strerror or error})"
        ) from error
    raise ValueError(
        f"{path.name}: could not be downloaded. {'; '.join(reasons)}. "
        f"Fetch it by other means and put it at {path}, or name a mirror "
        f"(option mirror, or the environment variable {MIRROR_VARIABLE})."
    )


def _complete(url: str, part: Path, timeout: float) -> str | None:
    """Downloads until everything is there; the reason, if that does not succeed."""
    reason: str | None = None
    idle = 0
    for _ in range(_ATTEMPTS):
        before = _size(part)
        reason, again = _attempt(url, part, timeout)
        if not again:
            return reason
        idle = 0 if _size(part) > before else idle + 1
        if idle == _IDLE_ATTEMPTS:
            break
        time.sleep(idle * _PAUSE)
    return f"{reason}, again and again"


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _attempt(url: str, part: Path, timeout: float) -> tuple[str | None, bool]:
    """One request: the reason of its failure, if any, and whether to try again."""
    have = _size(part)
    headers = {"User-Agent": "sbmgraph", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return _receive(response, part, have)
    except urllib.error.HTTPError as error:
        # The range starts at the end of the file: everything is there, or it is another file.
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return None, False
        if error.code == 416:
            part.unlink()
            return "the partial file did not fit", True
        return f"HTTP {error.code} {error.reason}", error.code >= 500
    except urllib.error.URLError as error:
        return str(error.reason), False
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        return f"the connection broke ({error or type(error).__name__})", True


def _receive(response, part: Path, have: int) -> tuple[str | None, bool]:
    resumed = response.status == 206
    start = have if resumed else 0
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    bar = tqdm(
        total=total, initial=start, desc=part.stem, unit="B", unit_scale=True, unit_divisor=1024
    )
    with bar, open(part, "ab" if resumed else "wb") as file:
        while block := response.read(_BLOCK):
            file.write(block)
            bar.update(len(block))
    size = part.stat().st_size
    if total is not None and size < total:
        return f"cut short at {size} of {total} bytes", True
    return None, False


def _verify(part: Path, algorithm: str, digest: str) -> str | None:
    found = hashlib.new(algorithm, usedforsecurity=False)
    with open(part, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    if found.hexdigest() == digest:
        return None
    part.unlink()
    return f"expected the {algorithm} checksum {digest}, got {found.hexdigest()} (file removed)"
