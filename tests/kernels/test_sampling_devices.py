"""One seed, one graph: on every device, whatever the mode, and at probabilities of any size."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from sbmgraph import SBM, sample
from sbmgraph.kernels.dense import cpu as dense_cpu
from sbmgraph.kernels.dense import reference as dense_reference
from sbmgraph.kernels.fastrg import cpu as fastrg_cpu
from sbmgraph.kernels.fastrg import plan as fastrg_plan
from sbmgraph.kernels.fastrg import reference as fastrg_reference
from sbmgraph.kernels.model import EdgeModel
from tests.dense import random_sbm
from tests.kernels.sampling import edge_model, lister, move
from tests.triton_runs import DEVICE, INTERPRETED, kernel_test, run_interpreted

dense_gpu = pytest.importorskip("sbmgraph.kernels.dense.gpu", exc_type=ImportError)
fastrg_gpu = pytest.importorskip("sbmgraph.kernels.fastrg.gpu", exc_type=ImportError)

LAWS = ["bernoulli", "poisson"]
CPU = {
    "dense": dense_cpu,
    "fastrg": fastrg_cpu,
    "dense reference": dense_reference,
    "fastrg reference": fastrg_reference,
}
law = pytest.mark.parametrize("law", LAWS)
cpu_kernel = pytest.mark.parametrize("kernel", CPU.values(), ids=CPU)


def num_different(one: ModuleType, other: ModuleType, sbm: SBM, law: str, device: str) -> int:
    """Edges of one graph that are not the other's, the second on ``device``."""
    vertices = []
    for module, where in ((one, "cpu"), (other, device)):
        rowptr, col = (x.cpu() for x in lister(module)(move(sbm, where), law, 0.01, 11 << 35))
        row = torch.repeat_interleave(rowptr.diff())
        vertices.append(row * sbm.num_keys + col)
    both = torch.cat(vertices)
    assert both.numel() > 100
    return int((torch.unique(both, return_counts=True)[1] == 1).sum())


def large(n: int, m: int, heads: int = 2, clusters: int = 19) -> SBM:
    return random_sbm(n, m, heads, clusters, scale=3.0, dtype=torch.float32)


@law
def test_dense_on_the_cpu_is_the_reference(law: str) -> None:
    """Probabilities differ by a few float32 roundings, at most 2⁻²¹ here: of two million pairs
    one is expected to change sides, and 12 do with a chance below 1e-8."""
    assert num_different(dense_reference, dense_cpu, large(1000, 1100), law, "cpu") < 12


@kernel_test
@law
def test_dense_on_the_gpu_is_the_reference(law: str) -> None:
    """Split factors are right to 2⁻¹⁶: of 60,000 pairs one may change sides."""
    assert num_different(dense_reference, dense_gpu, large(100, 300), law, DEVICE) < 8


