"""The transpose of a CSR on the CPU: a stable counting sort over parts of the query nodes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sbmgraph.kernels._numba.jit import jit
from sbmgraph.kernels._numba.threads import num_chunks, parallel_for, split_nodes

CACHED_KEYS = 256
"""Keys whose edges are collected at once."""


@jit
def _count_columns(start, stop, rowptr, col, heads, count):
    """Walks the edges of the query nodes ``start`` to ``stop`` and counts those of each key."""
    for head in range(heads):
        for node in range(start, stop):
            r = node * heads + head
            for e in range(rowptr[r], rowptr[r + 1]):
                count[head, col[e]] += 1


@jit
def _first_positions(counts, colptr):
    """Turns counts [chunks, H, m] into where each chunk's first edge goes, and fills colptr."""
    chunks, heads, num_keys = counts.shape
    total = 0
    for key in range(num_keys):
        for head in range(heads):
            colptr[key * heads + head] = total
            for chunk in range(chunks):
                here = counts[chunk, head, key]
                counts[chunk, head, key] = total
                total += here
    colptr[num_keys * heads] = total


@jit
def _fill_columns(start, stop, rowptr, col, heads, block, position, row, perm):
    """Walks the same edges, ``block`` keys at a time, and writes each to its key's next place."""
    num_keys = position.shape[1]
    cursor = np.empty(stop - start, np.int64)
    for head in range(heads):
        for node in range(start, stop):
            cursor[node - start] = rowptr[node * heads + head]
        for first in range(0, num_keys, block):  # so few keys that their places stay in cache
            for node in range(start, stop):
                e, high = cursor[node - start], rowptr[node * heads + head + 1]
                while e < high and col[e] < first + block:
                    key = col[e]
                    at = position[head, key]
                    position[head, key] = at + 1
                    row[at] = node
                    perm[at] = e
                    e += 1
                cursor[node - start] = e


def transpose(
    rowptr: Tensor, col: Tensor, *, heads: int, num_keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`sbmgraph.kernels.transpose.operator.transpose`."""
    ranges = split_nodes(rowptr, heads)
    if col.numel() < 4 * num_keys * heads or num_chunks(col.numel()) == 1:
        ranges = [(0, (rowptr.numel() - 1) // heads)]
    counts = np.zeros((len(ranges), heads, num_keys), np.int64)
    colptr = torch.empty(num_keys * heads + 1, dtype=torch.int64, device="cpu")
    row = torch.empty(col.numel(), dtype=torch.int32, device="cpu")
    perm = torch.empty(col.numel(), dtype=torch.int64, device="cpu")
    csr = (rowptr.numpy(), col.numpy(), heads)
    pairs, edges = (rowptr.numel() - 1) * num_keys, max(col.numel(), 1)
    block = max(1, min(max(CACHED_KEYS, 6 * pairs // edges), num_keys))
    parallel_for(
        lambda chunk, start, stop: _count_columns(start, stop, *csr, counts[chunk]),
        [(chunk, *range_) for chunk, range_ in enumerate(ranges)],
    )
    _first_positions(counts, colptr.numpy())
    parallel_for(
        lambda chunk, start, stop: _fill_columns(
            start, stop, *csr, block, counts[chunk], row.numpy(), perm.numpy()
        ),
        [(chunk, *range_) for chunk, range_ in enumerate(ranges)],
    )
    return colptr, row, perm
