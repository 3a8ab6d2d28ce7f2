"""Names of temporary files that say whose they are, so that those of killed processes are found."""

from __future__ import annotations

import glob
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path


def own_path(path: Path, suffix: str) -> Path:
    """A new hidden name beside ``path``, with this machine and process in it."""
    return path.with_name(f"{_prefix(path)}{os.getpid()}.{secrets.token_hex(4)}{suffix}")


def abandoned(path: Path, suffix: str) -> Iterator[Path]:
    """What processes of this machine that are no more have left of :func:`own_path`."""
    for found in sorted(path.parent.glob(f"{glob.escape(_prefix(path))}*{suffix}")):
        pid = found.name[len(_prefix(path)) :].split(".")[0]
        if pid.isdigit() and not _lives(int(pid)):
            yield found


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
