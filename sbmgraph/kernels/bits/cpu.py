"""Degrees of bits, and the way between bits and lists of edges, compiled for the CPU.

Every kernel walks query vertices ``r = node * heads + head`` from ``start`` to ``stop``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbmgraph.kernels._numba.bits import bits as popcount
from sbmgraph.kernels._numba.bits import trailing_zeros
from sbmgraph.kernels._numba.jit import inline, jit
from sbmgraph.kernels._numba.threads import num_chunks, parallel_for
from sbmgraph.kernels.bits.layout import Bits

WORDS_PER_EDGE = 4
"""Words that are read in the time of an edge's work, about."""


def degrees(bits: Bits, *, rows: int) -> Tensor:
    """As :func:`sbmgraph.kernels.bits.reference.degrees`."""
    out = torch.empty(rows, dtype=torch.int64, device="cpu")
    layout = _arrays(bits)
    parallel_for(lambda a, b: _count(a, b, layout, out.numpy()), _ranges(bits, rows))
    return out


def to_csr(bits: Bits, *, rows: int) -> tuple[Tensor, Tensor]:
    """As :func:`sbmgraph.kernels.bits.reference.to_csr`."""
    rowptr = torch.zeros(rows + 1, dtype=torch.int64, device="cpu")
    torch.cumsum(degrees(bits, rows=rows), 0, out=rowptr[1:])
    col = torch.empty(int(rowptr[-1]), dtype=torch.int32, device="cpu")
    layout = _arrays(bits)
    parallel_for(lambda a, b: _list(a, b, layout, rowptr.numpy(), col.numpy()), _ranges(bits, rows))
    return rowptr, col


def from_csr(rowptr: Tensor, col: Tensor, empty: Bits) -> Tensor:
    """As :func:`sbmgraph.kernels.bits.reference.from_csr`."""
    filled = empty._replace(words=torch.zeros_like(empty.words))
    layout = _arrays(filled)
    ranges = _ranges(empty, rowptr.numel() - 1)
    parallel_for(lambda a, b: _set(a, b, layout, rowptr.numpy(), col.numpy()), ranges)
    return filled.words


class Arrays(NamedTuple):
    """:class:`Bits` as arrays, words unsigned."""

    words: np.ndarray
    word_ptr: np.ndarray
    query_ptr: np.ndarray
    key_ptr: np.ndarray
    heads: int


def _arrays(bits: Bits) -> Arrays:
    word_ptr, query_ptr, key_ptr = (x.contiguous().numpy() for x in bits[1:4])
    return Arrays(bits.words.numpy().view(np.uint32), word_ptr, query_ptr, key_ptr, bits.heads)


def _ranges(bits: Bits, rows: int) -> list[tuple[int, int]]:
    chunks = max(1, min(rows, num_chunks(bits.words.numel() / WORDS_PER_EDGE)))
    edges = [rows * i // chunks for i in range(chunks + 1)]
    return list(pairwise(edges))


@inline
def _row(r, g, layout):
    """The graph of row ``r``, at or behind ``g``; the row's first word and number of words."""
    while r >= layout.query_ptr[g + 1] * layout.heads:
        g += 1
    width = (layout.key_ptr[g + 1] - layout.key_ptr[g] + 31) >> 5
    return g, layout.word_ptr[g] + (r - layout.query_ptr[g] * layout.heads) * width, width


@jit
def _count(start, stop, layout, out):
    g = 0
    for r in range(start, stop):
        g, first, width = _row(r, g, layout)
        total = np.int64(0)
        for w in range(first, first + width):
            total += np.int64(popcount(np.uint64(layout.words[w])))
        out[r] = total


@jit
def _list(start, stop, layout, rowptr, col):
    g = 0
    for r in range(start, stop):
        g, first, width = _row(r, g, layout)
        e = rowptr[r]
        for w in range(width):
            word, key = np.uint64(layout.words[first + w]), layout.key_ptr[g] + 32 * w
            while word:
                col[e] = key + np.int64(trailing_zeros(word))
                word &= word - np.uint64(1)
                e += 1


@jit
def _set(start, stop, layout, rowptr, col):
    g = 0
    for r in range(start, stop):
        g, first, _ = _row(r, g, layout)
        for e in range(rowptr[r], rowptr[r + 1]):
            key = col[e] - layout.key_ptr[g]
            layout.words[first + (key >> 5)] |= np.uint32(1) << np.uint32(key & 31)
