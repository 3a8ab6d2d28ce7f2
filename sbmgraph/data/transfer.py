"""The requests of a download, repeated for as long as something comes."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from sbmgraph.files import open_regular

BLOCK = 1 << 16
IDLE_ATTEMPTS = 5
ATTEMPTS = 100
PAUSE = 0.5


def complete(url: str, part: Path, name: str, timeout: float, size: int | None) -> str | None:
    """Downloads until everything is there.

    Args:
        url: The address.
        part: A regular file, which is appended to.
        name: Name of the file in the progress bar.
        timeout: Seconds without any data after which a connection counts as broken.
        size: Bytes of the file, if known.

    Returns:
        The reason, if that does not succeed.

    Raises:
        OSError: If ``part`` cannot be written.
    """
    reason: str | None = None
    idle = 0
    for _ in range(ATTEMPTS):
        before = part.stat().st_size
        reason, again = _attempt(url, part, name, timeout, size)
        if not again:
            return reason
        idle = 0 if part.stat().st_size > before else idle + 1
        if idle == IDLE_ATTEMPTS:
            break
        time.sleep(idle * PAUSE)
    return f"{reason}, again and again"


def _attempt(
    url: str, part: Path, name: str, timeout: float, size: int | None
) -> tuple[str | None, bool]:
    """One request: the reason of its failure, if any, and whether to try again."""
    have = part.stat().st_size
    headers = {"User-Agent": "sbmgraph", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        # The range starts at the end of the file: everything is there, or it is another file.
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return None, False
        if error.code == 416:
            _empty(part)
            return "the partial file did not fit", True
        return f"HTTP {error.code} {error.reason}", error.code >= 500
    except urllib.error.URLError as error:
        return str(error.reason), False
    except (ValueError, http.client.InvalidURL) as error:
        return str(error), False
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        return f"the connection broke ({error or type(error).__name__})", True
    except OSError as error:
        return str(error), False
    with response:
        return _receive(response, part, name, have, size)


def _receive(
    response: Any, part: Path, name: str, have: int, size: int | None
) -> tuple[str | None, bool]:
    start = have if response.status == 206 else 0
    if start and not _begins_at(response, start):
        _empty(part)
        return "the server sent another range than it was asked for", True
    length = response.headers.get("Content-Length") or ""
    total = start + int(length) if length.isdecimal() else size
    if size is not None and total != size:
        return f"expected a file of {size:,} bytes, got one of {total:,}", False
    if not start:
        _empty(part)
    bar = tqdm(total=total, initial=start, desc=name, unit="B", unit_scale=True, unit_divisor=1024)
    found = start
    with bar, open_regular(part) as file:
        while True:
            try:
                block = response.read(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                return f"the connection broke ({error or type(error).__name__})", True
            if not block:
                break
            found += len(block)
            if total is not None and found > total:
                file.truncate(0)
                return f"expected {total:,} bytes, got more", False
            file.write(block)
            bar.update(len(block))
    if total is not None and found < total:
        return f"cut short at {found} of {total} bytes", True
    return None, False


def _begins_at(response: Any, start: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")


def _empty(part: Path) -> None:
    with open_regular(part) as file:
        file.truncate(0)
