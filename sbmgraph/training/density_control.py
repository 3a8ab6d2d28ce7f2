"""Steering the density that heads learn: a penalty with a target, and schedules of both.

A fixed weight either holds a head at the ceiling or thins it out for good. A *target* stops the
pull where one wants to be, and schedules let the task's gradient say first which edges are of use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sbmgraph.checks import check_choice, check_range
from sbmgraph.nn.heads import SBMHeads
from sbmgraph.ops.edge_prob import edge_prob
from sbmgraph.record import LayerSample

PENALTIES = ("expected", "sampled", "bound")
SHAPES = ("linear", "cosine")


@dataclass(frozen=True)
class DensityConfig:
    """How density is penalised: the loss gains :math:`w_t \\max(0, d - d^*_t)` at step t.

    Places in the run are optimizer steps, or shares of the run where below 1.

    Args:
        weight: The largest weight w (the paper's lambda, Section 3.3).
        target: The density d* below which nothing is penalised; 0 penalises always.
        start: Where the penalty begins; before, its weight is 0.
        ramp: How long the weight takes to grow linearly to its largest; 0 is at once.
        start_target: The target at ``start``, from where it falls to ``target``. (default:
            ``target``)
        anneal: How long the target takes for that.
        shape: How the target falls: ``"linear"`` or ``"cosine"``.
        penalty: Which density d: ``"expected"`` (exact, without sampling noise), or ``"sampled"``:
            that of the drawn graphs, whose gradient is the expected density's on the drawn edges
            alone (straight through), as in the authors' program. ``"bound"`` penalises nothing:
            the target is the ``max_density`` of every layer instead, so that pairs compete for what
            it allows. In evaluation the bound is ``target``, however far the training has come.

    Raises:
        ValueError: If a value is out of range.
    """

    weight: float = 1e-4
    target: float = 0.0
    start: float = 0.0
    ramp: float = 0.0
    start_target: float | None = None
    anneal: float = 0.0
    shape: str = "linear"
    penalty: str = "expected"

    def __post_init__(self) -> None:
        check_range("weight", self.weight, 0.0, math.inf, high_open=True)
        check_range("target", self.target, 0.0, 1.0)
        for name in ("start", "ramp", "anneal"):
            check_range(name, getattr(self, name), 0.0, math.inf, high_open=True)
        if self.start_target is not None:
            check_range("start_target", self.start_target, self.target, 1.0)
            if self.start_target > self.target and self.anneal == 0:
                raise ValueError(
                    f"'anneal' must be above 0 where 'start_target' = {self.start_target:g} is "
                    f"above 'target' = {self.target:g}, got 0"
                )
        check_choice("shape", self.shape, SHAPES)
        check_choice("penalty", self.penalty, PENALTIES)
        if self.is_bound and self.target == 0:
            raise ValueError("'target' must be above 0 where it is a bound, got 0")

    @property
    def is_bound(self) -> bool:
        """Whether density is bounded rather than penalised."""
        return self.penalty == "bound"


class DensityControl:
    """The penalty of each step: a pure function of the step, so that a resumed run goes on exactly.

    Args:
        config: What to do.
        steps: Optimizer steps of the run, which shares are of.

    Raises:
        ValueError: If the configuration has shares and the run's length is not known.
    """

    def __init__(self, config: DensityConfig, steps: int | None = None) -> None:
        self.config = config
        self.start, self.ramp, self.anneal = (
            _place(name, getattr(config, name), steps) for name in ("start", "ramp", "anneal")
        )

    def weight(self, step: int) -> float:
        """The penalty's weight at a step, counted from 0."""
        since = step - self.start
        if since < 0:
            return 0.0
        return self.config.weight * (1.0 if self.ramp == 0 else min(since / self.ramp, 1.0))

    def target(self, step: int) -> float:
        """The target density at a step, counted from 0."""
        config = self.config
        if config.start_target is None:
            return config.target
        done = min(max(step - self.start, 0) / self.anneal, 1.0) if self.anneal else 1.0
        left = 1.0 - done if config.shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return config.target + (config.start_target - config.target) * left

    def penalty(self, runs: Sequence[LayerSample], step: int) -> Tensor | None:
        """What the loss gains at a step: a scalar, differentiable in the recorded memberships.

        Args:
            runs: What the step's layers sampled, from :func:`sbmgraph.record`.
            step: The optimizer step, from 0.

        Returns:
            The penalty, :obj:`None` where nothing was recorded or the weight is 0.
        """
        weight = self.weight(step)
        if weight == 0 or self.config.is_bound or not len(runs):
            return None
        measure = expected_density if self.config.penalty == "expected" else sampled_density
        return weight * (measure(runs) - self.target(step)).clamp(min=0)

    def values(self, step: int) -> dict[str, float]:
        """What to log of a step: ``density_weight`` and ``target_density``."""
        weight = 0.0 if self.config.is_bound else self.weight(step)
        return {"density_weight": weight, "target_density": self.target(step)}


def bound_density(model: nn.Module, max_density: float) -> None:
    """Sets the bound of the expected density of every layer's heads that sample.

    Args:
        model: What holds :class:`~sbmgraph.nn.SBMHeads`, at any depth.
        max_density: The bound; from 1 on there is none.

    Raises:
        ValueError: If it is not above the heads' exploration.
    """
    for module in model.modules():
        if isinstance(module, SBMHeads) and not module.dense:
            module.max_density = max_density if max_density < 1 else None


def expected_density(runs: Sequence[LayerSample]) -> Tensor:
    """Mean expected density over runs, graphs and heads, without exploration."""
    return torch.stack([run.sbm.expected_density().mean() for run in runs]).mean()


def sampled_density(runs: Sequence[LayerSample]) -> Tensor:
    """Mean density of the sampled graphs over runs, graphs and heads, straight through: its value
    is exact, its gradient that of the drawn edges' probabilities."""
    return torch.stack([_sampled(run) for run in runs]).mean()


def _sampled(run: LayerSample) -> Tensor:
    graph = run.graph
    value = graph.density()  # [graphs, heads]
    if graph.num_edges == 0:
        return value.mean()
    # Of a graph and head, edges / density is the number of pairs: every edge's share of the mean.
    query = graph.edge_index[1]
    batch = torch.zeros_like(query) if graph.query_batch is None else graph.query_batch[query]
    place = batch * graph.heads + graph.head
    edges = torch.bincount(place, minlength=value.numel()).to(value.dtype)
    share = value.flatten() / edges.clamp(min=1) / value.numel()
    gradient = (edge_prob(run.sbm, graph) * share[place]).sum()
    return value.mean() + gradient - gradient.detach()


def _place(name: str, value: float, steps: int | None) -> float:
    if not 0 < value < 1:
        return value
    if steps is None:
        raise ValueError(
            f"{name!r} must be a number of steps where the run has no known length, got the share "
            f"{value:g}"
        )
    return value * steps
