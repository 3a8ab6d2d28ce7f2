"""Products of a few rows with a panel of 32 keys, kept in registers."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types
from numba.extending import intrinsic

PANEL = 32
"""Keys of a panel: the bits of a word."""

ROWS = 6
"""Rows that meet a panel at once."""

BYTES = 128 if get_host_cpu_features().get("avx512f") else 64
"""Of a row's products that are summed at once: with :data:`ROWS` rows, what the registers hold."""


@intrinsic
def _products(
    typing: Any, a: Any, rows: Any, panels: Any, first: Any, depth: Any, start: Any, out: Any
) -> Any:
    """``out[t, :] = start + sum of a[rows[t], k] * panels[first + k, :]`` over ``k < depth``, for
    each of a tuple of rows; panels and ``out`` have :data:`PANEL` columns."""
    signature = types.void(a, rows, panels, first, depth, start, out)
    is_single = a.dtype == types.float32

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element = ir.FloatType() if is_single else ir.DoubleType()
        align = 4 if is_single else 8
        lanes = BYTES // align
        vector = ir.VectorType(element, lanes)
        integer = ir.IntType(64)
        zero, one = ir.Constant(integer, 0), ir.Constant(integer, 1)
        cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731

        def matrix(k: int) -> tuple[ir.Value, ir.Value]:
            array = context.make_array(sig.args[k])(context, builder, args[k])
            return array.data, cgutils.unpack_tuple(builder, array.shape)[1]

        def spread(scalar: ir.Value) -> ir.Value:
            empty = ir.Constant(vector, ir.Undefined)
            single = builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            return builder.shuffle_vector(single, empty, mask)

        left, width = matrix(0)
        right, target = matrix(2)[0], matrix(6)[0]
        rows_ = [
            context.cast(builder, row, rows.dtype, types.intp)
            for row in cgutils.unpack_tuple(builder, args[1])
        ]
        lefts = [builder.gep(left, [builder.mul(row, width)]) for row in rows_]
        right = builder.gep(right, [builder.mul(cast(3), ir.Constant(integer, PANEL))])
        begin = spread(context.cast(builder, args[5], sig.args[5], a.dtype))
        for column in range(0, PANEL, lanes):
            sums = [cgutils.alloca_once_value(builder, begin) for _ in lefts]
            for total in sums:
                builder.store(begin, total)
            with cgutils.for_range_slice(builder, zero, cast(4), one) as (k, _):
                place = builder.add(
                    builder.mul(k, ir.Constant(integer, PANEL)), ir.Constant(integer, column)
                )
                z = builder.load(builder.bitcast(builder.gep(right, [place]), vector.as_pointer()))
                z.align = align
                for pointer, total in zip(lefts, sums, strict=True):
                    w = spread(builder.load(builder.gep(pointer, [k])))
                    product = builder.fmul(w, z, flags=("contract",))
                    value = builder.fadd(builder.load(total), product, flags=("contract",))
                    builder.store(value, total)
            for t, total in enumerate(sums):
                place = ir.Constant(integer, t * PANEL + column)
                pointer = builder.bitcast(builder.gep(target, [place]), vector.as_pointer())
                builder.store(builder.load(total), pointer).align = align
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _word_below(typing: Any, uniforms: Any, probs: Any, row: Any) -> Any:
    """Which of 32 numbers ``uniforms[t]`` lie below ``probs[row, t]``, as the bits of an uint32; a
    NaN lies above nothing."""
    signature = types.uint32(uniforms, probs, row)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def load(k: int, offset: ir.Value, vector: ir.Type, align: int) -> ir.Value:
            data = context.make_array(sig.args[k])(context, builder, args[k]).data
            place = builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())
            value = builder.load(place)
            value.align = align
            return value

        integer = ir.IntType(64)
        row_ = context.cast(builder, args[2], sig.args[2], types.intp)
        single = ir.VectorType(ir.FloatType(), PANEL)
        double = ir.VectorType(ir.DoubleType(), PANEL)
        number = load(0, ir.Constant(integer, 0), single, 4)
        place = builder.mul(row_, ir.Constant(integer, PANEL))
        if probs.dtype == types.float32:
            prob = load(1, place, single, 4)
        else:
            number, prob = builder.fpext(number, double), load(1, place, double, 8)
        return builder.bitcast(builder.fcmp_ordered("<", number, prob), ir.IntType(32))

    return signature, generate


products: Any = _products
word_below: Any = _word_below
