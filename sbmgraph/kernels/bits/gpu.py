"""Degrees of bits, and the way between bits and lists of edges, on the GPU (Triton)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.kernels._triton.bitmap import popcount, row_words
from sbmgraph.kernels._triton.launch import launch
from sbmgraph.kernels.bits.layout import Bits
from sbmgraph.kernels.model import graph_of_nodes

ROWS, WORDS, WARPS = 4, 128, 4
"""Query vertices of a program, words that it reads at once of each, and its warps."""

EDGES = 256
"""Edges of a query vertex that a program sets at once."""


@triton.jit(do_not_specialize=["num_rows"])
def _read_kernel(
    words, rowptr, out, graph, query_ptr, key_ptr, word_ptr, heads, num_rows,
    ROWS: tl.constexpr, WORDS: tl.constexpr, FILL: tl.constexpr,
):  # fmt: skip
    """A program: a few query vertices, whose edges it counts, or whose keys it lists in order."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    mine = row < num_rows
    row = tl.where(mine, row, 0)
    g = tl.load(graph + row // heads)
    start, width, low = row_words(row, g, query_ptr, key_ptr, word_ptr, heads)
    width = tl.where(mine, width, 0)
    count = tl.zeros((ROWS, 1), tl.int64)
    if FILL:
        count += tl.load(rowptr + row)
    for first in range(0, tl.max(tl.max(width, 1), 0), WORDS):  # words of the rows
        place = first + tl.arange(0, WORDS)[None, :]
        word = tl.load(words + start + place, mask=place < width, other=0)
        word = word.to(tl.uint32, bitcast=True)  # [ROWS, WORDS]
        number = popcount(word)
        if FILL:
            position = count + tl.cumsum(number, 1) - number
            key = (low + place * 32).to(tl.int32)
            while tl.max(tl.max(word, 1), 0) > 0:  # the lowest bit of every word
                rest = word & (word - 1)
                bit = popcount((word ^ rest) - 1)
                tl.store(out + position, key + bit, mask=word != 0)
                position += 1
                word = rest
        count += tl.sum(number, 1)[:, None]
    if not FILL:
        tl.store(out + row, count, mask=mine)


@triton.jit
def _set_kernel(
    words, rowptr, col, graph, query_ptr, key_ptr, word_ptr, heads, EDGES: tl.constexpr
):
    """A program: one query vertex, whose edges become bits."""
    row = tl.program_id(0).to(tl.int64)
    g = tl.load(graph + row // heads)
    start, _, low = row_words(row, g, query_ptr, key_ptr, word_ptr, heads)
    stop = tl.load(rowptr + row + 1)
    for first in range(tl.load(rowptr + row), stop, EDGES):  # the row's edges
        edge = first + tl.arange(0, EDGES)
        key = tl.load(col + edge, mask=edge < stop, other=0) - low
        bit = (tl.full((EDGES,), 1, tl.int32) << (key % 32).to(tl.int32)).to(tl.int32)
        tl.atomic_or(words + start + key // 32, bit, mask=edge < stop, sem="relaxed")


def degrees(bits: Bits, *, rows: int) -> Tensor:
    """As :func:`sbmgraph.kernels.bits.reference.degrees`."""
    out = torch.empty(rows, dtype=torch.int64, device=bits.words.device)
    _read(bits, rows, out, out, fill=False)
    return out


def to_csr(bits: Bits, *, rows: int) -> tuple[Tensor, Tensor]:
    """As :func:`sbmgraph.kernels.bits.reference.to_csr`; the host waits for the number of edges."""
    rowptr = torch.zeros(rows + 1, dtype=torch.int64, device=bits.words.device)
    torch.cumsum(degrees(bits, rows=rows), 0, out=rowptr[1:])
    col = torch.empty(int(rowptr[-1]), dtype=torch.int32, device=bits.words.device)
    _read(bits, rows, rowptr, col, fill=True)
    return rowptr, col


def from_csr(rowptr: Tensor, col: Tensor, empty: Bits) -> Tensor:
    """As :func:`sbmgraph.kernels.bits.reference.from_csr`."""
    words = torch.zeros_like(empty.words)
    rows = rowptr.numel() - 1
    graph = graph_of_nodes(empty.query_ptr, rows // empty.heads)
    launch(
        _set_kernel, (rows,), words, words, rowptr, col, graph, empty.query_ptr, empty.key_ptr,
        empty.word_ptr, empty.heads, EDGES=EDGES, num_warps=WARPS,
    )  # fmt: skip
    return words


def _read(bits: Bits, rows: int, rowptr: Tensor, out: Tensor, *, fill: bool) -> None:
    graph = graph_of_nodes(bits.query_ptr, rows // bits.heads)
    launch(
        _read_kernel, (triton.cdiv(rows, ROWS),), bits.words, bits.words, rowptr, out, graph,
        bits.query_ptr, bits.key_ptr, bits.word_ptr, bits.heads, rows,
        ROWS=ROWS, WORDS=WORDS, FILL=fill, num_warps=WARPS,
    )  # fmt: skip
