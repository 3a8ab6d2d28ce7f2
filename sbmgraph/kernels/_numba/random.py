r"""Philox 4×32-10 for compiled CPU kernels: bit for bit :mod:`sbmgraph.kernels.random`.

A counter's four words are the lower halves of 64-bit numbers, :data:`COUNTERS` of them side by side
in a vector: a 32×32→64 multiplication, which reads lower halves only, is one instruction on every
machine with vectors.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from sbmgraph.kernels._numba.jit import inline
from sbmgraph.kernels.random import BELOW_ONE, MULTIPLIERS, ROUNDS, WEYL

COUNTERS = 8
"""Counters of a vector: the numbers of 32 keys."""

DRAWS = 16
"""Draws whose numbers :data:`draw_bits` computes at once."""

DOUBLE = ir.IntType(64)
VECTOR = ir.VectorType(DOUBLE, COUNTERS)
HALVES = ir.VectorType(ir.IntType(32), COUNTERS)


def _constant(value: int) -> ir.Constant:
    return ir.Constant(VECTOR, [value] * COUNTERS)


def _lanes(count: int, chosen: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), count), chosen)


def _spread(builder: Any, scalar: ir.Value) -> ir.Value:
    """A 64-bit number in every lane, cut to its lower half."""
    low = builder.and_(scalar, ir.Constant(DOUBLE, 0xFFFFFFFF))
    empty = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(empty, low, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, empty, _lanes(COUNTERS, [0] * COUNTERS))


def _philox(builder: Any, seed: ir.Value, words: list[ir.Value]) -> list[ir.Value]:
    """The 31-bit integers of vectors of counters, as vectors of 32 bits."""
    upper, lower = _constant(32), _constant(0xFFFFFFFF)
    key = [_spread(builder, seed), _spread(builder, builder.lshr(seed, ir.Constant(DOUBLE, 32)))]
    c0, c1, c2, c3 = words
    for _ in range(ROUNDS):
        first = builder.mul(builder.and_(c0, lower), _constant(MULTIPLIERS[0]))
        second = builder.mul(builder.and_(c2, lower), _constant(MULTIPLIERS[1]))
        c0 = builder.xor(builder.xor(builder.lshr(second, upper), c1), key[0])
        c2 = builder.xor(builder.xor(builder.lshr(first, upper), c3), key[1])
        c1, c3 = second, first
        key = [builder.add(k, _constant(step)) for k, step in zip(key, WEYL, strict=True)]
    one = ir.Constant(HALVES, [1] * COUNTERS)
    return [builder.lshr(builder.trunc(word, HALVES), one) for word in (c0, c1, c2, c3)]


def _side_by_side(builder: Any, words: list[ir.Value]) -> ir.Value:
    """Four vectors as one, lane by lane: the numbers of successive keys."""
    pair = [lane + shift for lane in range(COUNTERS) for shift in (0, COUNTERS)]
    even, odd = (
        builder.shuffle_vector(a, b, _lanes(2 * COUNTERS, pair)) for a, b in (words[:2], words[2:])
    )
    four = [
        lane + shift + t
        for lane in range(0, 2 * COUNTERS, 2)
        for shift in (0, 2 * COUNTERS)
        for t in (0, 1)
    ]
    return builder.shuffle_vector(even, odd, _lanes(4 * COUNTERS, four))


def _next_counters(builder: Any, first: ir.Value, shift: int = 0) -> ir.Value:
    return builder.add(
        _spread(builder, first), ir.Constant(VECTOR, [shift + t for t in range(COUNTERS)])
    )


def _data(context: Any, builder: Any, kind: Any, array: Any) -> ir.Value:
    return context.make_array(kind)(context, builder, array).data


def _store(builder: Any, value: ir.Value, pointer: ir.Value, offset: ir.Value) -> None:
    place = builder.bitcast(builder.gep(pointer, [offset]), value.type.as_pointer())
    builder.store(value, place).align = 4


def _unsigned(context: Any, builder: Any, sig: Any, args: Any, position: int) -> ir.Value:
    return context.cast(builder, args[position], sig.args[position], types.uint64)


@intrinsic
def _row_uniforms(
    typing: Any, seed: Any, vertex: Any, graph: Any, first: Any, purpose: Any, out: Any, at: Any
) -> Any:
    """``out[at : at + 32]`` = the uniform float32 numbers of a query vertex and the keys from
    ``4 * first`` on."""
    signature = types.void(seed, vertex, graph, first, purpose, out, at)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = lambda k: _unsigned(context, builder, sig, args, k)  # noqa: E731
        counters = [
            _spread(builder, word(1)),
            _spread(builder, word(2)),
            _next_counters(builder, word(3)),
            _spread(builder, word(4)),
        ]
        keys = _side_by_side(builder, _philox(builder, word(0), counters))
        floats = ir.VectorType(ir.FloatType(), 4 * COUNTERS)
        step = ir.Constant(floats, [float(np.float32(BELOW_ONE))] * (4 * COUNTERS))
        uniforms = builder.fmul(builder.sitofp(keys, floats), step)
        _store(builder, uniforms, _data(context, builder, sig.args[5], args[5]), word(6))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _draw_bits(
    typing: Any, seed: Any, vertex: Any, graph: Any, first: Any, purpose: Any, out: Any, at: Any
) -> Any:
    """``out[w][at : at + DRAWS]`` = word ``w`` of the draws from ``first`` on; ``out`` is a tuple
    of four int32 arrays."""
    signature = types.void(seed, vertex, graph, first, purpose, out, at)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = lambda k: _unsigned(context, builder, sig, args, k)  # noqa: E731
        constant = [_spread(builder, word(k)) for k in (1, 2, 4)]
        arrays = [builder.extract_value(args[5], k) for k in range(4)]
        targets = [_data(context, builder, sig.args[5].dtype, array) for array in arrays]
        for shift in range(0, DRAWS, COUNTERS):
            number = _next_counters(builder, word(3), shift)
            counters = [constant[0], constant[1], number, constant[2]]
            place = builder.add(word(6), ir.Constant(DOUBLE, shift))
            for value, target in zip(_philox(builder, word(0), counters), targets, strict=True):
                _store(builder, value, target, place)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _edge_uniforms(
    typing: Any, seed: Any, vertex: Any, graph: Any, key: Any, low: Any, start: Any, purpose: Any,
    out: Any, at: Any,
) -> Any:  # fmt: skip
    """``out[at : at + 8]`` = the uniform float32 numbers of a query vertex and the keys
    ``key[start : start + 8] - low``; ``key`` is an int32 array with that many entries."""
    signature = types.void(seed, vertex, graph, key, low, start, purpose, out, at)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = lambda k: _unsigned(context, builder, sig, args, k)  # noqa: E731
        source = _data(context, builder, sig.args[3], args[3])
        place = builder.bitcast(builder.gep(source, [word(5)]), HALVES.as_pointer())
        keys = builder.load(place)
        keys.align = 4
        local = builder.sub(builder.zext(keys, VECTOR), _spread(builder, word(4)))
        counters = [
            _spread(builder, word(1)),
            _spread(builder, word(2)),
            builder.lshr(local, _constant(2)),
            _spread(builder, word(6)),
        ]
        words = _philox(builder, word(0), counters)
        narrow = builder.trunc(local, HALVES)
        bit = lambda k: ir.Constant(HALVES, [k] * COUNTERS)  # noqa: E731
        zero = bit(0)
        odd = builder.icmp_unsigned("!=", builder.and_(narrow, bit(1)), zero)
        high = builder.icmp_unsigned("!=", builder.and_(narrow, bit(2)), zero)
        low_pair = builder.select(odd, words[1], words[0])
        high_pair = builder.select(odd, words[3], words[2])
        own = builder.select(high, high_pair, low_pair)
        floats = ir.VectorType(ir.FloatType(), COUNTERS)
        step = ir.Constant(floats, [float(np.float32(BELOW_ONE))] * COUNTERS)
        uniforms = builder.fmul(builder.sitofp(own, floats), step)
        _store(builder, uniforms, _data(context, builder, sig.args[7], args[7]), word(8))
        return context.get_dummy_value()

    return signature, generate


row_uniforms: Any = _row_uniforms
draw_bits: Any = _draw_bits
edge_uniforms: Any = _edge_uniforms

_M0, _M1 = (np.uint64(x) for x in MULTIPLIERS)
_W0, _W1 = (np.uint64(x) for x in WEYL)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@inline
def philox(seed, c0, c1, c2, c3):
    """The four 32-bit words, as uint64, of one counter; seed and words are uint64."""
    key0, key1 = seed & _LOW, seed >> _HALF
    for _ in range(ROUNDS):
        first, second = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (
            (second >> _HALF) ^ c1 ^ key0,
            second & _LOW,
            (first >> _HALF) ^ c3 ^ key1,
            first & _LOW,
        )
        key0, key1 = (key0 + _W0) & _LOW, (key1 + _W1) & _LOW
    return c0, c1, c2, c3
