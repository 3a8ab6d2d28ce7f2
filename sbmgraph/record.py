"""Recording the models and graphs that a network's SBM layers sample, without touching forward."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn

from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM


class LayerSample(NamedTuple):
    """One sampled graph of one layer.

    Attributes:
        name: Qualified name of the layer in the recorded model.
        layer: The layer.
        sbm: The inferred model; its tensors keep their gradient.
        graph: The sampled graph that the layer attended over.
        exploration: The probability that was added to every edge's.
    """

    name: str
    layer: nn.Module
    sbm: SBM
    graph: SampledGraph
    exploration: float


class Recorder(Sequence[LayerSample]):
    """The runs of a recorded model, in the order of the calls."""

    def __init__(self, names: dict[nn.Module, str]) -> None:
        self._names = names
        self._runs: list[LayerSample] = []

    @overload
    def __getitem__(self, index: int) -> LayerSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[LayerSample]: ...
    def __getitem__(self, index: int | slice) -> LayerSample | list[LayerSample]:
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[LayerSample]:
        return iter(self._runs)

    def clear(self) -> None:
        """Forgets all runs so far."""
        self._runs.clear()

    def by_layer(self) -> dict[str, list[LayerSample]]:
        """The runs of each layer, by its name."""
        layers: dict[str, list[LayerSample]] = {}
        for run in self._runs:
            layers.setdefault(run.name, []).append(run)
        return layers

    def expected_density(self) -> Tensor:
        """The mean expected density over runs, graphs and heads, without exploration: the quantity
        that the density penalty weighs (Section 3.3), differentiable and without sampling noise.

        Raises:
            ValueError: If nothing was recorded.
        """
        if not self._runs:
            raise ValueError(
                "'expected_density' needs a recorded run, got none: call the model inside "
                "'with record(model) as runs', and make sure that it holds an SBM layer"
            )
        return torch.stack([run.sbm.expected_density().mean() for run in self._runs]).mean()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(runs={len(self)}, layers={list(self.by_layer())})"


_active: ContextVar[tuple[Recorder, ...]] = ContextVar("sbmgraph_recorders", default=())


@contextmanager
def record(model: nn.Module) -> Generator[Recorder, None, None]:
    """Records each SBM layer's model and sampled graph while ``model`` runs.

    Usage::

        with record(model) as runs:
            out = model(x)
        loss = criterion(out, y) + 1e-3 * runs.expected_density()
        runs[0].graph.density()

    Recordings nest, and each sees only the layers of its own model.

    Args:
        model: A module that holds SBM layers.

    Yields:
        Recorder: A sequence of :class:`LayerSample`, filled while the block is active.

    Raises:
        ValueError: If ``model`` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"'model' must be a torch.nn.Module, got {type(model).__name__}")
    recorder = Recorder({module: name for name, module in model.named_modules()})
    token = _active.set((*_active.get(), recorder))
    try:
        yield recorder
    finally:
        _active.reset(token)


def emit(layer: nn.Module, sbm: SBM, graph: SampledGraph, exploration: float) -> None:
    """Hands a layer's model and sampled graph to the active recorders that cover the layer."""
    for recorder in _active.get():
        name = recorder._names.get(layer)
        if name is not None:
            recorder._runs.append(LayerSample(name, layer, sbm, graph, exploration))
