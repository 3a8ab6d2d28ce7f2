"""The primitives of the compiled CPU kernels against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from sbmgraph.kernels._numba import bits, math
from sbmgraph.kernels._numba.jit import jit


@jit
def _apply_exp(x, out):
    for i in range(x.size):
        out[i] = math.exp(x[i])


@jit
def _apply_log(x, out):
    for i in range(x.size):
        out[i] = math.log(x[i])


@jit
def _apply_ranks(limits, low, high, values, out):
    for first in range(0, values.size, 16):
        bits.ranks(limits, low, high, values, first, out)


@jit
def _apply_marks(marks, words):
    for i in range(words.size):
        words[i] = bits.take_marks(marks, 64 * i)


def test_exp() -> None:
    x = -np.logspace(-8, 1.9, 20_000).astype(np.float32)
    x = np.concatenate([x, np.float32([0.0, -86.9, -200.0, -np.inf])])
    out = np.empty_like(x)
    _apply_exp(x, out)
    true = np.exp(x.astype(np.float64))
    assert np.abs(out - true).max() < 1e-7
    normal = true > 2e-38
    assert np.abs(out[normal] / true[normal] - 1).max() < 2e-7
    assert out[-1] == 0


def test_log() -> None:
    generator = np.random.default_rng(0)
    near_one = 1 - generator.integers(1, 2**23, 20_000) * 2.0**-24
    x = np.concatenate([np.logspace(-30, 10, 20_000), near_one]).astype(np.float32)
    out = np.empty_like(x)
    _apply_log(x, out)
    true = np.log(x.astype(np.float64))
    assert np.abs(out / true - 1)[true != 0].max() < 3e-7
    assert (out[true == 0] == 0).all()


@pytest.mark.parametrize(("low", "high"), [(0, 30), (0, 0), (4, 4), (3, 17)])
def test_ranks(low: int, high: int) -> None:
    generator = np.random.default_rng(0)
    limits = np.repeat(generator.random(15), 2)
    limits.sort()
    values = np.concatenate([generator.random(20), limits[:12]])  # equal is not below
    out = np.full(33, -1, np.int32)
    _apply_ranks(limits, low, high, values, out)
    assert (out[:32] == low + np.searchsorted(limits[low:high], values)).all()
    assert out[32] == -1


def test_take_marks() -> None:
    generator = np.random.default_rng(0)
    marks = (generator.random(640) < 0.3).astype(np.uint8)
    expected = np.packbits(marks, bitorder="little").view(np.uint64)
    words = np.empty(10, np.uint64)
    _apply_marks(marks, words)
    assert (words == expected).all()
    assert not marks.any()
