"""Learning rates over a run."""

from __future__ import annotations

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from sbmgraph.checks import check_choice

SCHEDULES = ("linear", "one_cycle_momentum", "constant")
"""Names of the schedules, see :func:`make_schedule`."""


def make_schedule(
    name: str, optimizer: Optimizer, warmup: int, steps: int | None, final: float = 0.0
) -> LRScheduler:
    """Makes a schedule that is stepped after every optimizer step.

    ``"linear"`` rises linearly to the optimizer's rates in ``warmup`` steps and then falls linearly
    to ``final`` of them. ``"one_cycle_momentum"`` is what the SBM-Transformer authors train with:
    linear from 1/25 of the rates to them and down to 1/250,000, while Adam's first beta goes from
    0.95 to 0.85 and back. ``"constant"`` stays at the rates after the warm-up, and is the only one
    for a run whose length nobody knows.

    Args:
        name: One of :data:`SCHEDULES`.
        optimizer: Its groups' rates are the largest of the run.
        warmup: Steps of the rise.
        steps: Steps of the run; :obj:`None` if not known.
        final: The last rate of ``"linear"``, as a share of the largest.

    Raises:
        ValueError: If the name is unknown, or the numbers of steps do not fit it.
    """
    check_choice("schedule", name, SCHEDULES)
    if name == "constant":
        return LambdaLR(optimizer, partial(warmed_up, warmup=warmup))
    check_warmup(name, warmup, steps)
    assert steps is not None
    if name == "linear":
        return LambdaLR(optimizer, partial(one_cycle, warmup=warmup, steps=steps, final=final))
    return OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=warmup / steps,
        anneal_strategy="linear",
        cycle_momentum=True,
        base_momentum=0.85,
        max_momentum=0.95,
        div_factor=25.0,
        final_div_factor=1e4,
    )


def check_warmup(name: str, warmup: int, steps: int | None) -> None:
    """Checks that a schedule fits a run of ``steps`` steps.

    Raises:
        ValueError: If it does not.
    """
    if name == "constant":
        return
    if steps is None:
        raise ValueError(
            f"'max_steps' must be a number of steps for schedule {name!r}, got none: give one, or "
            "choose schedule 'constant', which ends with 'max_time'"
        )
    if not warmup < steps:
        raise ValueError(f"'warmup_steps' must be below the run's {steps} steps, got {warmup}")
    if name == "one_cycle_momentum" and warmup < 2:
        raise ValueError(
            f"'warmup_steps' must be at least 2 for schedule 'one_cycle_momentum', got {warmup}"
        )


def one_cycle(step: int, warmup: int, steps: int, final: float = 0.0) -> float:
    """The learning rate of a step (from 0) as a share of the largest: it grows linearly to that in
    ``warmup`` steps and then falls linearly, to ``final`` just after the last of ``steps``."""
    left = (steps - step) / (steps - warmup)
    return min((step + 1) / max(warmup, 1), final + (1.0 - final) * left)


def warmed_up(step: int, warmup: int) -> float:
    """The share of the largest rate that ``"constant"`` has at a step (from 0)."""
    return min((step + 1) / max(warmup, 1), 1.0)
