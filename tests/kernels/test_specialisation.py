"""What is compiled for a GPU does not depend on what changes from batch to batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("triton")

from benchmarks import sm90
from tests.triton_runs import INTERPRETED

BATCHES = [
    {"lengths": (16,)},
    {"lengths": (1,)},
    {"lengths": (32, 64, 3), "dropout": 0.25},
    {"lengths": (5, 0, 17, 2, 8, 1, 1), "seed": 7},
    {"lengths": (128,), "seed": 2**62},
]


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
@pytest.mark.parametrize("host", sm90.KERNELS, ids=lambda host: host.__name__)
def test_ragged_batches_compile_nothing_new(host) -> None:
    with sm90.launches(compiles=False) as first:
        host(sm90.Batch())
    assert first
    for changes in BATCHES:
        with sm90.launches(compiles=False) as more:
            host(replace(sm90.Batch(), **changes))
        assert set(more) <= set(first), changes
