"""Counter-based random numbers in Triton, bit for bit those of :mod:`sbmgraph.kernels.random`.

They are a hash of a seed and of what they belong to (an edge, a vertex, a draw), never a stream: a
kernel that runs again, in another order or on another device, sees the same ones.
"""

from __future__ import annotations

import triton
import triton.language as tl

UNIT = tl.constexpr(2.0**-31)
"""The step between 31-bit fractions of 1."""

BELOW_ONE = tl.constexpr(4.6566126e-10)
"""2⁻³¹, less enough that the largest 31-bit integer stays below 1 in float32."""


@triton.jit
def random_bits(seed, a, b, c, d):
    """Four independent 31-bit integers for a seed and a counter of four 32-bit words."""
    zero = (c + a + b + d) * 0
    w, x, y, z = tl.philox(seed, zero + a, zero + b, zero + c, zero + d)
    return (
        (w >> 1).to(tl.int32),
        (x >> 1).to(tl.int32),
        (y >> 1).to(tl.int32),
        (z >> 1).to(tl.int32),
    )


@triton.jit
def edge_bits(seed, vertex, graph, key, purpose):
    """The 31-bit integers of query vertices and keys, both numbered inside their graph."""
    a, b, c, d = random_bits(seed, vertex, graph, key // 4, purpose)
    word = key % 4
    return tl.where(word < 2, tl.where(word == 0, a, b), tl.where(word == 2, c, d))


@triton.jit
def tile_bits(seed, vertex, graph, first, purpose, KEYS: tl.constexpr):
    """The 31-bit integers of query vertices [ROWS] and KEYS keys from ``first``, a multiple of 4,
    on: [ROWS, KEYS], four keys a counter."""
    four = first // 4 + tl.arange(0, KEYS // 4)
    a, b, c, d = random_bits(seed, vertex[:, None], graph, four[None, :], purpose)
    return tl.join(tl.join(a, c), tl.join(b, d)).reshape(vertex.shape[0], KEYS)


@triton.jit
def uniform(bits):
    """A float32 in [0, 1) of a 31-bit integer."""
    return bits.to(tl.float32) * BELOW_ONE
