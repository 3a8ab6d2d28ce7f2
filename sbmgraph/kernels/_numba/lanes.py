"""How this folder's intrinsics build LLVM vectors: pointers, loads, broadcasts, sums of lanes."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils, types

LANES = 16
"""Channels are padded to a multiple of this; LLVM splits the vectors to the machine's width."""


def element_type(dtype: types.Type) -> ir.Type:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def row_pointer(
    context: Any, builder: Any, type_: Any, value: Any, row: Any, column: Any
) -> ir.Value:
    """The address of ``array[row, column]`` of a C-contiguous matrix."""
    array = context.make_array(type_)(context, builder, value)
    width = cgutils.unpack_tuple(builder, array.shape)[1]
    return builder.gep(array.data, [builder.add(builder.mul(row, width), column)])


def vector_at(builder: Any, pointer: ir.Value, offset: ir.Value, vector: ir.Type) -> ir.Value:
    return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())


def load(builder: Any, pointer: ir.Value, offset: ir.Value, vector: ir.Type, align: int) -> Any:
    out = builder.load(vector_at(builder, pointer, offset, vector))
    out.align = align
    return out


def indices_of(context: Any, builder: Any, tuple_: ir.Value, type_: Any) -> list[ir.Value]:
    values = cgutils.unpack_tuple(builder, tuple_)
    return [context.cast(builder, value, type_.dtype, types.intp) for value in values]


def broadcast(builder: Any, scalar: ir.Value, vector: ir.Type) -> ir.Value:
    undefined = ir.Constant(vector, ir.Undefined)
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, lanes)


def shuffle(builder: Any, a: ir.Value, b: ir.Value, chosen: list[int]) -> ir.Value:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(chosen)), chosen)
    return builder.shuffle_vector(a, b, mask)


def lane_sums(builder: Any, vectors: list[ir.Value]) -> ir.Value:
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
            builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, high))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        width //= 2
    even, odd = (shuffle(builder, vectors[0], vectors[0], list(range(k, LANES, 2))) for k in (0, 1))
    return builder.fadd(even, odd)
