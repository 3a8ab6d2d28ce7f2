"""What all compiled CPU kernels share: the decorator, vector primitives and random numbers.

Importing this module imports Numba; nothing does so before a kernel is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.ir as ir
import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

LANES = 16
"""Channels are padded to a multiple of this; LLVM splits the vectors to the machine's width."""

STAMP = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
"""Compiled code on disk is of use only beside the primitives that were inlined into it."""

FASTMATH = {"reassoc", "contract", "nsz", "arcp"}  # NaN and infinity keep their meaning


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles ``function`` on first use, without the GIL, cached on disk where possible."""
    options = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}
    try:
        compiled = njit(cache=True, **options)(function)
    except (RuntimeError, OSError):  # no cache directory can be written
        return njit(**options)(function)
    with contextlib.suppress(AttributeError):  # else Numba compares the kernel's own file alone
        file = compiled._cache._cache_file
        file._source_stamp = (file._source_stamp, STAMP)
    return compiled


inline = njit(fastmath=FASTMATH, error_model="numpy", forceinline=True)


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


def _broadcast(builder: Any, scalar: ir.Value, vector: ir.Type) -> ir.Value:
    undefined = ir.Constant(vector, ir.Undefined)
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, lanes)


def _lanes(builder: Any, a: ir.Value, b: ir.Value, chosen: list[int]) -> ir.Value:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(chosen)), chosen)
    return builder.shuffle_vector(a, b, mask)


def _lane_sums(builder: Any, vectors: list[ir.Value]) -> ir.Value:
    """The sums over the lanes of :data:`LANES` / 2 vectors as one vector, by halving the lanes of
    two vectors at a time and laying them side by side."""
    width = LANES
    while len(vectors) > 1:
        starts = range(0, 2 * LANES, width)
        low, high = (
            [start + shift + lane for start in starts for lane in range(width // 2)]
            for shift in (0, width // 2)
        )
        vectors = [
            builder.fadd(_lanes(builder, a, b, low), _lanes(builder, a, b, high))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        width //= 2
    even, odd = (_lanes(builder, vectors[0], vectors[0], list(range(k, LANES, 2))) for k in (0, 1))
    return builder.fadd(even, odd)


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


DOTS = LANES // 2
"""Inner products that :data:`dots` computes at once."""


@intrinsic
def _dots(
    typing: Any, a: Any, i: Any, b: Any, base: Any, index: Any, edge: Any, last: Any, start: Any,
    width: Any, out: Any, at: Any,
) -> Any:  # fmt: skip
    """``out[at + t] = sum(a[i, :width] * b[base + index[edge + t], start : start + width])`` for
    ``t`` below :data:`DOTS`; edges from ``last`` on repeat the one before it.

    ``width`` must be a multiple of :data:`LANES`, and ``edge`` below ``last``.
    """
    signature = types.void(a, i, b, base, index, edge, last, start, width, out, at)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(_element(a.dtype), LANES)
        align = a.dtype.bitwidth // 8
        integer = ir.IntType(64)
        zero, one = ir.Constant(integer, 0), ir.Constant(integer, 1)
        cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
        left = _row_pointer(context, builder, a, args[0], cast(1), zero)
        base_, edge_, start_ = cast(3), cast(5), cast(7)
        final = builder.sub(cast(6), one)
        indices = context.make_array(index)(context, builder, args[4]).data
        rights = []
        for t in range(DOTS):
            e = builder.add(edge_, ir.Constant(integer, t))
            e = builder.select(builder.icmp_signed("<", e, final), e, final)
            j = builder.sext(builder.load(builder.gep(indices, [e])), integer)
            row = builder.add(base_, j)
            rights.append(_row_pointer(context, builder, b, args[2], row, start_))
        zeros = ir.Constant(vector, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zeros) for _ in rights]
        step = ir.Constant(integer, LANES)
        with cgutils.for_range_slice(builder, zero, cast(8), step) as (c, _):
            x = _load(builder, left, c, vector, align)
            for total, right in zip(sums, rights, strict=True):
                y = builder.fmul(x, _load(builder, right, c, vector, align), flags=("contract",))
                builder.store(builder.fadd(builder.load(total), y, flags=("contract",)), total)
        found = _lane_sums(builder, [builder.load(total) for total in sums])
        target = context.make_array(out)(context, builder, args[9]).data
        place = _vector_at(builder, target, cast(10), found.type)
        builder.store(found, place).align = align
        return context.get_dummy_value()

    return signature, generate


VECTORS = 8 if get_host_cpu_features().get("avx512f") else 4
"""Vectors of LANES numbers that the registers hold as sums."""


def _accumulator(vectors: int) -> Any:
    """An intrinsic that sums rows over ``vectors * LANES`` columns in registers."""
    unroll = min(VECTORS // vectors, 4)  # several sums of few columns hide the latency

    @intrinsic
    def accumulate(
        typing: Any, out: Any, i: Any, column: Any, weight: Any, first: Any, b: Any, base: Any,
        index: Any, low: Any, high: Any, start: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(out, i, column, weight, first, b, base, index, low, high, start)
        dtype = out.dtype

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vector = ir.VectorType(_element(dtype), LANES)
            align = dtype.bitwidth // 8
            integer = ir.IntType(64)
            cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
            offsets = [ir.Constant(integer, v * LANES) for v in range(vectors)]
            target = _row_pointer(context, builder, out, args[0], cast(1), cast(2))
            weights = context.make_array(weight)(context, builder, args[3]).data
            shift = builder.sub(cast(4), cast(8))
            base_, low_, high_, start_ = cast(6), cast(8), cast(9), cast(10)
            indices = context.make_array(index)(context, builder, args[7]).data
            zeros = ir.Constant(vector, [0.0] * LANES)
            sums = [
                [cgutils.alloca_once_value(builder, zeros) for _ in offsets] for _ in range(unroll)
            ]
            for offset, total in zip(offsets, sums[0], strict=True):
                builder.store(_load(builder, target, offset, vector, align), total)

            def add(edge: ir.Value, totals: list[ir.Value]) -> None:
                j = builder.sext(builder.load(builder.gep(indices, [edge])), integer)
                row = builder.add(base_, j)
                source = _row_pointer(context, builder, b, args[5], row, start_)
                scalar = builder.load(builder.gep(weights, [builder.add(edge, shift)]))
                factor = _broadcast(builder, scalar, vector)
                for offset, total in zip(offsets, totals, strict=True):
                    x = _load(builder, source, offset, vector, align)
                    product = builder.fmul(factor, x, flags=("contract",))
                    value = builder.fadd(builder.load(total), product, flags=("contract",))
                    builder.store(value, total)

            count = builder.sub(high_, low_)
            rest = builder.and_(count, ir.Constant(integer, unroll - 1))
            whole = builder.sub(high_, rest)
            step = ir.Constant(integer, unroll)
            with cgutils.for_range_slice(builder, low_, whole, step) as (edge, _):
                for u in range(unroll):
                    add(builder.add(edge, ir.Constant(integer, u)), sums[u])
            if unroll > 1:
                with cgutils.for_range_slice(builder, whole, high_, ir.Constant(integer, 1)) as (
                    edge,
                    _,
                ):
                    add(edge, sums[0])
            for v, offset in enumerate(offsets):
                total = builder.load(sums[0][v])
                for other in sums[1:]:
                    total = builder.fadd(total, builder.load(other[v]))
                builder.store(total, _vector_at(builder, target, offset, vector)).align = align
            return context.get_dummy_value()

        return signature, generate

    return accumulate


def _scatterer(vectors: int) -> Any:
    """An intrinsic that adds ``vectors * LANES`` columns of one row to many rows."""

    @intrinsic
    def scatter(
        typing: Any, a: Any, i: Any, column: Any, weight: Any, first: Any, out: Any, base: Any,
        index: Any, low: Any, high: Any, start: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(a, i, column, weight, first, out, base, index, low, high, start)

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vector = ir.VectorType(_element(a.dtype), LANES)
            align = a.dtype.bitwidth // 8
            integer = ir.IntType(64)
            cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
            offsets = [ir.Constant(integer, v * LANES) for v in range(vectors)]
            source = _row_pointer(context, builder, a, args[0], cast(1), cast(2))
            rows = [_load(builder, source, offset, vector, align) for offset in offsets]
            weights = context.make_array(weight)(context, builder, args[3]).data
            indices = context.make_array(index)(context, builder, args[7]).data
            base_, low_, high_, start_ = cast(6), cast(8), cast(9), cast(10)
            shift = builder.sub(cast(4), low_)
            one = ir.Constant(integer, 1)
            with cgutils.for_range_slice(builder, low_, high_, one) as (edge, _):
                j = builder.sext(builder.load(builder.gep(indices, [edge])), integer)
                row = builder.add(base_, j)
                target = _row_pointer(context, builder, out, args[5], row, start_)
                scalar = builder.load(builder.gep(weights, [builder.add(edge, shift)]))
                factor = _broadcast(builder, scalar, vector)
                for offset, x in zip(offsets, rows, strict=True):
                    product = builder.fmul(factor, x, flags=("contract",))
                    old = _load(builder, target, offset, vector, align)
                    total = builder.fadd(old, product, flags=("contract",))
                    builder.store(total, _vector_at(builder, target, offset, vector)).align = align
            return context.get_dummy_value()

        return signature, generate

    return scatter


dot: Any = _dot
dots: Any = _dots


def _by_columns(make: Callable[[int], Any]) -> Any:
    """A function over any multiple of :data:`LANES` columns, from intrinsics over fixed numbers."""
    eight, four, two, one = (make(vectors) for vectors in (VECTORS, 4, 2, 1))

    @inline
    def apply(single, i, weight, first, many, base, index, low, high, start, width):
        if low >= high:
            return
        c = 0
        while c + VECTORS * LANES <= width:
            eight(single, i, c, weight, first, many, base, index, low, high, start + c)
            c += VECTORS * LANES
        if c + 4 * LANES <= width:
            four(single, i, c, weight, first, many, base, index, low, high, start + c)
            c += 4 * LANES
        if c + 2 * LANES <= width:
            two(single, i, c, weight, first, many, base, index, low, high, start + c)
            c += 2 * LANES
        if c < width:
            one(single, i, c, weight, first, many, base, index, low, high, start + c)

    return apply


add_rows = _by_columns(_accumulator)
"""``add_rows(out, i, weight, first, b, base, index, low, high, start, width)``: ``out[i, :width] +=
sum of weight[first + e - low] * b[base + index[e], start : start + width]`` over the edges ``low <=
e < high``; ``width`` must be a multiple of :data:`LANES`."""

scatter_row = _by_columns(_scatterer)
"""``scatter_row(a, i, weight, first, out, base, index, low, high, start, width)``: ``out[base +
index[e], start : start + width] += weight[first + e - low] * a[i, :width]`` over the same edges."""


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


@intrinsic
def _take_marks(typing: Any, marks: Any, start: Any) -> Any:
    """Which of the 64 bytes from ``start`` are not 0, as the bits of an uint64; clears them."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), 64)
        data = context.make_array(marks)(context, builder, args[0]).data
        pointer = _vector_at(
            builder, data, context.cast(builder, args[1], start, types.intp), vector
        )
        found = builder.load(pointer)
        found.align = 1
        zeros = ir.Constant(vector, [0] * 64)
        builder.store(zeros, pointer).align = 1
        return builder.bitcast(builder.icmp_unsigned("!=", found, zeros), ir.IntType(64))

    return types.uint64(marks, start), generate


