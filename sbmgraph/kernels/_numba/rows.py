"""Weighted sums of many rows, and one row added to many, by an edge list; sums in registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types
from numba.extending import intrinsic

from sbmgraph.kernels._numba.jit import inline
from sbmgraph.kernels._numba.lanes import (
    LANES,
    broadcast,
    element_type,
    load,
    row_pointer,
    vector_at,
)

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
            vector = ir.VectorType(element_type(dtype), LANES)
            align = dtype.bitwidth // 8
            integer = ir.IntType(64)
            cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
            offsets = [ir.Constant(integer, v * LANES) for v in range(vectors)]
            target = row_pointer(context, builder, out, args[0], cast(1), cast(2))
            weights = context.make_array(weight)(context, builder, args[3]).data
            shift = builder.sub(cast(4), cast(8))
            base_, low_, high_, start_ = cast(6), cast(8), cast(9), cast(10)
            indices = context.make_array(index)(context, builder, args[7]).data
            zeros = ir.Constant(vector, [0.0] * LANES)
            sums = [
                [cgutils.alloca_once_value(builder, zeros) for _ in offsets] for _ in range(unroll)
            ]
            for offset, total in zip(offsets, sums[0], strict=True):
                builder.store(load(builder, target, offset, vector, align), total)

            def add(edge: ir.Value, totals: list[ir.Value]) -> None:
                j = builder.sext(builder.load(builder.gep(indices, [edge])), integer)
                row = builder.add(base_, j)
                source = row_pointer(context, builder, b, args[5], row, start_)
                scalar = builder.load(builder.gep(weights, [builder.add(edge, shift)]))
                factor = broadcast(builder, scalar, vector)
                for offset, total in zip(offsets, totals, strict=True):
                    x = load(builder, source, offset, vector, align)
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
                builder.store(total, vector_at(builder, target, offset, vector)).align = align
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
            vector = ir.VectorType(element_type(a.dtype), LANES)
            align = a.dtype.bitwidth // 8
            integer = ir.IntType(64)
            cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
            offsets = [ir.Constant(integer, v * LANES) for v in range(vectors)]
            source = row_pointer(context, builder, a, args[0], cast(1), cast(2))
            rows = [load(builder, source, offset, vector, align) for offset in offsets]
            weights = context.make_array(weight)(context, builder, args[3]).data
            indices = context.make_array(index)(context, builder, args[7]).data
            base_, low_, high_, start_ = cast(6), cast(8), cast(9), cast(10)
            shift = builder.sub(cast(4), low_)
            one = ir.Constant(integer, 1)
            with cgutils.for_range_slice(builder, low_, high_, one) as (edge, _):
                j = builder.sext(builder.load(builder.gep(indices, [edge])), integer)
                row = builder.add(base_, j)
                target = row_pointer(context, builder, out, args[5], row, start_)
                scalar = builder.load(builder.gep(weights, [builder.add(edge, shift)]))
                factor = broadcast(builder, scalar, vector)
                for offset, x in zip(offsets, rows, strict=True):
                    product = builder.fmul(factor, x, flags=("contract",))
                    old = load(builder, target, offset, vector, align)
                    total = builder.fadd(old, product, flags=("contract",))
                    builder.store(total, vector_at(builder, target, offset, vector)).align = align
            return context.get_dummy_value()

        return signature, generate

    return scatter


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
