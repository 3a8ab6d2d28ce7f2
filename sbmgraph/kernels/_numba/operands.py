"""Tiles of pairs as matrix products see them: laying operands out, multiplying, dropping weights.

A tile holds :data:`QUERIES` rows of :data:`KEYS` numbers at most, :data:`PITCH` numbers apart.
"""

from __future__ import annotations

import numpy as np

from sbmgraph.kernels._numba.jit import inline, jit
from sbmgraph.kernels._numba.random import row_uniforms
from sbmgraph.kernels._numba.tiles import (
    LINE,
    ROWS,
    add_product,
    lanes_of,
    move,
    move_line,
    set_product,
)
from sbmgraph.kernels.random import DROPOUT

QUERIES = 48
"""Queries of a tile, a multiple of the rows that a product holds at once."""

KEYS = 96
"""Keys of a tile, a multiple of the bits of a word besides."""

PITCH = KEYS + 16
"""Numbers between two rows of a tile: an odd number of cache lines, which spreads a column over the
cache."""


@inline
def aligned(size, like):
    """An uninitialised array in the dtype of ``like`` that begins at a cache line."""
    array = np.empty(size + LINE // like.itemsize, like.dtype)
    first = (-array.ctypes.data) % LINE // like.itemsize
    return array[first : first + size]


@jit
def add_panels(a, a_row, a_step, rows, b, b_at, b_rows, panels, depth, out, out_at, out_rows):
    """Adds ``rows`` rows, rounded up to :data:`ROWS`, of the product of ``a`` with ``panels``
    panels, each ``b_rows`` rows after the one before it, to as many panels of ``out_rows`` rows."""
    width = lanes_of(out)
    for panel in range(panels):
        for r in range(0, rows, ROWS):
            add_product(
                a, r * a_row, a_row, a_step, b, b_at + panel * b_rows * width, depth, out,
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


@jit
def drop(tile, count, columns, seed, vertex, heads, graph, low, dropout):
    """Multiplies the rows of a tile with their factors of dropout: 0 with probability ``dropout``,
    else ``1 / (1 - dropout)``. Rows are query vertices ``heads`` apart from ``vertex`` on, columns
    keys from ``low`` on, both numbered inside their graph."""
    kind = tile.dtype.type
    zero, factor = kind(0), kind(1) / (kind(1) - kind(dropout))
    uniforms = np.empty(PITCH + 32, np.float32)
    for r in range(count):
        for t in range(0, columns, 32):
            row_uniforms(seed, vertex + r * heads, graph, (low + t) // 4, DROPOUT, uniforms, t)
        row = tile[r * PITCH : r * PITCH + columns]
        for t in range(columns):
            row[t] *= zero if uniforms[t] < dropout else factor


@jit
def clear(tile, first, last, columns):
    """Rows ``first`` to ``last`` of a tile become 0."""
    for r in range(first, last):
        tile[r * PITCH : r * PITCH + columns] = 0
