"""What an edge's probability is under the Poisson law."""

from __future__ import annotations

import math

import numpy as np
from numba.core import types
from numba.extending import overload

TERMS = tuple((-1) ** k / math.factorial(k + 1) for k in range(12))
"""``1 - exp(-x) = x * sum of TERMS[k] * x**k``, in float32 to its rounding for x up to 1."""


def one_minus_exp(x: float) -> float:
    """``1 - exp(-x)`` of ``x`` in [0, 1] without cancellation; loops over it vectorise in
    float32."""
    return -math.expm1(-x)


@overload(one_minus_exp)
def _one_minus_exp(x):
    if x != types.float32:
        return lambda x: -math.expm1(-x)
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 = (np.float32(c) for c in TERMS)

    def series(x):
        low = c0 + x * (c1 + x * (c2 + x * (c3 + x * (c4 + x * c5))))
        high = c6 + x * (c7 + x * (c8 + x * (c9 + x * (c10 + x * c11))))
        cube = x * x * x
        return x * (low + cube * cube * high)

    return series
