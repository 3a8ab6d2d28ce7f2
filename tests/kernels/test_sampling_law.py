"""Sampled edges follow their law: exact binomial bounds at a stated family-wise error rate.

Each statistic is taken over independent replicates: many copies of one small ragged problem,
sampled as the graphs of one batch.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from sbmgraph import SBM, SampledGraph, sample
from sbmgraph.kernels.bits import bits_to_csr
from sbmgraph.kernels.dense import reference as dense
from sbmgraph.kernels.fastrg import reference as fastrg
from sbmgraph.kernels.model import EdgeModel
from tests.dense import dense_prob, random_sbm

ERROR_RATE = 1e-6
"""Family-wise: the chance that a right sampler fails one call of a check."""


def replicate(sbm: SBM, copies: int) -> SBM:
    """``copies`` of a problem with G graphs as one problem with ``copies * G`` graphs."""

    def tile(batch: Tensor | None, size: int) -> Tensor:
        own = torch.zeros(size, dtype=torch.int64) if batch is None else batch
        shift = torch.arange(copies).repeat_interleave(size) * sbm.num_graphs
        return own.repeat(copies) + shift

    return SBM(
        sbm.query_membership.repeat(copies, 1, 1),
        sbm.key_membership.repeat(copies, 1, 1),
        sbm.affinity,
        tile(sbm.query_batch, sbm.num_queries),
        tile(sbm.key_batch, sbm.num_keys),
    )


def indicators(graph: SampledGraph, n: int, m: int, copies: int) -> Tensor:
    """Presence of every possible edge in every replicate, boolean [copies, n * H * m]."""
    key, query = graph.edge_index
    assert bool((query // n == key // m).all()), "an edge joins two replicates"
    out = torch.zeros(copies, n, graph.heads, m, dtype=torch.bool)
    out[query // n, query % n, graph.head, key % m] = True
    assert int(out.sum()) == graph.num_edges, "an edge occurs twice"
    return out.flatten(1)


def expected_frequency(sbm: SBM, law: str, exploration: float) -> Tensor:
    prob = dense_prob(sbm, exploration)
    return (prob if law == "bernoulli" else -torch.expm1(-prob)).flatten()


def check_law(present: Tensor, prob: Tensor) -> None:
    """Every edge's count lies within its binomial bounds; pairs of edges are uncorrelated."""
    copies, edges = present.shape
    count = present.sum(0).numpy()
    p = prob.clamp(0, 1).numpy()
    tail = ERROR_RATE / (4 * edges)
    low, high = stats.binom.ppf(tail, copies, p), stats.binom.isf(tail, copies, p)
    assert (count >= low).all(), "an edge is too rare"
    assert (count <= high).all(), "an edge is too frequent"

    varied = (prob > 0.02) & (prob < 0.98)
    x = present[:, varied].double() - prob[varied]
    x = x / (prob[varied] * (1 - prob[varied])).sqrt()
    z = (x.T @ x / copies**0.5).fill_diagonal_(0.0)
    if z.numel() > 1:
        # The normal approximation of a correlation gets 15 % of slack.
        limit = 1.15 * stats.norm.isf(ERROR_RATE / (2 * z.numel()))
        assert z.abs().max().item() < limit, "two edges are correlated"


REFERENCE = {"fastrg": fastrg, "dense": dense}


def run_reference(
    sbm: SBM,
    law: str,
    algorithm: str,
    exploration: float,
    seed: int,
    module: types.ModuleType | None = None,
    rate: Tensor | None = None,
) -> SampledGraph:
    nodes = sbm.nodes
    rate = sbm.rate if rate is None else rate
    model = EdgeModel(rate, sbm.key_membership, nodes.query_ptr, nodes.key_ptr)
    found = (module or REFERENCE[algorithm]).sample(model, law, exploration, seed)
    if algorithm == "dense":
        found = bits_to_csr(found)
    rest = (sbm.num_keys, sbm.heads, sbm.query_batch, sbm.key_batch)
    return SampledGraph.from_csr(*found, *rest)


def run_public(sbm: SBM, law: str, algorithm: str, exploration: float, seed: int) -> SampledGraph:
    generator = torch.Generator().manual_seed(seed)
    return sample(sbm, law, algorithm, exploration, generator)


