"""Rows of matrices that kernels load, gather and store, and the vertices at the ends of edges."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gather(base, vertex, inside, pitch, width, WIDTH: tl.constexpr, ACC: tl.constexpr):
    """The first ``width`` channels of rows ``vertex`` [EDGES] that lie ``pitch`` apart, [EDGES,
    WIDTH]; zeros where not ``inside``."""
    channel = tl.arange(0, WIDTH)
    mask = inside[:, None] & (channel < width)[None, :]
    return tl.load(base + vertex[:, None] * pitch + channel[None, :], mask=mask, other=0.0).to(ACC)


@triton.jit
def load_row(base, vertex, pitch, width, WIDTH: tl.constexpr, ACC: tl.constexpr):
    """The first ``width`` channels of row ``vertex``, [WIDTH]."""
    channel = tl.arange(0, WIDTH)
    return tl.load(base + vertex * pitch + channel, mask=channel < width, other=0.0).to(ACC)


@triton.jit
def store_row(base, vertex, pitch, width, value, WIDTH: tl.constexpr):
    """Stores the first ``width`` channels of ``value`` [WIDTH] as row ``vertex``."""
    channel = tl.arange(0, WIDTH)
    tl.store(base + vertex * pitch + channel, value, mask=channel < width)


@triton.jit
def neighbours(index, place, inside, heads, head):
    """Vertices of one head at the other ends of the edges ``place`` [EDGES]."""
    return tl.load(index + place, mask=inside, other=0).to(tl.int64) * heads + head
