"""Degrees of bits, and the way between bits and lists of edges, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from sbmgraph.kernels.bits.layout import WORD_BITS, Bits, row_starts


def degrees(bits: Bits, *, rows: int) -> Tensor:
    """The number of edges of each query vertex, int64 of shape :obj:`[rows]`."""
    start, width, _ = row_starts(bits, rows)
    total = torch.zeros(bits.words.numel() + 1, dtype=torch.int64, device=bits.words.device)
    torch.cumsum(_spread(bits.words).sum(-1), 0, out=total[1:])
    return total[start + width] - total[start]


def to_csr(bits: Bits, *, rows: int) -> tuple[Tensor, Tensor]:
    """``rowptr`` int64 [rows + 1] and ``col`` int32 [E], keys ascending in each row."""
    start, width, low = row_starts(bits, rows)
    word, bit = _spread(bits.words).nonzero(as_tuple=True)
    row = torch.repeat_interleave(width, output_size=bits.words.numel())[word]
    col = low[row] + (word - start[row]) * WORD_BITS + bit
    every = torch.arange(rows + 1, dtype=torch.int64, device=row.device)
    return torch.searchsorted(row, every), col.int()


def from_csr(rowptr: Tensor, col: Tensor, empty: Bits) -> Tensor:
    """The words of ``empty`` with a bit for every edge."""
    rows = rowptr.numel() - 1
    start, _, low = row_starts(empty, rows)
    row = torch.repeat_interleave(rowptr.diff(), output_size=col.numel())
    key = col.long() - low[row]
    word = start[row] + key.div(WORD_BITS, rounding_mode="floor")
    # Bit 31 is the sign: sums in int64 wrap into place when they are cut to int32.
    bit = torch.ones_like(key) << key % WORD_BITS
    sums = torch.zeros(empty.words.shape, dtype=torch.int64, device=col.device)
    return sums.index_add_(0, word, bit).int()


def _spread(words: Tensor) -> Tensor:
    """The bits of each word, int32 of shape :obj:`[W, 32]`."""
    shift = torch.arange(WORD_BITS, dtype=torch.int32, device=words.device)
    return (words.unsqueeze(-1) >> shift) & 1
