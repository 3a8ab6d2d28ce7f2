"""sample(): seeds, batches, degenerate problems, memory, bad input."""

from __future__ import annotations

import pytest
import torch

from sbmgraph import SBM, SampledGraph, sample
from tests.dense import random_sbm

LAWS = ["bernoulli", "poisson"]
ALGORITHMS = ["fastrg", "dense", "auto"]


def same(a: SampledGraph, b: SampledGraph) -> bool:
    return torch.equal(a.rowptr, b.rowptr) and torch.equal(a.col, b.col)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_generator_decides_and_leaves_the_global_state_alone(law: str, algorithm: str) -> None:
    sbm = random_sbm(30, 40)

    def draw(seed: int) -> SampledGraph:
        return sample(sbm, law, algorithm, generator=torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    assert not same(first, other)


def test_one_generator_gives_new_graphs() -> None:
    sbm, generator = random_sbm(30, 40), torch.Generator().manual_seed(0)
    assert not same(sample(sbm, generator=generator), sample(sbm, generator=generator))


def test_without_generator_the_global_seed_decides() -> None:
    sbm = random_sbm(30, 40)
    torch.manual_seed(3)
    first = sample(sbm)
    torch.manual_seed(3)
    assert same(first, sample(sbm))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("law", LAWS)
def test_thread_count_changes_nothing(law: str, algorithm: str) -> None:
    sbm = random_sbm(300, 200, clusters=5, dtype=torch.float32)
    threads, graphs = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            generator = torch.Generator().manual_seed(0)
            graphs.append(sample(sbm, law, algorithm, 0.01, generator))
    finally:
        torch.set_num_threads(threads)
    assert same(*graphs)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("n", "m", "heads", "clusters"),
    [(0, 0, 1, 1), (0, 4, 2, 3), (4, 0, 2, 3), (1, 1, 1, 1), (5, 3, 1, 1), (1, 9, 3, 2)],
)
def test_degenerate_sizes(algorithm: str, n: int, m: int, heads: int, clusters: int) -> None:
    sbm = random_sbm(n, m, heads, clusters, batch=False)
    for law in LAWS:
        graph = sample(sbm, law, algorithm, exploration=0.1)
        assert (graph.num_queries, graph.num_keys, graph.heads) == (n, m, heads)
        assert graph.rowptr[-1] == graph.num_edges <= n * m * heads


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_graphs_without_keys_or_queries(algorithm: str) -> None:
    """Graphs 0, 2, 4 have queries only, 1 and 3 keys only: nothing to sample."""
    full = random_sbm(6, 4, batch=False)
    sbm = SBM(
        full.query_membership,
        full.key_membership,
        full.affinity,
        torch.tensor([0, 0, 2, 2, 4, 4]),
        torch.tensor([1, 1, 3, 3]),
    )
    graph = sample(sbm, algorithm=algorithm, exploration=1.0)
    assert graph.num_edges == 0
    assert graph.num_graphs == 5
    assert graph.density().sum() == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_zero_probability_is_never_sampled(algorithm: str) -> None:
    sbm = random_sbm(20, 20, batch=False)
    zero = SBM(sbm.query_membership * 0, sbm.key_membership, sbm.affinity)
    assert sample(zero, algorithm=algorithm).num_edges == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_order_is_query_head_key_without_duplicates(algorithm: str) -> None:
    graph = sample(random_sbm(50, 60), algorithm=algorithm, exploration=0.3)
    order = (graph.edge_index[1] * graph.heads + graph.head) * graph.num_keys + graph.edge_index[0]
    assert bool((order.diff() > 0).all())


def test_more_expected_edges_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module = importlib.import_module("sbmgraph.ops.memory")
    monkeypatch.setattr(module, "available_memory", lambda device: 100)
    monkeypatch.setattr(module, "SMALL", 0)
    sbm = random_sbm(50, 60)
    with pytest.raises(ValueError, match=r"expected edges \(.*density\).*max_density"):
        sample(sbm)
    monkeypatch.setattr(module, "available_memory", lambda device: 10**9)
    sample(sbm)


def test_bad_input() -> None:
    sbm = random_sbm()

    def fails(match: str, *args, **kwargs) -> None:
        with pytest.raises(ValueError, match=match):
            sample(*args, **kwargs)

    fails("'sbm' must be an SBM", "sbm")
    fails("'law' must be one of 'bernoulli', 'poisson'", sbm, "gauss")
    fails("'algorithm' must be one of", sbm, algorithm="fast")
    fails("'exploration' must be a number in", sbm, exploration=-0.1)
    fails("'exploration' must be a number in", sbm, exploration=1.5)
    fails("'generator' must be a torch.Generator", sbm, generator=7)
    bad = SBM.unchecked(sbm.query_membership / 0, sbm.key_membership, sbm.affinity)
    fails("finite edge probabilities", bad)
