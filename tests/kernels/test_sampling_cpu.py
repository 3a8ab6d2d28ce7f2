"""The compiled CPU samplers follow their law; the seed alone decides what comes out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sbmgraph import SBM, sample
from sbmgraph.kernels import dense, fastrg
from sbmgraph.kernels.dense import cpu as dense_cpu
from sbmgraph.kernels.fastrg import cpu as fastrg_cpu
from sbmgraph.kernels.fastrg import cpu_tables
from sbmgraph.kernels.probe import Probe
from tests.dense import dense_prob
from tests.kernels import sampling as checks

KERNELS = {"fastrg": fastrg_cpu, "dense": dense_cpu}
SAMPLERS = {name: checks.lister(kernel) for name, kernel in KERNELS.items()}

law = pytest.mark.parametrize("law", ["bernoulli", "poisson"])
algorithm = pytest.mark.parametrize("algorithm", SAMPLERS)


@law
@algorithm
@pytest.mark.parametrize("density", [0.001, 0.05, 0.3, 0.95])
@pytest.mark.parametrize("exploration", [0.0, 0.2])
def test_frequencies(law: str, algorithm: str, density: float, exploration: float) -> None:
    checks.check_frequencies(SAMPLERS[algorithm], law, density, exploration)


@law
@algorithm
def test_frequencies_in_float64(law: str, algorithm: str) -> None:
    checks.check_frequencies(SAMPLERS[algorithm], law, 0.3, 0.05, dtype=torch.float64)


@algorithm
def test_seed(algorithm: str) -> None:
    checks.check_seed(SAMPLERS[algorithm])


@algorithm
def test_independent_of_batch(algorithm: str) -> None:
    checks.check_independent_of_batch(SAMPLERS[algorithm])


def skewed(n: int, m: int, density: float, clusters: int = 5) -> SBM:
    """Memberships from nearly 0 to 1, a few keys exactly 0."""
    generator = torch.Generator().manual_seed(0)
    Y, Z = (torch.rand(s, 2, clusters, generator=generator) ** 4 for s in (n, m))
    Z[:3] = 0
    B = torch.rand(2, clusters, clusters, generator=generator)
    sbm = SBM(Y, Z, B)
    return SBM(Y, Z, B * (density / sbm.expected_density().max()))


@pytest.mark.parametrize("tables", [0.0, 500.0, 1e9], ids=["tables", "one head each", "uniform"])
@algorithm
@pytest.mark.parametrize("density", [0.002, 0.02, 0.1])
def test_degrees_over_many_tiles(
    monkeypatch: pytest.MonkeyPatch, algorithm: str, density: float, tables: float
) -> None:
    """Degrees of 700 queries and of 900 keys, standardised: their largest passes 6.5 with a chance
    below 1e-6, and the mean of their squares lies within 6 standard errors of 1. The densities make
    less than one, a few and many proposals for each block of a row."""
    monkeypatch.setattr(cpu_tables, "TABLE_PAYS", tables * density)
    run = SAMPLERS[algorithm]
    sbm = skewed(700, 900, density)
    prob = dense_prob(sbm).double()
    assert prob.max() <= 1
    draws = 12
    mask = torch.zeros(700, 2, 900)
    for seed in range(draws):
        graph = checks.draw(run, sbm, "bernoulli", seed=seed)
        mask[graph.edge_index[1], graph.head, graph.edge_index[0]] += 1
    assert not mask[:, :, :3].any()
    for dim in (0, 2):
        mean = draws * prob.sum(dim)
        variance = draws * (prob * (1 - prob)).sum(dim)
        usual = variance > 25
        z = ((mask.double().sum(dim) - mean) / variance.clamp(min=1e-12).sqrt())[usual]
        assert z.numel() > 100
        assert z.abs().max() < 6.5
        assert abs(z.square().mean() - 1) < 6 * (2 / z.numel()) ** 0.5 + 0.01
    total = draws * prob.sum()
    assert abs(mask.sum() - total) < 5 * (draws * (prob * (1 - prob)).sum()).sqrt()


def test_long_rows_of_keys() -> None:
    """More keys than one summary word covers, few edges a row."""
    sbm = skewed(40, 20_000, 0.002)
    prob = dense_prob(sbm).double()
    for run in SAMPLERS.values():
        graph = checks.draw(run, sbm, "bernoulli", seed=1)
        deviation = (prob * (1 - prob)).sum().sqrt()
        assert abs(graph.num_edges - prob.sum()) < 5 * deviation
        far = prob[..., 10_000:]
        edges = (graph.edge_index[0] >= 10_000).sum()
        assert abs(edges - far.sum()) < 5 * (far * (1 - far)).sum().sqrt()


@law
@algorithm
@pytest.mark.parametrize("clusters", [1, 16, 19])
def test_threads_and_chunks_change_nothing(law: str, algorithm: str, clusters: int) -> None:
    sbm = skewed(1100, 300, 0.2, clusters)
    threads, graphs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            graphs.append(checks.draw(SAMPLERS[algorithm], sbm, law, 0.01, seed=4))
    finally:
        torch.set_num_threads(threads)
    for other in graphs[1:]:
        assert torch.equal(other.rowptr, graphs[0].rowptr)
        assert torch.equal(other.col, graphs[0].col)


def test_certain_and_impossible_edges() -> None:
    Y = torch.ones(50, 1, 1)
    Z = (torch.arange(70) % 2).float().view(70, 1, 1)
    for run in SAMPLERS.values():
        graph = checks.draw(run, SBM(Y, Z, torch.full((1, 1, 1), 1.0)), "bernoulli")
        assert graph.num_edges == 50 * 35
        assert bool((graph.col % 2 == 1).all())


@pytest.mark.parametrize("algorithm", ["fastrg", "dense", "auto"])
def test_public_sample_uses_the_compiled_code(
    monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    calls: list[str] = []

    def spy(name: str, run: Callable) -> Callable:
        return lambda *args: calls.append(name) or run(*args)

    for name, kernel in KERNELS.items():
        assert kernel is {"fastrg": fastrg, "dense": dense}[name].sampler(torch.device("cpu"))
        monkeypatch.setattr(kernel, "sample", spy(name, kernel.sample))
    sample(skewed(20, 30, 0.1), algorithm=algorithm)
    assert len(calls) == 1
    assert algorithm in (calls[0], "auto")


def test_without_compiled_code_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(device: torch.device) -> None:
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr(dense, "PROBE", Probe("dense sampling", missing))
    sbm = skewed(20, 30, 0.1)
    with pytest.warns(RuntimeWarning, match="slower PyTorch code"):
        graph = sample(sbm, algorithm="dense", generator=torch.Generator().manual_seed(0))
    assert graph.num_queries == 20
