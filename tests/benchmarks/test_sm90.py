"""The kernels compiled for an H100 keep their numbers in registers."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import sm90
from tests.triton_runs import INTERPRETED

CASES = [
    (host, dtype) for host in sm90.KERNELS for dtype in sm90.DTYPES.get(host, (torch.float32,))
]


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
@pytest.mark.parametrize(("host", "dtype"), CASES)
def test_no_kernel_of_the_default_configuration_spills(host, dtype: torch.dtype) -> None:
    with sm90.launches() as found:
        host(sm90.Batch(dtype=dtype))
    assert found
    assert {kernel.name: (kernel.spills, kernel.stack) for kernel in found} == {
        kernel.name: (0, 0) for kernel in found
    }
