"""The old place of :func:`sbmgraph.sample` and its choices."""

from __future__ import annotations

import warnings
from typing import Any

from sbmgraph import ops


def __getattr__(name: str) -> Any:
    if name not in ("ALGORITHMS", "LAWS", "sample"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"sbmgraph.sampling.{name} is now sbmgraph.ops.{name}; the old name goes in the next "
        "version",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(ops, name)
