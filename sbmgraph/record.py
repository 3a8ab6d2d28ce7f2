"""Recording what a network's SBM layers sample and attend with, without touching forward."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from sbmgraph.checks import describe
from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM

T = TypeVar("T")


class AttendedEdges(NamedTuple):
    """The edges that a group of consecutive heads attended over, sampled and given ones.

    Attributes:
        graph: The edges; its heads are numbered from 0.
        first_head: The layer's number of its first head.
        sampled: Which edges were sampled (the others were given), boolean of shape :obj:`[E]`.
        weights: The attention weight of every edge, before dropout, of shape :obj:`[E]`.
    """

    graph: SampledGraph
    first_head: int
    sampled: Tensor
    weights: Tensor


class LayerSample(NamedTuple):
    """One sampled graph of one layer.

    Attributes:
        name: Qualified name of the layer in the recorded model.
        layer: The layer.
        sbm: The inferred model; its tensors keep their gradient.
        graph: The graph that was sampled from it.
        exploration: The probability that was added to every edge's.
        attended: With ``weights=True``, what the layer attended over: one entry, or two where some
            heads attend over given edges alone.
        source: With ``weights=True``, the features that the layer read keys from, one row a node.
    """

    name: str
    layer: nn.Module
    sbm: SBM
    graph: SampledGraph
    exploration: float
    attended: tuple[AttendedEdges, ...] = ()
    source: Tensor | None = None

    @property
    def weights(self) -> Tensor | None:
        """The attention weight of every edge of :attr:`graph`, of shape :obj:`[E]`; :obj:`None`
        where weights were not recorded."""
        if not self.attended:
            return None
        edges = self.attended[-1]
        return edges.weights[edges.sampled]


class LayerDensity(NamedTuple):
    """The densities of one :class:`LayerSample`, detached.

    Attributes:
        expected: Expected density without exploration, of shape :obj:`[num_graphs, H]`.
        sampled: The fraction of possible edges that were sampled, likewise.
        exploration: The probability that was added to every edge's.
    """

    expected: Tensor
    sampled: Tensor
    exploration: float


def layer_density(sample: LayerSample) -> LayerDensity:
    """The densities of a sample; for ``record(model, keep=layer_density)``."""
    expected = sample.sbm.expected_density().detach()
    return LayerDensity(expected, sample.graph.density(), sample.exploration)


class Recorder(Sequence[T], Generic[T]):
    """What was recorded of a model, in the order of the calls."""

    def __init__(
        self,
        names: dict[nn.Module, str],
        weights: bool = False,
        keep: Callable[[LayerSample], T] | None = None,
    ) -> None:
        self._names = names
        self._weights = weights
        self._keep = keep
        self._kept: list[tuple[str, T]] = []
        self._densities: list[Tensor] = []
        self._lacks_gradient = False

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [kept for _, kept in self._kept[index]]
        return self._kept[index][1]

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[T]:
        return (kept for _, kept in self._kept)

    def clear(self) -> None:
        """Forgets everything so far."""
        self._kept.clear()
        self._densities.clear()
        self._lacks_gradient = False

    def by_layer(self) -> dict[str, list[T]]:
        """What was recorded of each layer, by its name."""
        layers: dict[str, list[T]] = {}
        for name, kept in self._kept:
            layers.setdefault(name, []).append(kept)
        return layers

    def expected_density(self) -> Tensor:
        """The mean expected density over samples, graphs and heads, without exploration: the
        quantity that the density penalty weighs (Section 3.3), differentiable and without sampling
        noise.

        Raises:
            ValueError: If nothing was recorded, or a gradient is wanted that reentrant
                checkpointing has cut.
        """
        if not self._kept:
            raise ValueError(
                "'expected_density' needs a recorded sample, got none: call the model inside "
                "'with record(model) as runs', and make sure that it holds an SBM layer"
            )
        if self._lacks_gradient and torch.is_grad_enabled():
            raise ValueError(
                "'expected_density' needs samples that carry a gradient, got some from reentrant "
                "checkpointing, which cuts it: checkpoint with use_reentrant=False"
            )
        densities = self._densities
        if self._keep is None:
            densities = [sample.sbm.expected_density().mean() for sample in self]  # type: ignore
        return torch.stack(densities).mean()

    def _add(self, sample: LayerSample, lacks_gradient: bool) -> None:
        self._lacks_gradient |= lacks_gradient
        kept: Any = sample
        if self._keep is not None:
            # What this saves for a backward pass is hidden from checkpointing, which would miss it
            # when it computes the layer again.
            with torch.autograd.graph.saved_tensors_hooks(_same, _same):
                self._densities.append(sample.sbm.expected_density().mean())
                kept = self._keep(sample)
        self._kept.append((sample.name, kept))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(samples={len(self)}, layers={list(self.by_layer())})"


def _same(x: Tensor) -> Tensor:
    return x


_active: ContextVar[tuple[Recorder[Any], ...]] = ContextVar("sbmgraph_recorders", default=())


@contextmanager
def record(
    model: nn.Module,
    weights: bool = False,
    keep: Callable[[LayerSample], Any] | None = None,
) -> Generator[Recorder[Any], None, None]:
    """Records each SBM layer's model and sampled graph while ``model`` runs.

    Usage::

        with record(model) as runs:
            out = model(x)
        loss = criterion(out, y) + 1e-3 * runs.expected_density()
        runs[0].graph.density()

        with record(model, keep=layer_density) as densities:   # numbers only, no graph is kept
            trainer.evaluate(model)

    Recordings nest, and each sees only the layers of its own model. What a backward pass computes
    again (``torch.utils.checkpoint``) is not recorded again.

    Args:
        model (torch.nn.Module): A module that holds SBM layers.
        weights (bool, optional): Whether to record attention weights and the features that keys
            were read from too. Where gradients are on, layers then attend by the reference
            backend, and weights carry a gradient. (default: :obj:`False`)
        keep (Callable, optional): Called with every :class:`LayerSample` as it comes; what it
            returns is recorded in its place. (default: the sample itself)

    Yields:
        Recorder: A sequence of :class:`LayerSample`, or of what ``keep`` returns, filled while the
        block is active.

    Examples:
        >>> import torch
        >>> from sbmgraph import record
        >>> from sbmgraph.nn import SBMTransformer
        >>> model = SBMTransformer(vocab_size=10, num_classes=2, num_layers=2, num_clusters=4)
        >>> with record(model) as runs:
        ...     out = model(torch.randint(10, (3, 20)))
        >>> [sample.name for sample in runs]
        ['layers.0.attention.conv', 'layers.1.attention.conv']
        >>> runs[0].sbm.expected_density().shape  # [inputs, heads]
        torch.Size([3, 2])

    Raises:
        ValueError: If ``model`` is not a module, or ``keep`` not callable.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"'model' must be a torch.nn.Module, got {describe(model)}")
    if keep is not None and not callable(keep):
        raise ValueError(f"'keep' must be a function of a LayerSample, got {describe(keep)}")
    names = {module: name for name, module in model.named_modules()}
    recorder: Recorder[Any] = Recorder(names, bool(weights), keep)
    token = _active.set((*_active.get(), recorder))
    try:
        yield recorder
    finally:
        _active.reset(token)


