"""The formulas of tile attention, written out, against dense autograd."""

from __future__ import annotations

import pytest
import torch

from sbmgraph.kernels.options import Options
from sbmgraph.kernels.tile import reference
from tests.kernels.tile.checks import TOLERANCE, check, random_problem
from tests.ops.checks import poisoned_memory

SHAPES = [
    ([70, 5, 33], [70, 5, 33], 2, 5, 7, 3),
    ([1, 40, 0, 3], [65, 3, 4, 0], 3, 4, 4, 1),
    ([0], [0], 1, 2, 2, 2),
    ([], [], 2, 3, 3, 1),
]


@pytest.mark.parametrize("estimator", ["logit", "mask"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_dense_truth(shape: tuple, dtype: torch.dtype, estimator: str) -> None:
    with poisoned_memory():
        check(random_problem(*shape), reference, Options(0.6, 0.0, 0, estimator), dtype)


@pytest.mark.parametrize("seed", [3, 2**61 + 12345])
def test_drops_the_edges_that_philox_says(seed: int) -> None:
    problem = random_problem(*SHAPES[0])
    check(problem, reference, Options(0.6, 0.3, seed, "logit"), torch.float64)


def test_only_what_is_needed_is_computed() -> None:
    problem, options = random_problem(*SHAPES[1]), Options(1.0, 0.2, 1, "mask")
    for wanted in range(5):
        needs = tuple(i == wanted for i in range(5))
        found = list(problem.results(reference, options, needs=needs).values())[2:]
        assert [grad is not None for grad in found] == list(needs)
