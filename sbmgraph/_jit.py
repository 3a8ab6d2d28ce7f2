"""What all compiled CPU kernels share: the decorator, vector primitives and random numbers.

Importing this module imports Numba; nothing does so before a kernel is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

LANES = 16
"""Channels are padded to a multiple of this; LLVM splits the vectors to the machine's width."""

FASTMATH = {"reassoc", "contract", "nsz", "arcp"}  # NaN and infinity keep their meaning


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles ``function`` on first use, without the GIL, cached on disk where possible."""
    options = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except (RuntimeError, OSError):  # no cache directory can be written
        return njit(**options)(function)


inline = njit(fastmath=FASTMATH, error_model="numpy")


# Vectors ##########################################################################################


def _element(dtype: types.Type) -> ir.Type:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def _row_pointer(
    context: Any, builder: Any, type_: Any, value: Any, row: Any, column: Any
) -> ir.Value:
    """The address of ``array[row, column]`` of a C-contiguous matrix."""
    array = context.make_array(type_)(context, builder, value)
    width = cgutils.unpack_tuple(builder, array.shape)[1]
    return builder.gep(array.data, [builder.add(builder.mul(row, width), column)])


def _vector_at(builder: Any, pointer: ir.Value, offset: ir.Value, vector: ir.Type) -> ir.Value:
    return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())


def _load(builder: Any, pointer: ir.Value, offset: ir.Value, vector: ir.Type, align: int) -> Any:
    out = builder.load(_vector_at(builder, pointer, offset, vector))
    out.align = align
    return out


def _indices(context: Any, builder: Any, tuple_: ir.Value, type_: Any) -> list[ir.Value]:
    values = cgutils.unpack_tuple(builder, tuple_)
    return [context.cast(builder, value, type_.dtype, types.intp) for value in values]


@intrinsic
def _dot(typing: Any, a: Any, i: Any, b: Any, rows: Any, start: Any, width: Any) -> Any:
    """``sum(a[i, :width] * b[row, start : start + width])`` for each of a tuple of rows.

    ``width`` must be a multiple of :data:`LANES`.
    """
    count = rows.count
    signature = types.UniTuple(a.dtype, count)(a, i, b, rows, start, width)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element = _element(a.dtype)
        vector = ir.VectorType(element, LANES)
        align = a.dtype.bitwidth // 8
        cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
        zero = ir.Constant(ir.IntType(64), 0)
        left = _row_pointer(context, builder, a, args[0], cast(1), zero)
        rights = [
            _row_pointer(context, builder, b, args[2], row, cast(4))
            for row in _indices(context, builder, args[3], rows)
        ]
        zeros = ir.Constant(vector, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zeros) for _ in range(count)]
        step = ir.Constant(ir.IntType(64), LANES)
        with cgutils.for_range_slice(builder, zero, cast(5), step) as (c, _):
            x = _load(builder, left, c, vector, align)
            for total, right in zip(sums, rights, strict=True):
                y = builder.fmul(x, _load(builder, right, c, vector, align), flags=("contract",))
                builder.store(builder.fadd(builder.load(total), y, flags=("contract",)), total)
        suffix = "f32" if a.dtype == types.float32 else "f64"
        add = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(element, [element, vector]),
            f"llvm.vector.reduce.fadd.v{LANES}{suffix}",
        )
        start_value = ir.Constant(element, 0.0)
        out = [
            builder.call(add, [start_value, builder.load(total)], fastmath=("reassoc",))
            for total in sums
        ]
        return context.make_tuple(builder, sig.return_type, out)

    return signature, generate


@intrinsic
def _axpy(
    typing: Any, out: Any, i: Any, weights: Any, b: Any, rows: Any, start: Any, width: Any
) -> Any:
    """``out[i, :width] += weight * b[row, start : start + width]`` for each of a tuple of rows.

    ``width`` must be a multiple of :data:`LANES`.
    """
    dtype = out.dtype
    signature = types.void(out, i, types.UniTuple(dtype, rows.count), b, rows, start, width)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(_element(dtype), LANES)
        align = dtype.bitwidth // 8
        cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
        zero = ir.Constant(ir.IntType(64), 0)
        target = _row_pointer(context, builder, out, args[0], cast(1), zero)
        sources = [
            _row_pointer(context, builder, b, args[3], row, cast(5))
            for row in _indices(context, builder, args[4], rows)
        ]
        undefined = ir.Constant(vector, ir.Undefined)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        factors = []
        for weight in cgutils.unpack_tuple(builder, args[2]):
            first = builder.insert_element(undefined, weight, ir.Constant(ir.IntType(32), 0))
            factors.append(builder.shuffle_vector(first, undefined, lanes))
        step = ir.Constant(ir.IntType(64), LANES)
        with cgutils.for_range_slice(builder, zero, cast(6), step) as (c, _):
            total = _load(builder, target, c, vector, align)
            for factor, source in zip(factors, sources, strict=True):
                x = _load(builder, source, c, vector, align)
                product = builder.fmul(factor, x, flags=("contract",))
                total = builder.fadd(total, product, flags=("contract",))
            builder.store(total, _vector_at(builder, target, c, vector)).align = align
        return context.get_dummy_value()

    return signature, generate


dot: Any = _dot
axpy: Any = _axpy


# Functions ########################################################################################


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


@intrinsic
def _trailing_zeros(typing: Any, x: Any) -> Any:
    """The number of zero bits below the lowest set bit of an uint64 that is not 0."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@intrinsic
