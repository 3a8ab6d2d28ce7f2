"""Matrix products of small tiles whose sums stay in registers, and the selection of pairs by bits.

A right operand, and a product, lies in *panels*: 64 bytes of columns side by side, so that a row of
a panel is one vector and its successor the next in memory. A left operand may lie in any way: its
elements are read one by one and spread over a vector.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types
from numba.extending import intrinsic

from sbmgraph.kernels._numba.jit import inline

LINE = 64
"""Bytes of a panel's row: a cache line."""

ROWS = 12 if get_host_cpu_features().get("avx512f") else 6
"""Rows of a product whose sums the registers hold beside a row of the right operand."""

INTEGER = ir.IntType(64)


@inline
def lanes_of(array):
    """Columns of a panel in the dtype of ``array``."""
    return LINE // array.itemsize


def _vector(dtype: types.Type) -> ir.VectorType:
    element = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(element, LINE * 8 // dtype.bitwidth)


def _data(context: Any, builder: Any, kind: Any, array: Any) -> ir.Value:
    return context.make_array(kind)(context, builder, array).data


def _at(builder: Any, pointer: ir.Value, vector: ir.Type) -> ir.Value:
    return builder.bitcast(pointer, vector.as_pointer())


def _load(builder: Any, pointer: ir.Value, vector: ir.Type, align: int) -> ir.Value:
    out = builder.load(_at(builder, pointer, vector))
    out.align = align
    return out


def _spread(builder: Any, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    empty = ir.Constant(vector, ir.Undefined)
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    first = builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, empty, lanes)


def _product(rows: int, adds: bool) -> Any:
    """An intrinsic that multiplies ``rows`` rows with one panel."""

    @intrinsic
    def product(
        typing: Any, a: Any, a_at: Any, a_row: Any, a_step: Any, b: Any, b_at: Any, depth: Any,
        out: Any, out_at: Any, out_row: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(a, a_at, a_row, a_step, b, b_at, depth, out, out_at, out_row)

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vector, align = _vector(out.dtype), out.dtype.bitwidth // 8
            whole = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
            left, right, target = (
                builder.gep(_data(context, builder, sig.args[k], args[k]), [whole(k + 1)])
                for k in (0, 4, 7)
            )
            a_row_, a_step_, out_row_ = whole(2), whole(3), whole(9)
            count = [ir.Constant(INTEGER, r) for r in range(rows)]
            lefts = [builder.gep(left, [builder.mul(r, a_row_)]) for r in count]
            targets = [builder.gep(target, [builder.mul(r, out_row_)]) for r in count]
            zeros = ir.Constant(vector, [0.0] * vector.count)
            starts = [_load(builder, t, vector, align) if adds else zeros for t in targets]
            sums = [cgutils.alloca_once(builder, vector) for _ in starts]
            for total, start in zip(sums, starts, strict=True):
                builder.store(start, total)
            width = ir.Constant(INTEGER, vector.count)
            zero, one = ir.Constant(INTEGER, 0), ir.Constant(INTEGER, 1)
            with cgutils.for_range_slice(builder, zero, whole(6), one) as (k, _):
                row = _load(builder, builder.gep(right, [builder.mul(k, width)]), vector, align)
                offset = builder.mul(k, a_step_)
                for pointer, total in zip(lefts, sums, strict=True):
                    scalar = builder.load(builder.gep(pointer, [offset]))
                    term = builder.fmul(_spread(builder, scalar, vector), row, flags=("contract",))
                    value = builder.fadd(builder.load(total), term, flags=("contract",))
                    builder.store(value, total)
            for pointer, total in zip(targets, sums, strict=True):
                builder.store(builder.load(total), _at(builder, pointer, vector)).align = align
            return context.get_dummy_value()

        return signature, generate

    return product


set_product: Any = _product(ROWS, False)
"""``set_product(a, a_at, a_row, a_step, b, b_at, depth, out, out_at, out_row)``: for ``r`` below
:data:`ROWS`, ``out[out_at + r * out_row :][:W] = sum of a[a_at + r * a_row + k * a_step] * b[b_at +
k * W :][:W]`` over ``k < depth``; all arrays are flat, ``W`` is a panel's width."""

add_product: Any = _product(ROWS, True)
"""The same, added to ``out``."""


@intrinsic
def _select(
    typing: Any, words: Any, word: Any, tile: Any, start: Any, width: Any, fill: Any
) -> Any:
    """Sets ``tile[start + t]`` to ``fill`` where bit ``t`` from ``words[word]`` on is 0, for ``t``
    below ``width``, and returns the largest of the others: ``fill`` if there is none, NaN if none
    of them is above ``fill``.

    ``width`` must be a multiple of a panel's width, and the words hold that many bits.
    """
    signature = tile.dtype(words, word, tile, start, width, fill)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, align = _vector(tile.dtype), tile.dtype.bitwidth // 8
        bits = ir.IntType(vector.count)
        booleans = ir.VectorType(ir.IntType(1), vector.count)
        whole = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
        first_word = builder.gep(_data(context, builder, sig.args[0], args[0]), [whole(1)])
        first_bits = builder.bitcast(first_word, bits.as_pointer())
        first = builder.gep(_data(context, builder, sig.args[2], args[2]), [whole(3)])
        fill_ = context.cast(builder, args[5], sig.args[5], tile.dtype)
        fills = _spread(builder, fill_, vector)
        top = cgutils.alloca_once_value(builder, fills)
        seen = cgutils.alloca_once_value(builder, ir.Constant(bits, 0))
        step = ir.Constant(INTEGER, vector.count)
        with cgutils.for_range_slice(builder, ir.Constant(INTEGER, 0), whole(4), step) as (t, _):
            here = builder.load(builder.gep(first_bits, [builder.udiv(t, step)]))
            here.align = 1
            pointer = builder.gep(first, [t])
            x = _load(builder, pointer, vector, align)
            x = builder.select(builder.bitcast(here, booleans), x, fills)
            builder.store(x, _at(builder, pointer, vector)).align = align
            old = builder.load(top)
            builder.store(builder.select(builder.fcmp_ordered(">", x, old), x, old), top)
            builder.store(builder.or_(builder.load(seen), here), seen)
        highest = builder.load(top)
        width = vector.count
        while width > 1:
            width //= 2
            low, high = (
                builder.shuffle_vector(
                    highest,
                    highest,
                    ir.Constant(ir.VectorType(ir.IntType(32), width), [*range(k, k + width)]),
                )
                for k in (0, width)
            )
            highest = builder.select(builder.fcmp_ordered(">", low, high), low, high)
        out = builder.extract_element(highest, ir.Constant(ir.IntType(32), 0))
        none = builder.fcmp_ordered("==", out, fill_)
        any_ = builder.icmp_unsigned("!=", builder.load(seen), ir.Constant(bits, 0))
        nan = ir.Constant(vector.element, float("nan"))
        return builder.select(builder.and_(none, any_), nan, out)

    return signature, generate


select: Any = _select


@intrinsic
def _move_line(typing: Any, x: Any, start: Any, out: Any, at: Any, factor: Any) -> Any:
    """``out[at + t] = x[start + t] * factor`` over a panel's width of flat, contiguous numbers."""
    signature = types.void(x, start, out, at, factor)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, align = _vector(out.dtype), out.dtype.bitwidth // 8
        whole = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
        source, target = (
            builder.gep(_data(context, builder, sig.args[k], args[k]), [whole(k + 1)])
            for k in (0, 2)
        )
        factor_ = context.cast(builder, args[4], sig.args[4], out.dtype)
        value = builder.fmul(
            _load(builder, source, vector, align), _spread(builder, factor_, vector)
        )
        builder.store(value, _at(builder, target, vector)).align = align
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _move(typing: Any, x: Any, start: Any, out: Any, at: Any, factor: Any) -> Any:
    """The same of one number."""
    signature = types.void(x, start, out, at, factor)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        whole = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
        source, target = (
            builder.gep(_data(context, builder, sig.args[k], args[k]), [whole(k + 1)])
            for k in (0, 2)
        )
        factor_ = context.cast(builder, args[4], sig.args[4], out.dtype)
        builder.store(builder.fmul(builder.load(source), factor_), target)
        return context.get_dummy_value()

    return signature, generate


move_line: Any = _move_line
move: Any = _move
