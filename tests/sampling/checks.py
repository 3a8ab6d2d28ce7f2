"""What every sampler must satisfy: functions of a sampler ``(sbm, law, exploration, seed)``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sbmgraph import SBM, SampledGraph
from tests.dense import random_sbm
from tests.sampling.test_law import (
    check_law,
    expected_frequency,
    indicators,
    problem,
    replicate,
)

Sampler = Callable[[SBM, str, float, int], tuple[Tensor, Tensor]]


def move(sbm: SBM, device: str, dtype: torch.dtype | None = None) -> SBM:
    batches = [None if b is None else b.to(device) for b in (sbm.query_batch, sbm.key_batch)]
    factors = (sbm.query_membership, sbm.key_membership, sbm.affinity)
    return SBM.unchecked(*(x.to(device, dtype) for x in factors), *batches, sbm.num_graphs)


def draw(
    sampler: Sampler,
    sbm: SBM,
    law: str,
    exploration: float = 0.0,
    seed: int = 0,
    device: str = "cpu",
) -> SampledGraph:
    """A graph on the CPU, after checks of its form."""
    rowptr, col = (x.cpu() for x in sampler(move(sbm, device), law, exploration, seed))
    assert rowptr.dtype == torch.int64
    assert col.dtype == torch.int32
    assert rowptr[0] == 0
    assert rowptr[-1] == col.numel()
    assert bool((rowptr.diff() >= 0).all())
    graph = SampledGraph.from_csr(
        rowptr, col, sbm.num_keys, sbm.heads, sbm.query_batch, sbm.key_batch, sbm.num_graphs
    )
    order = graph.row * sbm.num_keys + graph.col
    assert bool((order.diff() > 0).all()), "keys are not ascending in a row"
    return graph


def check_frequencies(
    sampler: Sampler,
    law: str,
    density: float,
    exploration: float = 0.0,
    copies: int = 1500,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 17,
) -> None:
    """Every edge's frequency and every pair's correlation, on a ragged problem with an asymmetric
    affinity; a right sampler fails with a chance below 1e-6."""
    sbm = problem(density)
    many = move(replicate(sbm, copies), "cpu", dtype)
    graph = draw(sampler, many, law, exploration, seed, device)
    n, m = sbm.num_queries, sbm.num_keys
    same = (sbm.query_batch[:, None, None] == sbm.key_batch).expand(n, sbm.heads, m).flatten()
    prob = expected_frequency(sbm, law, exploration) * same
    check_law(indicators(graph, n, m, copies), prob)


def check_seed(sampler: Sampler, device: str = "cpu") -> None:
    """The seed decides."""
    sbm = random_sbm(60, 50, batch=True, dtype=torch.float32)
    for law in ("bernoulli", "poisson"):
        first, again, other = (draw(sampler, sbm, law, 0.1, s, device) for s in (5, 5, 6))
        assert torch.equal(first.col, again.col)
        assert torch.equal(first.rowptr, again.rowptr)
        assert first.num_edges != other.num_edges or not torch.equal(first.col, other.col)


def check_independent_of_batch(sampler: Sampler, device: str = "cpu") -> None:
    """A graph's sample is the same alone and with batch-mates behind it."""
    generator = torch.Generator().manual_seed(0)
    Y, Z = (torch.rand(s, 2, 3, generator=generator) for s in (31, 47))
    B = torch.rand(2, 3, 3, generator=generator) / 9
    alone = SBM(Y[:20], Z[:25], B)
    query_batch = (torch.arange(31) >= 20).long()
    key_batch = (torch.arange(47) >= 25).long()
    together = SBM(Y, Z, B, query_batch, key_batch)
    for law in ("bernoulli", "poisson"):
        one = draw(sampler, alone, law, 0.05, 9, device)
        two = draw(sampler, together, law, 0.05, 9, device)
        assert torch.equal(one.edges_of(0, 0), two.edges_of(0, 0))
        assert torch.equal(one.edges_of(1, 0), two.edges_of(1, 0))