def problem(density: float) -> SBM:
    """A ragged problem with an asymmetric B whose largest probability is near ``density`` (at a low
    density the mean is)."""
    sbm = random_sbm(5, 7, batch=True, seed=3)
    prob = dense_prob(sbm)
    reach = prob.max() if density > 0.5 else prob[prob > 0].mean()
    return SBM(
        sbm.query_membership,
        sbm.key_membership,
        sbm.affinity * (density / reach),
        sbm.query_batch,
        sbm.key_batch,
    )


RUNNERS: dict[str, Callable] = {"reference": run_reference, "public": run_public}


@pytest.mark.parametrize("density", [0.001, 0.05, 0.3, 0.97])
@pytest.mark.parametrize("algorithm", ["fastrg", "dense"])
@pytest.mark.parametrize("law", ["bernoulli", "poisson"])
@pytest.mark.parametrize("runner", RUNNERS)
def test_edge_frequencies(runner: str, law: str, algorithm: str, density: float) -> None:
    sbm = problem(density)
    copies = 6000 if density < 0.01 else 1500
    graph = RUNNERS[runner](replicate(sbm, copies), law, algorithm, 0.0, 17)
    present = indicators(graph, 5, 7, copies)
    check_law(present, expected_frequency(sbm, law, 0.0))


@pytest.mark.parametrize("algorithm", ["fastrg", "dense"])
@pytest.mark.parametrize("law", ["bernoulli", "poisson"])
@pytest.mark.parametrize("runner", RUNNERS)
def test_exploration_is_one_more_block(runner: str, law: str, algorithm: str) -> None:
    sbm = problem(0.1)
    exploration = 0.2
    graph = RUNNERS[runner](replicate(sbm, 1500), law, algorithm, exploration, 5)
    same = sbm.query_batch[:, None, None] == sbm.key_batch
    expected = dense_prob(sbm, exploration) * same
    if law == "poisson":
        expected = -torch.expm1(-expected)
    check_law(indicators(graph, 5, 7, 1500), expected.flatten())


@pytest.mark.parametrize("algorithm", ["fastrg", "dense", "auto"])
def test_mean_degree_is_expected_edges(algorithm: str) -> None:
    """Five standard errors: a right sampler fails with a chance below 1e-6."""
    sbm = problem(0.3)
    copies = 1500
    many = replicate(sbm, copies)
    graph = run_public(many, "bernoulli", algorithm, 0.0, 2)
    prob = dense_prob(sbm)
    sigma = (copies * (prob * (1 - prob)).sum()).sqrt()
    assert abs(graph.num_edges - many.expected_edges().sum()) < 5 * sigma


def test_probabilities_above_one_are_certain() -> None:
    one = torch.ones(4, 1, 1)
    sbm = SBM(one, one, torch.full((1, 1, 1), 3.0))
    for algorithm in ("fastrg", "dense"):
        assert sample(sbm, algorithm=algorithm).num_edges == 16
        count = sum(sample(sbm, "poisson", algorithm).num_edges for _ in range(400))
        assert abs(count / 6400 - 0.632) < 0.03


MUTATIONS = {
    "thinning left out": (
        "edge = _thinned(model, plan_, exploration, seed, edge)",
        "pass",
        "fastrg",
    ),
    "a neighbour's key allowed": (
        "low, high = key_ptr[g : g + 2]",
        "low, high = key_ptr[g], min(key_ptr[g + 1] + 1, key_ptr[-1])",
        "dense",
    ),
}


def check_reference(algorithm: str, **changes: Any) -> None:
    sbm = problem(0.3)
    many = replicate(sbm, 1500)
    if "rate" in changes:
        changes["rate"] = changes["rate"](many)
    graph = run_reference(many, "bernoulli", algorithm, 0.0, 17, **changes)
    expected = expected_frequency(sbm, "bernoulli", 0.0)
    check_law(indicators(graph, 5, 7, 1500), expected)


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_checks_catch_planted_bugs(name: str) -> None:
    before, after, algorithm = MUTATIONS[name]
    source = inspect.getsource(REFERENCE[algorithm])
    assert before in source
    mutant = types.ModuleType("mutant")
    exec(compile(source.replace(before, after), "mutant", "exec"), mutant.__dict__)
    with pytest.raises(AssertionError):
        check_reference(algorithm, module=mutant)
    check_reference(algorithm)


@pytest.mark.parametrize("algorithm", REFERENCE)
def test_the_checks_catch_a_transposed_affinity(algorithm: str) -> None:
    def transposed(sbm: SBM) -> Tensor:
        return torch.einsum("nhk,hlk->nhl", sbm.query_membership, sbm.affinity).contiguous()

    with pytest.raises(AssertionError):
        check_reference(algorithm, rate=transposed)
