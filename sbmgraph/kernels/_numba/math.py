"""Exponential and logarithm in float32 that vectorise in loops."""

from __future__ import annotations

import math
from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba.core import types
from numba.extending import intrinsic, overload

from sbmgraph.kernels._numba.jit import inline


@intrinsic
def _round(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [ir.FloatType()]), args)

    return types.float32(types.float32), generate


@intrinsic
def _as_float(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _as_int(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


def exp(x: float) -> float:
    """The exponential of a number that is at most 0; loops over it vectorise in float32."""
    return math.exp(x)


@overload(exp)
def _exp(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    def float32_exp(x):
        # exp(x) = 2^n exp(r) with |r| <= log(2) / 2; minimax coefficients as in Cephes' expf.
        clipped = np.float32(-87.0) if x < np.float32(-87.0) else x
        n = _round(clipped * np.float32(1.44269504))
        r = clipped - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        y = p * r * r + r + np.float32(1.0)
        y *= _as_float((np.int32(n) + np.int32(127)) << np.int32(23))
        return np.float32(0.0) if x < np.float32(-87.0) else y

    return float32_exp


@inline
def log(x):
    """The logarithm of a positive, normal float32; loops over it vectorise."""
    # x = 2^n (1 + f), 1 + f in [sqrt(1/2), sqrt(2)); coefficients as in Cephes' logf.
    i = _as_int(x)
    n = np.int32(i - np.int32(0x3F3504F3)) >> np.int32(23)
    f = _as_float(np.int32(i - (n << np.int32(23)))) - np.float32(1.0)
    z = f * f
    p = np.float32(7.0376836292e-2)
    p = p * f + np.float32(-1.1514610310e-1)
    p = p * f + np.float32(1.1676998740e-1)
    p = p * f + np.float32(-1.2420140846e-1)
    p = p * f + np.float32(1.4249322787e-1)
    p = p * f + np.float32(-1.6668057665e-1)
    p = p * f + np.float32(2.0000714765e-1)
    p = p * f + np.float32(-2.4999993993e-1)
    p = p * f + np.float32(3.3333331174e-1)
    return f + z * (f * p - np.float32(0.5)) + np.float32(n) * np.float32(0.6931471805599453)