@intrinsic
def _ranks(typing: Any, limits: Any, low: Any, high: Any, values: Any, start: Any, out: Any) -> Any:
    """``out[start + t] = low + how many of limits[low:high] are below values[start + t]`` for ``t``
    below :data:`LANES`; limits and values are float64, ranks int32."""
    signature = types.void(limits, low, high, values, start, out)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        integer, rank = ir.IntType(64), ir.IntType(32)
        vector, ranks = ir.VectorType(ir.DoubleType(), LANES), ir.VectorType(rank, LANES)
        cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
        data = [context.make_array(sig.args[k])(context, builder, args[k]).data for k in (0, 3, 5)]
        value = _load(builder, data[1], cast(4), vector, 8)
        total = cgutils.alloca_once_value(
            builder, _broadcast(builder, builder.trunc(cast(1), rank), ranks)
        )
        one = ir.Constant(integer, 1)
        with cgutils.for_range_slice(builder, cast(1), cast(2), one) as (k, _):
            limit = _broadcast(builder, builder.load(builder.gep(data[0], [k])), vector)
            above = builder.zext(builder.fcmp_ordered(">", value, limit), ranks)
            builder.store(builder.add(builder.load(total), above), total)
        place = _vector_at(builder, data[2], cast(4), ranks)
        builder.store(builder.load(total), place).align = 4
        return context.get_dummy_value()

    return signature, generate


trailing_zeros: Any = _trailing_zeros
bits: Any = _bits
take_marks: Any = _take_marks
ranks: Any = _ranks


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


# Random numbers ###################################################################################


@inline
def mix(x):
    """A bijection of uint64 whose outputs for a sequence of inputs pass for random (the finaliser
    of SplitMix64, Steele et al., OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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
        with cgutils.for_range_slice(builder, zero, cast(4), ir.Constant(integer, 1)) as (k, _):
            base = builder.mul(k, ir.Constant(integer, 2 * LANES))
            offsets = [base, builder.add(base, ir.Constant(integer, LANES))]
            columns = [_load(builder, right, offset, vector, align) for offset in offsets]
            for left, pair in zip(lefts, sums, strict=True):
                factor = _broadcast(builder, builder.load(builder.gep(left, [k])), vector)
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
