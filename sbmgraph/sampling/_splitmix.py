"""Random numbers that are functions of counters, in compiled code."""

from __future__ import annotations

import numpy as np

from sbmgraph.kernels._numba.jit import inline


@inline
def mix(x):
    """A bijection of uint64 whose outputs for a sequence of inputs pass for random (the finaliser
    of SplitMix64, Steele et al., OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


GOLDEN = 0x9E3779B97F4A7C15


@inline
def stream(seed, a, b, c):
    """The key of an independent stream of random numbers for three integers."""
    golden = np.uint64(GOLDEN)
    key = mix(seed + golden)
    key = mix(key ^ (np.uint64(a) + golden))
    key = mix(key ^ (np.uint64(b) + golden))
    return mix(key ^ (np.uint64(c) + golden))


@inline
def random_bits(key, counter):
    """Random uint64 number ``counter`` of stream ``key``."""
    return mix(key + np.uint64(counter) * np.uint64(GOLDEN))
