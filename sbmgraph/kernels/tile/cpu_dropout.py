"""Dropout of attention weights: Philox 4×32-10 over the keys of a row (Salmon et al., *Parallel
random numbers: as easy as 1, 2, 3*, SC 2011)."""

from __future__ import annotations

import numpy as np

from sbmgraph._jit import inline

PURPOSE = 5
"""The counter's last word: what the numbers are for."""

UNIT = np.float32(4.6566126e-10)
"""2⁻³¹, less enough that the largest 31-bit integer stays below 1 in float32."""

LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
FIRST, SECOND = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_FIRST, KEY_SECOND = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@inline
def _words(seed, c0, c1, c2, c3):
    """The four 32-bit words of a counter, as uint64."""
    key0, key1 = seed & LOW, seed >> HALF
    for _ in range(10):
        first, second = c0 * FIRST, c2 * SECOND
        c0, c1, c2, c3 = (
            (second >> HALF) ^ c1 ^ key0,
            second & LOW,
            (first >> HALF) ^ c3 ^ key1,
            first & LOW,
        )
        key0, key1 = (key0 + KEY_FIRST) & LOW, (key1 + KEY_SECOND) & LOW
    return c0, c1, c2, c3


@inline
def _factor(word, dropout, kept):
    u = np.float32(np.int32(word >> np.uint64(1))) * UNIT
    return np.float32(0.0) if u < dropout else kept


@inline
def factors_of_row(seed, vertex, graph, first, columns, dropout, out):
    """``out[t]`` = the factor of a query vertex's weight for key ``first + t`` of its graph: 0 with
    probability ``dropout``, else what keeps the mean; ``first`` and ``columns`` are multiples
    of 4."""
    kept = np.float32(1.0) / (np.float32(1.0) - dropout)
    c0, c1, c3 = np.uint64(vertex), np.uint64(graph), np.uint64(PURPOSE)
    for t in range(columns // 4):
        a, b, c, d = _words(seed, c0, c1, np.uint64(first // 4 + t), c3)
        out[4 * t] = _factor(a, dropout, kept)
        out[4 * t + 1] = _factor(b, dropout, kept)
        out[4 * t + 2] = _factor(c, dropout, kept)
        out[4 * t + 3] = _factor(d, dropout, kept)
