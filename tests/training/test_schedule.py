"""Learning rates: the authors' cycle in closed form, and what each schedule needs."""

import pytest
import torch

from sbmgraph.training.schedule import check_warmup, make_schedule


def trace(name: str, warmup: int, steps: int, count: int) -> list[tuple[float, float]]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = make_schedule(name, optimizer, warmup, steps)
    seen = []
    for _ in range(count):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["betas"][0]))
        optimizer.step()
        schedule.step()
    return seen


def test_the_authors_cycle():
    seen = trace("one_cycle_momentum", 5, 20, 20)
    peak = 4  # torch's rise ends one step before pct_start * total_steps
    for step, (rate, beta) in enumerate(seen):
        up = min(step / peak, 1.0)
        down = max(step - peak, 0) / (19 - peak)
        share = (1 / 25 + (1 - 1 / 25) * up) if step <= peak else 1 + (1 / 250_000 - 1) * down
        assert rate == pytest.approx(0.1 * share)
        assert beta == pytest.approx(0.95 - 0.1 * up if step <= peak else 0.85 + 0.1 * down)


def test_constant_after_the_warm_up():
    rates = [rate for rate, _ in trace("constant", 4, 10, 8)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("linear", 5, 5), "'warmup_steps' must be below the run's 5 steps"),
        (("linear", 5, None), "'max_steps' must be a number of steps for schedule 'linear'"),
        (("one_cycle_momentum", 1, 10), "'warmup_steps' must be at least 2"),
    ],
)
def test_what_schedules_need(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_warmup(*arguments)
    check_warmup("constant", 100, None)
