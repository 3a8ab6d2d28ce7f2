"""Names that are methods of :class:`~sbmgraph.run.Run` now, or stand elsewhere: they work in this
version and say so."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

from sbmgraph.run import Run

_MOVED = {
    "BEST": "sbmgraph.run.folder",
    "LAST": "sbmgraph.run.folder",
    "find_damage": "sbmgraph.run.archive",
    "AtomicCheckpointIO": "sbmgraph.training.checkpoints",
    "run_callbacks": "sbmgraph.training.callbacks",
    "run_loggers": "sbmgraph.training.callbacks",
    "write_atomically": "sbmgraph.files",
    "write_json": "sbmgraph.files",
}
_METHODS: dict[str, Callable[..., Any]] = {
    "best_checkpoint": lambda folder: Run(folder).best_checkpoint(),
    "lock_run": lambda folder: Run(folder).lock(),
    "newest_checkpoint": lambda folder: Run(folder).newest_checkpoint(),
    "read_config": lambda folder: Run(folder).config(),
}
_NEW = {"lock_run": "lock", "read_config": "config"}


def former(module: str, name: str) -> Any:
    """What ``module`` had under ``name``, with a ``DeprecationWarning``.

    Raises:
        AttributeError: If it had nothing.
    """
    if name in _METHODS:
        new = f"sbmgraph.training.Run.{_NEW.get(name, name)}"
    elif name in _MOVED:
        new = f"{_MOVED[name]}.{name}"
    else:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(
        f"{module}.{name} is now {new}; the old name goes in the next version",
        DeprecationWarning,
        stacklevel=3,
    )
    if name in _METHODS:
        return _METHODS[name]
    return getattr(importlib.import_module(_MOVED[name]), name)
