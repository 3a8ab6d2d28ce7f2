"""Philox against its authors' published vectors, and the kernels' versions against Philox."""

from __future__ import annotations

import pytest
import torch

from sbmgraph.kernels import random

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
