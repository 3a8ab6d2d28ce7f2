"""The last version's place of :func:`sbmgraph.sample`, kept for this one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sbmgraph._deprecated import warn

__all__ = ["ALGORITHMS", "LAWS", "sample"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn(f"sbmgraph.sampling.{name}", f"sbmgraph.ops.sample.{name}", stacklevel=3)
    return getattr(import_module("sbmgraph.ops.sample"), name)