def is_recorded(layer: nn.Module) -> bool:
    """Whether an active recorder covers ``layer``."""
    return any(layer in recorder._names for recorder in _active.get())


def wants_weights(layer: nn.Module) -> bool:
    """Whether an active recorder that covers ``layer`` asks for attention weights."""
    return any(layer in recorder._names and recorder._weights for recorder in _active.get())


def emit(
    layer: nn.Module,
    sbm: SBM,
    graph: SampledGraph,
    exploration: float,
    attended: tuple[AttendedEdges, ...] = (),
    source: Tensor | None = None,
) -> None:
    """Hands what a layer sampled to the active recorders that cover the layer: to those that ask
    for weights if ``attended`` has them, else to the others."""
    if in_backward():
        return
    for recorder in _active.get():
        name = recorder._names.get(layer)
        if name is None or recorder._weights != bool(attended):
            continue
        lacks = not torch.is_grad_enabled() and layer.training and in_reentrant_checkpoint()
        if lacks and not recorder._lacks_gradient:
            warnings.warn(
                "reentrant checkpointing cuts the gradient of what is recorded (a density penalty "
                "would have none): checkpoint with use_reentrant=False",
                stacklevel=2,
            )
        recorder._add(LayerSample(name, layer, sbm, graph, exploration, attended, source), lacks)


def in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread, so that a forward pass is the
    recomputation of an earlier one."""
    return torch._C._current_graph_task_id() != -1


def in_reentrant_checkpoint() -> bool:
    """Whether this is the forward pass of a reentrant ``torch.utils.checkpoint``."""
    code = CheckpointFunction.forward.__code__
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


@contextmanager
def evaluating(model: nn.Module) -> Generator[None, None, None]:
    """Puts ``model`` into evaluation mode, and at the end each of its modules back into the mode
    that it had.

    Args:
        model (torch.nn.Module): The model.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
