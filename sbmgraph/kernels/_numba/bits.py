"""Bits of words, marks as bits, and ranks among a few limits."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sbmgraph.kernels._numba.lanes import LANES, broadcast, load, vector_at


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
        pointer = vector_at(
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
        value = load(builder, data[1], cast(4), vector, 8)
        total = cgutils.alloca_once_value(
            builder, broadcast(builder, builder.trunc(cast(1), rank), ranks)
        )
        one = ir.Constant(integer, 1)
        with cgutils.for_range_slice(builder, cast(1), cast(2), one) as (k, _):
            limit = broadcast(builder, builder.load(builder.gep(data[0], [k])), vector)
            above = builder.zext(builder.fcmp_ordered(">", value, limit), ranks)
            builder.store(builder.add(builder.load(total), above), total)
        place = vector_at(builder, data[2], cast(4), ranks)
        builder.store(builder.load(total), place).align = 4
        return context.get_dummy_value()

    return signature, generate


trailing_zeros: Any = _trailing_zeros
bits: Any = _bits
take_marks: Any = _take_marks
ranks: Any = _ranks
