"""What all Triton kernels share: counter-based random numbers and the launch of a kernel.

Random numbers are a hash (Philox) of a seed and of what they belong to (an edge, a vertex, a draw),
never a stream: a kernel that runs again, in another order or on another device, sees the same ones.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

UNIT = tl.constexpr(2.0**-31)
"""The step between 31-bit fractions of 1."""

BELOW_ONE = tl.constexpr(4.6566126e-10)
"""2⁻³¹, less enough that the largest 31-bit integer stays below 1 in float32."""


@triton.jit
def random_bits(seed, a, b, c, d):
    """Four independent 31-bit integers for a seed and a counter of four 32-bit words."""
    zero = (c + a + b + d) * 0
    w, x, y, z = tl.philox(seed, zero + a, zero + b, zero + c, zero + d)
    return (
        (w >> 1).to(tl.int32),
        (x >> 1).to(tl.int32),
        (y >> 1).to(tl.int32),
        (z >> 1).to(tl.int32),
    )


@triton.jit
def uniform(bits):
    """A float32 in [0, 1) of a 31-bit integer."""
    return bits.to(tl.float32) * BELOW_ONE


def launch(kernel: Any, grid: tuple[int, ...], like: Tensor, *args: Any, **meta: Any) -> None:
    """Runs ``kernel`` on the device of ``like``; a grid without programs is not launched."""
    if 0 in grid:
        return
    device = torch.cuda.device(like.device) if like.is_cuda else nullcontext()
    with device:
        kernel[grid](*args, enable_fp_fusion=True, **meta)


def pad(size: int) -> int:
    """The width of a block that holds ``size`` channels: a power of two, at least 16."""
    return max(16, triton.next_power_of_2(size))
