"""What tables read: recorded layer samples, or block models by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from sbmgraph.checks import check_range, describe
from sbmgraph.graph import SampledGraph
from sbmgraph.record import LayerSample, Recorder
from sbmgraph.sbm import SBM

Runs: TypeAlias = Recorder | LayerSample | SBM | Iterable[LayerSample]
"""Everything that a table takes: a recorder, one or several layer samples, or an SBM."""


class Sampled(NamedTuple):
    """One row of input of a table.

    Attributes:
        name: Qualified name of the layer; empty for an SBM by itself.
        number: Which sample of its layer this is, from 0.
        sbm: The block models.
        graph: The sampled graphs, :obj:`None` for an SBM by itself.
        exploration: The probability that was added to every edge's.
    """

    name: str
    number: int
    sbm: SBM
    graph: SampledGraph | None
    exploration: float


def numbered(runs: Runs) -> Iterator[Sampled]:
    """The samples of ``runs`` with their number within the layer.

    Raises:
        ValueError: As :func:`layer_samples`.
    """
    seen: Counter[str] = Counter()
    for run in layer_samples(runs):
        yield Sampled(run.name, seen[run.name], run.sbm, run.graph, float(run.exploration))
        seen[run.name] += 1


def layer_samples(runs: Runs) -> list[LayerSample] | list[Sampled]:
    """``runs`` as a list, checked: a :class:`~sbmgraph.record.Recorder`, one or several layer
    samples, or an SBM, which counts as one sample of a layer without a name and without a graph.

    Raises:
        ValueError: If ``runs`` is none of these, holds nothing, or a sample's exploration is no
            probability.
    """
    if isinstance(runs, SBM):
        return [Sampled("", 0, runs, None, 0.0)]
    if _is_sample(runs):
        runs = [runs]  # type: ignore[list-item]
    expected = "'runs' must be a Recorder, recorded layer samples or an SBM"
    if isinstance(runs, str | dict | Tensor) or not isinstance(runs, Iterable):
        raise ValueError(f"{expected}, got {describe(runs)}")
    out: list[Any] = list(runs)
    for run in out:
        if not _is_sample(run):
            raise ValueError(f"{expected}, got {describe(run)} among them")
        check_range("exploration", run.exploration, 0.0, 1.0)
    if not out:
        raise ValueError(f"{expected}, got no sample: was the model called inside record(model)?")
    return out


def recorded_samples(runs: Iterable[LayerSample]) -> list[LayerSample]:
    """:func:`layer_samples` for what needs sampled graphs, so not an SBM by itself.

    Raises:
        ValueError: As :func:`layer_samples`, and for an SBM.
    """
    if isinstance(runs, SBM):
        raise ValueError(
            "'runs' must be a Recorder or recorded layer samples, with sampled graphs, got an SBM"
        )
    return layer_samples(runs)  # type: ignore[return-value]


def _is_sample(run: object) -> bool:
    sbm, graph = getattr(run, "sbm", None), getattr(run, "graph", None)
    return isinstance(sbm, SBM) and isinstance(graph, SampledGraph)