@kernel_test
@law
def test_fastrg_on_the_gpu_is_the_reference(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places on the axis are float32 numbers: a proposal in 10⁵ may meet another key."""
    if INTERPRETED:  # programs cost about the same whatever their width
        monkeypatch.setattr(fastrg_gpu, "ROWS", 64)
    sbm = random_sbm(30, 90, 2, 5, scale=1.5, dtype=torch.float32)
    assert num_different(fastrg_reference, fastrg_gpu, sbm, law, DEVICE) < 6


@pytest.fixture
def meta_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.usefixtures("meta_device")
@cpu_kernel
@law
def test_a_default_device_is_of_no_matter(kernel: ModuleType, law: str) -> None:
    ptr = [torch.tensor([0, 3, size], device="cpu") for size in (8, 6)]
    factors = [torch.full((size, 2, 3), 0.5, device="cpu") for size in (8, 6)]
    for member in (factors[1], factors[1] * 2):  # proposals, and rows that are too dense for them
        found = kernel.sample(EdgeModel(factors[0], member, *ptr), law, 0.01, 5)
        assert all(x.device.type == "cpu" for x in found if isinstance(x, torch.Tensor))


@cpu_kernel
def test_a_probability_that_is_nan_is_no_edge(kernel: ModuleType) -> None:
    check_nan(kernel, "cpu")


@kernel_test
@pytest.mark.parametrize("kernel", [dense_gpu, fastrg_gpu], ids=["dense", "fastrg"])
def test_a_probability_that_is_nan_is_no_edge_on_the_gpu(kernel: ModuleType) -> None:
    check_nan(kernel, DEVICE)


def check_nan(kernel: ModuleType, device: str) -> None:
    """The maximum and minimum of a machine pass over NaN, and would make such an edge certain."""
    sbm = random_sbm(6, 40, 2, 3, batch=False, scale=2.0, dtype=torch.float32)
    sbm.key_membership[7] = float("nan")
    sbm.query_membership[2] = float("nan")
    for law in LAWS:
        rowptr, col = (x.cpu() for x in lister(kernel)(move(sbm, device), law, 0.1, 3))
        assert not (col == 7).any()
        assert rowptr[4] == rowptr[6]


def tiny(prob: float, n: int, m: int, dtype: torch.dtype = torch.float32) -> EdgeModel:
    """Pairs of one probability."""
    rate, member = torch.full((n, 1, 1), prob, dtype=dtype), torch.ones(m, 1, 1, dtype=dtype)
    return EdgeModel(rate, member, torch.tensor([0, n]), torch.tensor([0, m]))


@pytest.mark.parametrize("kernel", [dense_cpu, fastrg_cpu], ids=["dense", "fastrg"])
def test_small_probabilities_under_the_poisson_law(kernel: ModuleType) -> None:
    """40 edges expected of 40 million pairs; 1 - exp(-p) of 1e-6 in float32 is 0.954e-6, and of
    2.5e-8 is 0. A right sampler finds fewer than 10 or more than 85 with a chance below 1e-7."""
    model = tiny(1e-6, 4000, 10_000)
    rowptr, _ = listed(kernel, model, "poisson")
    assert 10 <= int(rowptr[-1]) <= 85
    model = tiny(2.5e-8, 4000, 10_000)  # one edge expected, in each of 20 samples
    total = sum(int(listed(kernel, model, "poisson", seed)[0][-1]) for seed in range(20))
    assert 2 <= total <= 60


def listed(kernel: ModuleType, model: EdgeModel, law: str, seed: int = 0) -> tuple:
    found = kernel.sample(model, law, 0.0, seed)
    if len(found) == 2:
        return found
    return importlib.import_module("sbmgraph.kernels.bits").bits_to_csr(found)


@pytest.mark.parametrize("kernel", [fastrg_cpu, fastrg_reference], ids=["cpu", "reference"])
@law
def test_fastrg_has_no_smallest_probability(kernel: ModuleType, law: str) -> None:
    """Rows of 10⁻¹¹ expected edges have none; 20,000 rows of 10⁻³ have 20 in all, and fewer than 3
    or more than 50 with a chance below 1e-6."""
    assert int(listed(kernel, tiny(1e-15, 5000, 10_000), law)[0][-1]) == 0
    rowptr, _ = listed(kernel, tiny(5e-7, 20_000, 2000), law)
    assert 3 <= int(rowptr[-1]) <= 50


@pytest.mark.parametrize("tables", [0.0, 1e9], ids=["tables", "uniform"])
@law
def test_tiny_memberships_with_a_large_affinity(
    law: str, tables: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memberships of at most 7e-37: 256 over that is infinite in float32. 6 standard errors."""
    module = importlib.import_module("sbmgraph.kernels.fastrg.cpu_tables")
    monkeypatch.setattr(module, "TABLE_PAYS", tables)
    generator = torch.Generator().manual_seed(0)
    member = torch.rand(500, 1, 2, generator=generator) * 7e-37
    rate = torch.full((500, 1, 2), 0.15 / 7e-37)
    ptr = torch.tensor([0, 500])
    model = EdgeModel(rate, member, ptr, ptr)
    prob = (rate.double()[:, 0] @ member.double()[:, 0].T).clamp(max=1)
    if law == "poisson":
        prob = -torch.expm1(-prob)
    rowptr, _ = listed(fastrg_cpu, model, law)
    deviation = (prob * (1 - prob)).sum().sqrt()
    assert abs(int(rowptr[-1]) - prob.sum()) < 6 * deviation


@law
def test_buffers_follow_the_capped_expectation(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """10⁶ pairs with p = 10⁴ are 10⁶ edges, not 10¹⁰."""
    empty, largest = torch.empty, [0]

    def watch(*args, **kwargs):
        out = empty(*args, **kwargs)
        largest[0] = max(largest[0], out.numel())
        return out

    monkeypatch.setattr(torch, "empty", watch)
    np = importlib.import_module("numpy")
    np_empty = np.empty

    def np_watch(*args, **kwargs):
        out = np_empty(*args, **kwargs)
        largest[0] = max(largest[0], out.size)
        return out

    monkeypatch.setattr(np, "empty", np_watch)
    for kernel in (fastrg_cpu, dense_cpu):
        edges = int(listed(kernel, tiny(1e4, 1000, 1000), law)[0][-1])
        assert abs(edges - (10**6 if law == "bernoulli" else 632_121)) < 6 * 500
    assert largest[0] < 4 * 10**6


def test_the_dense_algorithm_is_refused_below_its_resolution() -> None:
    one = torch.ones(50, 1, 1)
    sbm = SBM(one, one, torch.full((1, 1, 1), 1e-7))
    with pytest.raises(ValueError, match="'algorithm' must be 'fastrg' or 'auto'"):
        sample(sbm, algorithm="dense")
    sample(sbm)


def test_plan_of_a_dense_row_is_finite() -> None:
    plan = fastrg_plan.plan(tiny(3e38, 3, 40), "bernoulli", 0.0)
    assert bool(plan.is_dense.all())
    assert bool(torch.isfinite(plan.axis).all())


def test_models_of_the_public_interface_are_the_kernels() -> None:
    sbm = random_sbm(20, 30, 2, 3, dtype=torch.float32)
    generator = torch.Generator().manual_seed(4)
    seed = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(4)))
    graph = sample(sbm, algorithm="dense", exploration=0.1, generator=generator)
    bits = dense_cpu.sample(edge_model(sbm), "bernoulli", 0.1, seed)
    assert torch.equal(graph.bits.words, bits.words)


if not INTERPRETED:

    def test_in_tritons_interpreter() -> None:
        run_interpreted(__file__)
