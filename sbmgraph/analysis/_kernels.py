"""Loops over the edges of a CSR matrix, for which NumPy would need E×K or n×n memory."""

from __future__ import annotations

import numpy as np

from sbmgraph.kernels._numba.bits import bits as popcount
from sbmgraph.kernels._numba.jit import jit


@jit
def edge_dot(
    indptr: np.ndarray, indices: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """The inner product ``left[row] · right[column]`` of every entry of a CSR matrix, float64."""
    out = np.empty(indices.size, np.float64)
    for row in range(indptr.size - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            total = 0.0
            for k in range(left.shape[1]):
                total += left[row, k] * right[indices[edge], k]
            out[edge] = total
    return out


@jit
def spread_bits(
    indptr: np.ndarray, indices: np.ndarray, words: np.ndarray, out: np.ndarray
) -> None:
    """``out[row] |= words[column]`` over the entries of a CSR matrix; ``words`` are uint64."""
    for row in range(indptr.size - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            column = indices[edge]
            for word in range(words.shape[1]):
                out[row, word] |= words[column, word]


@jit
def count_bits(words: np.ndarray) -> np.ndarray:
    """How many bits are set in each row of uint64 words."""
    out = np.zeros(words.shape[0], np.int64)
    for row in range(words.shape[0]):
        for word in range(words.shape[1]):
            out[row] += popcount(words[row, word])
    return out
