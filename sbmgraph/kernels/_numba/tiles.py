"""Matrix products of small tiles whose sums stay in registers, and the selection of pairs by bits.

A right operand, and a product, lies in *panels*: :func:`lanes_of` columns side by side, 64 bytes a
row, so that a row of a panel is one vector and its successor the next in memory. A left operand may
lie in any way: its elements are read one by one and spread over a vector.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types
from numba.extending import intrinsic

from sbmgraph._jit import inline, jit

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


@inline
def aligned(size, like):
    """An uninitialised array in the dtype of ``like`` that begins at a cache line."""
    array = np.empty(size + LINE // like.itemsize, like.dtype)
    first = (-array.ctypes.data) % LINE // like.itemsize
    return array[first : first + size]


@jit
def add_panels(a, a_at, a_row, a_step, rows, b, b_at, b_rows, panels, depth, out, out_at, out_rows):
    """Adds ``rows`` rows, rounded up to :data:`ROWS`, of the product of ``a`` with ``panels``
    panels, each ``b_rows`` rows after the one before it, to as many panels of ``out_rows`` rows."""
    width = lanes_of(out)
    for panel in range(panels):
        for r in range(0, rows, ROWS):
            add_product(
                a, a_at + r * a_row, a_row, a_step, b, b_at + panel * b_rows * width, depth, out,
                out_at + (panel * out_rows + r) * width, width,
            )  # fmt: skip


@jit
def inner_products(a, rows, channels, b, first, columns, out, out_row):
    """``out[r * out_row + c]`` = the inner product of row ``r`` of ``a``, of ``channels`` numbers,
    with column ``first + c`` of ``b``, which lies in panels of ``channels`` rows; ``rows`` are
    rounded up to :data:`ROWS`, ``columns`` to panels."""
    width = lanes_of(out)
    for c in range(0, columns, width):
        for r in range(0, rows, ROWS):
            set_product(
                a, r * channels, channels, 1, b, (first + c) * channels, channels, out,
                r * out_row + c, out_row,
            )  # fmt: skip


@jit
def to_rows(x, first, count, head, factor, rows, out):
    """Copies ``x[first : first + count, head] * factor`` row by row; further rows up to ``rows``
    become 0."""
    heads, channels, width = x.shape[1], x.shape[2], lanes_of(out)
    for r in range(count):
        start = ((first + r) * heads + head) * channels
        whole = channels // width * width
        for c in range(0, whole, width):
            move_line(x, start + c, out, r * channels + c, factor)
        for c in range(whole, channels):
            move(x, start + c, out, r * channels + c, factor)
    out[count * channels : rows * channels] = 0


@jit
def to_panels(x, first, count, head, factor, rows, out):
    """The same in panels of channels, ``rows`` rows each; what there is no number for becomes 0."""
    heads, channels, width = x.shape[1], x.shape[2], lanes_of(out)
    for low in range(0, channels, width):
        panel = low * rows
        whole = low + width <= channels
        if not whole:
            out[panel : panel + rows * width] = 0
        for r in range(count):
            start = ((first + r) * heads + head) * channels + low
            if whole:
                move_line(x, start, out, panel + r * width, factor)
            else:
                for c in range(channels - low):
                    move(x, start + c, out, panel + r * width + c, factor)
        out[panel + count * width : panel + rows * width] = 0


@jit
def to_columns(x, first, count, head, out):
    """The same in panels of nodes, a row for each channel."""
    heads, channels, width = x.shape[1], x.shape[2], lanes_of(out)
    one = x.dtype.type(1)
    for low in range(0, count, width):
        used = min(width, count - low)
        if used < width:
            out[low * channels : (low + width) * channels] = 0
        for r in range(used):
            start = ((first + low + r) * heads + head) * channels
            for c in range(channels):
                move(x, start + c, out, low * channels + c * width + r, one)


@jit
def from_panels(panels, rows, count, factors, step, x, first, head):
    """Writes the ``count`` first rows of panels of channels, row r times ``factors[r * step]``, to
    ``x[first : first + count, head]``."""
    heads, channels, width = x.shape[1], x.shape[2], lanes_of(x)
    for r in range(count):
        start = ((first + r) * heads + head) * channels
        for low in range(0, channels, width):
            at = low * rows + r * width
            if low + width <= channels:
                move_line(panels, at, x, start + low, factors[r * step])
            else:
                for c in range(channels - low):
                    move(panels, at + c, x, start + low + c, factors[r * step])
