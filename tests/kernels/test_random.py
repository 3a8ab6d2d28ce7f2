"""Philox against its authors' published vectors, and the kernels' versions against Philox."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sbmgraph.kernels import random
from sbmgraph.kernels._numba import random as compiled
from sbmgraph.kernels._numba.jit import jit
from tests.triton_runs import DEVICE, INTERPRETED, kernel_test, run_interpreted

ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [
    # kat_vectors of Random123 1.14: counter, key, result
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: tuple, key: tuple, expected: tuple) -> None:
    words = random.philox(key[0] | key[1] << 32, *(torch.tensor([c]) for c in counter))
    assert tuple(int(word) for word in words) == expected


def test_a_key_owns_the_word_of_its_remainder() -> None:
    vertex, graph = torch.tensor([3, 2**31 + 5]), torch.tensor([0, 7])
    rows = random.row_bits(11, vertex, graph, 9, random.DENSE)
    assert rows.shape == (2, 9)
    for row, key in ((0, 0), (0, 6), (1, 8), (1, 3)):
        words = random.philox(11, vertex[row], graph[row], torch.tensor(key // 4), torch.tensor(3))
        assert rows[row, key] == words[key % 4] >> 1
        one = random.edge_bits(11, vertex[row], graph[row], torch.tensor(key), random.DENSE)
        assert one == rows[row, key]


def test_uniform_numbers_stay_below_one() -> None:
    u = random.uniform(torch.tensor([0, 1, 2**31 - 1]))
    assert u.dtype == torch.float32
    assert u[0] == 0
    assert 0 < u[1] < 2.0**-30
    assert u[2] < 1


# Seeds and counters that use every bit of their words.
SEEDS = [0, 5, (1 << 63) - 2, 0x1234567890ABCDEF]
PLACES = [(0, 0, 0), (3, 2, 9), (2**31 + 7, 2**20, 2**29)]
place = pytest.mark.parametrize(("vertex", "graph", "first"), PLACES)
seed = pytest.mark.parametrize("seed", SEEDS)


@jit
def _compiled_numbers(seed, vertex, graph, first, keys, low, row, draws, edge):
    compiled.row_uniforms(seed, vertex, graph, first, 3, row, 0)
    compiled.draw_bits(seed, vertex, graph, first, 1, draws, 0)
    compiled.edge_uniforms(seed, vertex, graph, keys, low, 0, 2, edge, 0)
    return compiled.philox(
        seed, np.uint64(vertex), np.uint64(graph), np.uint64(first), np.uint64(5)
    )


@seed
@place
def test_numbas_numbers_are_the_specification(
    seed: int, vertex: int, graph: int, first: int
) -> None:
    row, edge = np.empty(32, np.float32), np.empty(8, np.float32)
    draws = tuple(np.empty(compiled.DRAWS, np.int32) for _ in range(4))
    keys = np.array([100, 101, 102, 103, 110, 999, 1000, 2**31 - 1], np.int32)
    args = (np.uint64(seed), vertex, graph, first, keys, 100, row, draws, edge)
    words = _compiled_numbers(*args)
    where = torch.tensor(vertex), torch.tensor(graph)
    four = torch.arange(first, first + 8)
    expected = torch.stack(random.random_bits(seed, *where, four, random.DENSE), -1).flatten()
    assert np.array_equal(row, random.uniform(expected).numpy())
    number = torch.arange(first, first + compiled.DRAWS)
    expected_draws = random.random_bits(seed, *where, number, random.PROPOSAL)
    for found, word in zip(draws, expected_draws, strict=True):
        assert np.array_equal(found, word.numpy())
    key = torch.from_numpy(keys).long() - 100
    expected = random.edge_bits(seed, *where, key, random.THINNING)
    assert np.array_equal(edge, random.uniform(expected).numpy())
    purpose = torch.tensor(random.DROPOUT)
    assert words == tuple(int(w) for w in random.philox(seed, *where, torch.tensor(first), purpose))


triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from sbmgraph.kernels._triton import random as on_gpu  # noqa: E402


@triton.jit(do_not_specialize=["seed"])
def _triton_numbers(out, keys, edge, floats, vertex, graph, first, seed: tl.int64):
    """Tile numbers [2, 32] of two vertices, and the numbers of 8 keys."""
    lane = tl.arange(0, 2)
    rows = vertex + lane
    number = on_gpu.tile_bits(seed, rows, graph, first * 4, 3, 32)
    place = lane[:, None] * 32 + tl.arange(0, 32)[None, :]
    tl.store(out + place, number)
    tl.store(floats + place, on_gpu.uniform(number))
    eight = tl.arange(0, 8)
    tl.store(edge + eight, on_gpu.edge_bits(seed, vertex, graph, tl.load(keys + eight), 5))


@kernel_test
@seed
@pytest.mark.parametrize(("vertex", "graph", "first"), PLACES[:2])
def test_tritons_numbers_are_the_specification(
    seed: int, vertex: int, graph: int, first: int
) -> None:
    keys = torch.tensor([0, 1, 2, 3, 10, 899, 900, 2**31 - 101], dtype=torch.int32, device=DEVICE)
    out = torch.empty(2, 32, dtype=torch.int32, device=DEVICE)
    floats, edge = out.float(), keys.clone()
    _triton_numbers[(1,)](out, keys, edge, floats, vertex, graph, first, seed)
    where = torch.tensor([vertex, vertex + 1]), torch.tensor([graph, graph])
    four = torch.arange(first, first + 8)
    words = random.random_bits(seed, *(x[:, None] for x in where), four, random.DENSE)
    expected = torch.stack(words, -1).flatten(1)
    assert torch.equal(out.cpu().long(), expected)
    assert torch.equal(floats.cpu(), random.uniform(expected))
    one = torch.tensor(vertex), torch.tensor(graph)
    assert torch.equal(
        edge.cpu().long(), random.edge_bits(seed, *one, keys.cpu().long(), random.DROPOUT)
    )


if not INTERPRETED:

    def test_in_tritons_interpreter() -> None:
        run_interpreted(__file__)
