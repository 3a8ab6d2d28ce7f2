r"""The one random number of this package: Philox 4×32-10 in plain torch, the specification.

Philox (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011) is a bijection of
counters of four 32-bit words, chosen by a key of two. A number therefore belongs to what its
counter says, never to a place in a stream: a kernel that runs again, in another order or on another
device, sees the same ones. ``_numba/random.py`` and ``_triton/random.py`` equal this file bit for
bit.

======== =======================================================================================
key      the seed's low and high 32 bits (seeds are 63-bit integers)
word 0   the query vertex inside its graph, ``(node - query_ptr[graph]) * heads + head``
word 1   the graph
word 2   the number of a draw, or a key inside its graph divided by 4: the key ``j`` owns word
         ``j % 4`` of the result
word 3   the purpose: :data:`PROPOSAL`, :data:`THINNING`, :data:`DENSE` or :data:`DROPOUT`
======== =======================================================================================

A result's words become 31-bit integers ``word >> 1``, and these float32 numbers in [0, 1) by
:func:`uniform`. An event of probability p happens where ``uniform < p``: always for p = 1, never
for p = 0, and with an error of at most 2⁻³¹ plus float32 rounding for any other p.
"""

from __future__ import annotations

import torch
from torch import Tensor

PROPOSAL, THINNING, DENSE, DROPOUT = 1, 2, 3, 5
"""What a number is for: fastRG's proposals and their thinning, a pair of the dense algorithm, an
attention weight's dropout."""

RESOLUTION = 2.0**-31
"""The step between two probabilities that a uniform number can tell apart."""

BELOW_ONE = 4.6566126e-10
"""2⁻³¹, less enough that the largest 31-bit integer stays below 1 in float32."""

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(seed: int, c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor) -> Words:
    """The four 32-bit words of counters ``(c0, c1, c2, c3)``.

    Args:
        seed (int): The key; its lowest 64 bits count.
        c0, c1, c2, c3 (Tensor): int64, of shapes that broadcast; their lowest 32 bits count.

    Returns:
        Four int64 tensors with values in [0, 2³²).
    """
    # A product of two words may pass 2⁶³; it wraps, and its bits stay those of the unsigned one.
    c0, c1, c2, c3 = (c & WORD for c in torch.broadcast_tensors(c0, c1, c2, c3))
    key0, key1 = seed & WORD, (seed >> 32) & WORD
    for _ in range(ROUNDS):
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (second >> 32) & WORD ^ c1 ^ key0,
            second & WORD,
            (first >> 32) & WORD ^ c3 ^ key1,
            first & WORD,
        )
        key0, key1 = (key0 + WEYL[0]) & WORD, (key1 + WEYL[1]) & WORD
    return c0, c1, c2, c3


def random_bits(seed: int, vertex: Tensor, graph: Tensor, number: Tensor, purpose: int) -> Words:
    """Four 31-bit integers (int64) of a query vertex, a graph and the number of a draw; shapes
    broadcast."""
    words = philox(seed, vertex, graph, number, torch.full_like(number, purpose))
    return tuple(word >> 1 for word in words)  # type: ignore[return-value]


def edge_bits(seed: int, vertex: Tensor, graph: Tensor, key: Tensor, purpose: int) -> Tensor:
    """The 31-bit integer (int64) of pairs of a query vertex and a key, both numbered inside their
    graph; shapes broadcast."""
    words = torch.stack(random_bits(seed, vertex, graph, key >> 2, purpose), dim=-1)
    word = (key & 3).expand(words.shape[:-1]).unsqueeze(-1)
    return words.gather(-1, word).squeeze(-1)


def row_bits(seed: int, vertex: Tensor, graph: Tensor, num_keys: int, purpose: int) -> Tensor:
    """The 31-bit integers (int64) of query vertices ``vertex`` [R] of graphs ``graph`` [R] and the
    first ``num_keys`` keys of their graph, of shape :obj:`[R, num_keys]`."""
    four = torch.arange((num_keys + 3) // 4, dtype=torch.int64, device=vertex.device)
    words = random_bits(seed, vertex.unsqueeze(-1), graph.unsqueeze(-1), four, purpose)
    return torch.stack(words, dim=-1).flatten(-2)[:, :num_keys]


def uniform(bits: Tensor) -> Tensor:
    """Float32 numbers in [0, 1) of 31-bit integers."""
    return bits.to(torch.float32) * BELOW_ONE
