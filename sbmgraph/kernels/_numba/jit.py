"""The decorator of all compiled CPU kernels, and their cache on disk.

Importing this module imports Numba; nothing does so before a kernel is needed.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

FASTMATH = {"reassoc", "contract", "nsz", "arcp"}  # NaN and infinity keep their meaning


def inlined_files() -> list[Path]:
    """The files whose compiled functions other files may inline."""
    folder = Path(__file__).parent
    return sorted([*folder.glob("*.py"), *folder.parent.glob("*/cpu*.py")])


def _stamp() -> str:
    files = inlined_files()
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


STAMP = _stamp()
"""Compiled code on disk is of use only beside the functions that were inlined into it, from this
folder or other kernels' files; Numba itself compares the kernel's own file alone."""


class _SafeCache:
    """Numba's cache of one kernel, whose faults cost a compilation and never a step: an entry that
    cannot be read is compiled anew, and one that cannot be written stays in memory."""

    def __init__(self, cache: Any, name: str) -> None:
        self._cache, self._name = cache, name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._cache, attribute)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        try:
            return self._cache.load_overload(signature, target_context)
        except Exception as error:  # unpickling damaged bytes raises anything
            _warn_once("read", self._name, error)
            try:
                self._cache.flush()
            except OSError as unwritable:
                _warn_once("written", self._name, unwritable)
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            self._cache.save_overload(signature, data)
        except Exception as error:  # a damaged index fails here as it does on loading
            _warn_once("written", self._name, error)


_warned: set[str] = set()


def _warn_once(what: str, name: str, error: Exception) -> None:
    if what not in _warned:
        _warned.add(what)
        warnings.warn(
            f"Numba's cache entry of {name} could not be {what} ({type(error).__name__}: {error}): "
            "the kernel is compiled in this process; the folder is NUMBA_CACHE_DIR, or __pycache__",
            RuntimeWarning,
            stacklevel=2,
        )


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles ``function`` on first use, without the GIL, cached on disk where possible."""
    compiled = njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(function)
    try:
        compiled.enable_caching()
        file = compiled._cache._cache_file
        file._source_stamp = (file._source_stamp, STAMP)
        compiled._cache = _SafeCache(compiled._cache, function.__qualname__)
    except (RuntimeError, OSError) as error:  # no folder can be written
        _warn_once("written", function.__qualname__, error)
    return compiled


inline = njit(fastmath=FASTMATH, error_model="numpy", forceinline=True)
