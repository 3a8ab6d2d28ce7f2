"""One run at a time in a run folder; whoever comes second is told who is there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from sbmgraph.files import write_atomically

LOCK, HOLDER = ".lock", ".lock.json"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """See :meth:`sbmgraph.run.Run.lock`.

    Args:
        folder: The run folder; made where it is missing.

    Raises:
        ValueError: If another process holds it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{folder}: expected a run folder that no other run writes to, but {holder(folder)} "
            "does. Wait for it, stop it, or choose another '--name'"
        ) from None
    except OSError as error:
        raise ValueError(
            f"{folder}: expected a folder that can be written and locked, got {error}"
        ) from error
    try:
        write_atomically(folder / HOLDER, json.dumps(_this_process()) + "\n")
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def holder(folder: Path) -> str:
    """Who holds a run folder, in words."""
    try:
        held = json.loads((folder / HOLDER).read_text())
        return f"process {held['pid']} on {held['host']}, since {held['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _this_process() -> dict[str, object]:
    now = datetime.now(timezone.utc).astimezone()
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": now.isoformat(sep=" ", timespec="seconds"),
    }
