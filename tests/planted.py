"""A planted block model: memberships and affinities known, tokens shuffled."""

from __future__ import annotations

import numpy as np
import torch

from sbmgraph import SBM, SampledGraph

SIZES = (24, 16, 8)
PROB = ((0.8, 0.05, 0.0), (0.3, 0.6, 0.05), (0.0, 0.1, 0.9))
"""Edge probability from a key of block v (column) to a query of block u (row): not symmetric."""


def planted_blocks(sizes=SIZES, seed: int = 0) -> np.ndarray:
    """The block of every token, in shuffled order."""
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(blocks)


def planted_sbm(sizes=SIZES, prob=PROB, seed: int = 0) -> tuple[SBM, np.ndarray]:
    """An SBM of one head whose tokens belong to one block each, and the blocks."""
    blocks = planted_blocks(sizes, seed)
    member = torch.eye(len(sizes), dtype=torch.float64)[torch.from_numpy(blocks)].unsqueeze(1)
    affinity = torch.tensor(prob, dtype=torch.float64).unsqueeze(0)
    return SBM(member, member.clone(), affinity), blocks


def planted_graph(sbm: SBM, seed: int = 0) -> SampledGraph:
    """A graph drawn from a planted SBM by NumPy, which stays the same whatever the samplers do."""
    query, key, affinity = (
        factor.numpy() for factor in (sbm.query_membership, sbm.key_membership, sbm.affinity)
    )
    prob = query[:, 0] @ affinity[0] @ key[:, 0].T
    drawn = np.random.default_rng(seed).random(prob.shape) < prob
    edges = torch.from_numpy(np.argwhere(drawn)[:, ::-1].T.copy())
    return SampledGraph.from_edge_index(edges, *prob.shape)
