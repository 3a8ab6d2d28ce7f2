"""Inner products of rows, and small matrix products, whose sums stay in registers."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sbmgraph.kernels._numba.lanes import (
    LANES,
    element_type,
    indices_of,
    lane_sums,
    load,
    row_pointer,
    vector_at,
)


@intrinsic
def _dot(typing: Any, a: Any, i: Any, b: Any, rows: Any, start: Any, width: Any) -> Any:
    """``sum(a[i, :width] * b[row, start : start + width])`` for each of a tuple of rows.

    ``width`` must be a multiple of :data:`LANES`.
    """
    count = rows.count
    signature = types.UniTuple(a.dtype, count)(a, i, b, rows, start, width)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element = element_type(a.dtype)
        vector = ir.VectorType(element, LANES)
        align = a.dtype.bitwidth // 8
        cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
        zero = ir.Constant(ir.IntType(64), 0)
        left = row_pointer(context, builder, a, args[0], cast(1), zero)
        rights = [
            row_pointer(context, builder, b, args[2], row, cast(4))
            for row in indices_of(context, builder, args[3], rows)
        ]
        zeros = ir.Constant(vector, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zeros) for _ in range(count)]
        step = ir.Constant(ir.IntType(64), LANES)
        with cgutils.for_range_slice(builder, zero, cast(5), step) as (c, _):
            x = load(builder, left, c, vector, align)
            for total, right in zip(sums, rights, strict=True):
                y = builder.fmul(x, load(builder, right, c, vector, align), flags=("contract",))
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
        vector = ir.VectorType(element_type(a.dtype), LANES)
        align = a.dtype.bitwidth // 8
        integer = ir.IntType(64)
        zero, one = ir.Constant(integer, 0), ir.Constant(integer, 1)
        cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
        left = row_pointer(context, builder, a, args[0], cast(1), zero)
        base_, edge_, start_ = cast(3), cast(5), cast(7)
        final = builder.sub(cast(6), one)
        indices = context.make_array(index)(context, builder, args[4]).data
        rights = []
        for t in range(DOTS):
            e = builder.add(edge_, ir.Constant(integer, t))
            e = builder.select(builder.icmp_signed("<", e, final), e, final)
            j = builder.sext(builder.load(builder.gep(indices, [e])), integer)
            row = builder.add(base_, j)
            rights.append(row_pointer(context, builder, b, args[2], row, start_))
        zeros = ir.Constant(vector, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zeros) for _ in rights]
        step = ir.Constant(integer, LANES)
        with cgutils.for_range_slice(builder, zero, cast(8), step) as (c, _):
            x = load(builder, left, c, vector, align)
            for total, right in zip(sums, rights, strict=True):
                y = builder.fmul(x, load(builder, right, c, vector, align), flags=("contract",))
                builder.store(builder.fadd(builder.load(total), y, flags=("contract",)), total)
        found = lane_sums(builder, [builder.load(total) for total in sums])
        target = context.make_array(out)(context, builder, args[9]).data
        place = vector_at(builder, target, cast(10), found.type)
        builder.store(found, place).align = align
        return context.get_dummy_value()

    return signature, generate


dot: Any = _dot
dots: Any = _dots
