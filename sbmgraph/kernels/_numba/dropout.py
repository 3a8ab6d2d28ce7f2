"""Dropout of attention weights in compiled code."""

from __future__ import annotations

import numpy as np

from sbmgraph.kernels._numba.jit import inline
from sbmgraph.kernels._numba.random import COUNTERS, edge_uniforms, philox
from sbmgraph.kernels.random import BELOW_ONE, DROPOUT

_BELOW_ONE = np.float32(BELOW_ONE)


@inline
def keeps(seed, local, graph, col, first, count, shift, dropout, keep):
    """The dropout factors of a row's edges ``first <= e < first + count``: 0 with probability
    ``dropout``, else ``1 / (1 - dropout)``.

    ``local`` is the query vertex in its graph, ``shift`` the graph's first key.
    """
    zero = keep.dtype.type(0)
    factor = keep.dtype.type(1) / (keep.dtype.type(1) - keep.dtype.type(dropout))
    limit = np.float32(dropout)
    whole = count // COUNTERS * COUNTERS
    uniforms = np.empty(COUNTERS, np.float32)
    for t in range(0, whole, COUNTERS):
        edge_uniforms(seed, local, graph, col, shift, first + t, DROPOUT, uniforms, 0)
        for lane in range(COUNTERS):
            keep[t + lane] = zero if uniforms[lane] < limit else factor
    for t in range(whole, count):
        key = np.uint64(col[first + t] - shift)
        words = philox(
            seed, np.uint64(local), np.uint64(graph), key >> np.uint64(2), np.uint64(DROPOUT)
        )
        place = key & np.uint64(3)
        low = words[1] if place & np.uint64(1) else words[0]
        high = words[3] if place & np.uint64(1) else words[2]
        word = high if place & np.uint64(2) else low
        drops = np.float32(np.int32(word >> np.uint64(1))) * _BELOW_ONE < limit
        keep[t] = zero if drops else factor
