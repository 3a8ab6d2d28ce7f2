"""What an edge's probability is under the Poisson law, in Triton. A NaN stays one."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def at_most_one(x):
    """The smaller of ``x`` and 1; the minimum of the machine would turn NaN into 1."""
    return tl.where(x > 1.0, 1.0, x)


@triton.jit
def one_minus_exp(x):
    """``1 - exp(-x)`` of ``x >= 0`` without cancellation: below 1 a series of 13 terms, which is
    right to float32's rounding."""
    y = -x
    high = 1.6059044e-10 * y + 2.0876757e-9
    high = high * y + 2.5052108e-8
    high = high * y + 2.7557319e-7
    high = high * y + 2.7557319e-6
    high = high * y + 2.4801587e-5
    low = high * y + 1.9841270e-4
    low = low * y + 1.3888889e-3
    low = low * y + 8.3333333e-3
    low = low * y + 4.1666667e-2
    low = low * y + 1.6666667e-1
    low = low * y + 0.5
    return tl.where(x > 1.0, 1.0 - tl.exp(y), x * (low * y + 1.0))
