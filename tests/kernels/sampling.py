"""What every sampler must satisfy: functions of a sampler ``(sbm, law, exploration, seed)`` that
lists edges."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from sbmgraph import SBM, SampledGraph
from sbmgraph.kernels.bits import Bits, reference, word_pointers
from sbmgraph.kernels.model import EdgeModel
from tests.dense import random_sbm
from tests.kernels.test_sampling_law import (
    check_law,
    expected_frequency,
    indicators,
    problem,
    replicate,
)

Sampler = Callable[[SBM, str, float, int], tuple[Tensor, Tensor]]


def edge_model(sbm: SBM) -> EdgeModel:
    """What kernels take of a model."""
    return EdgeModel(sbm.rate, sbm.key_membership, sbm.nodes.query_ptr, sbm.nodes.key_ptr)


def lister(kernel: ModuleType) -> Sampler:
    """The sampler of a module of kernels; bits are listed."""

    def run(sbm: SBM, law: str, exploration: float, seed: int) -> tuple[Tensor, Tensor]:
        found = kernel.sample(edge_model(sbm), law, exploration, seed)
        if not isinstance(found, Bits):
            return found
        check_padding(found)
        return reference.to_csr(found, rows=sbm.num_queries * sbm.heads)

    return run


def check_padding(bits: Bits) -> None:
    """Bits behind a row's last key are 0, and there are as many words as the layout says."""
    assert bits.words.numel() == bits.word_ptr[-1]
    assert torch.equal(bits.word_ptr, word_pointers(bits.query_ptr, bits.key_ptr, bits.heads))
    keys = bits.key_ptr.diff().tolist()
    for graph, size in enumerate(keys):
        first, last = bits.word_ptr[graph : graph + 2].tolist()
        if size % 32 and first < last:
            ends = bits.words[first:last].view(-1, -(-size // 32))[:, -1].long()
            assert not ((ends & 0xFFFFFFFF) >> size % 32).any()


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
