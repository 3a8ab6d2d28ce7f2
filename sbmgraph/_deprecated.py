"""Names of the last version, which work for this one more and say what they are called now."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sbmgraph.graph import SampledGraph
from sbmgraph.ops.edge_prob import edge_prob
from sbmgraph.sbm import SBM


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Says that ``old`` is now ``new``."""
    warnings.warn(
        f"{old} is now {new}; the old name goes in the next version",
        DeprecationWarning,
        stacklevel=stacklevel,
    )


def renamed(function: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """``function`` under its old name."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        warn(old, new)
        return function(*args, **kwargs)

    return call


def _to_networkx(self: SampledGraph, head: int = 0, graph: int = 0, sbm: SBM | None = None) -> Any:
    from sbmgraph.analysis import to_networkx

    return to_networkx(self, head=head, graph_index=graph, sbm=sbm)


def _to_hetero_data(self: SampledGraph) -> Any:
    from sbmgraph.analysis import to_hetero_data

    return to_hetero_data(self, graph_index=None)


def _check_graph(self: SBM, graph: SampledGraph) -> None:
    self.nodes.check_same("graph", graph.nodes)


def _edge_prob(self: SBM, graph: SampledGraph) -> Tensor:
    return edge_prob(self, graph)


def attach() -> None:
    """Gives the classes their old methods."""
    for owner, name, function, new in (
        (SBM, "edge_prob", _edge_prob, "sbmgraph.ops.edge_prob"),
        (SBM, "check_graph", _check_graph, "sbm.nodes.check_same"),
        (SampledGraph, "to_networkx", _to_networkx, "sbmgraph.analysis.to_networkx"),
        (SampledGraph, "to_hetero_data", _to_hetero_data, "sbmgraph.analysis.to_hetero_data"),
    ):
        setattr(owner, name, renamed(function, f"{owner.__name__}.{name}", new))
