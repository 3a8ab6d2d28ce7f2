"""The former argument names: ``sampled`` for a sampled graph, ``graph`` for an index."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def accepts_old_names(function: Callable[P, R]) -> Callable[P, R]:
    """Lets ``function(graph: SampledGraph, …, graph_index: int)`` be called by the names of version
    0.1, ``sampled=`` and ``graph=<int>``, with a ``DeprecationWarning``."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if isinstance(kwargs.get("graph"), int | np.integer):
            kwargs["graph_index"] = kwargs.pop("graph")
            _warn(function, "graph", "graph_index")
        if "sampled" in kwargs:
            kwargs["graph"] = kwargs.pop("sampled")
            _warn(function, "sampled", "graph")
        return function(*args, **kwargs)

    return call


def _warn(function: Callable, old: str, new: str) -> None:
    name = getattr(function, "__name__", "function")
    warnings.warn(
        f"{name}: argument '{old}' is now called '{new}'", DeprecationWarning, stacklevel=3
    )