def _bits(typing: Any, x: Any) -> Any:
    """The number of set bits of an uint64."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


trailing_zeros: Any = _trailing_zeros
bits: Any = _bits


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
        y = y * _as_float((np.int32(n) + np.int32(127)) << np.int32(23))
        return np.float32(0.0) if x < np.float32(-87.0) else y

    return float32_exp


# Random numbers ###################################################################################


@inline
def mix(x):
    """A bijection of uint64 whose outputs for a sequence of inputs pass for random (the finaliser
    of SplitMix64, Steele et al., OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@inline
def uniform(key, counter):
    """Random number ``counter`` of stream ``key``, in [0, 1) with 53 bits."""
    z = mix(key + np.uint64(counter) * np.uint64(0x9E3779B97F4A7C15))
    return np.float64(z >> np.uint64(11)) * 2.0**-53


GOLDEN = 0x9E3779B97F4A7C15


@inline
def stream(seed, a, b, c):
    """The key of an independent stream of random numbers for three integers."""
    golden = np.uint64(GOLDEN)
    key = mix(seed + golden)
    key = mix(key ^ (np.uint64(a) + golden))
    key = mix(key ^ (np.uint64(b) + golden))
    return mix(key ^ (np.uint64(c) + golden))


@inline
def random_bits(key, counter):
    """Random uint64 number ``counter`` of stream ``key``."""
    return mix(key + np.uint64(counter) * np.uint64(GOLDEN))


@inline
def log(x):
    """The logarithm of a positive, normal float32; loops over it vectorise."""
    # x = 2^n (1 + f), 1 + f in [sqrt(1/2), sqrt(2)); coefficients as in Cephes' logf.
    i = _as_int(x)
    n = np.float32((i - np.int32(0x3F3504F3)) >> np.int32(23))
    f = _as_float(i - (np.int32(n) << np.int32(23))) - np.float32(1.0)
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
    return f + z * (f * p - np.float32(0.5)) + n * np.float32(0.6931471805599453)


@intrinsic
def _multiply(typing: Any, a: Any, rows: Any, b: Any, first: Any, depth: Any, out: Any) -> Any:
    """``out[t, :] = sum of a[rows[t], k] * b[first + k, :]`` over ``k < depth``.

    ``b`` has ``2 * LANES`` columns; the sums stay in registers.
    """
    signature = types.void(a, rows, b, first, depth, out)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element = _element(a.dtype)
        vector = ir.VectorType(element, LANES)
        align = a.dtype.bitwidth // 8
        integer = ir.IntType(64)
        zero = ir.Constant(integer, 0)
        cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
        lefts = [
            _row_pointer(context, builder, a, args[0], row, zero)
            for row in _indices(context, builder, args[1], rows)
        ]
        right = _row_pointer(context, builder, b, args[2], cast(3), zero)
        target = _row_pointer(context, builder, out, args[5], zero, zero)
        zeros = ir.Constant(vector, [0.0] * LANES)
        sums = [[cgutils.alloca_once_value(builder, zeros) for _ in range(2)] for _ in lefts]
        undefined = ir.Constant(vector, ir.Undefined)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        with cgutils.for_range_slice(builder, zero, cast(4), ir.Constant(integer, 1)) as (k, _):
            base = builder.mul(k, ir.Constant(integer, 2 * LANES))
            offsets = [base, builder.add(base, ir.Constant(integer, LANES))]
            columns = [_load(builder, right, offset, vector, align) for offset in offsets]
            for left, pair in zip(lefts, sums, strict=True):
                scalar = builder.load(builder.gep(left, [k]))
                first_ = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
                factor = builder.shuffle_vector(first_, undefined, lanes)
                for column, total in zip(columns, pair, strict=True):
                    product = builder.fmul(factor, column, flags=("contract",))
                    value = builder.fadd(builder.load(total), product, flags=("contract",))
                    builder.store(value, total)
        position = 0
        for pair in sums:
            for total in pair:
                offset = ir.Constant(integer, position)
                place = _vector_at(builder, target, offset, vector)
                builder.store(builder.load(total), place).align = align
                position += LANES
        return context.get_dummy_value()

    return signature, generate


multiply: Any = _multiply
