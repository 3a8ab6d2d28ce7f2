"""The Triton kernels of edge attention: equal to the reference, on the GPU and interpreted."""

from __future__ import annotations

import importlib

import pytest
import torch
from scipy import stats
from torch import Tensor

from sbmgraph import SampledGraph
from sbmgraph.kernels.csr import CSC
from sbmgraph.kernels.options import Factors, Options
from sbmgraph.ops import edge_attention
from tests.ops import checks
from tests.triton_runs import DEVICE, INTERPRETED, compile_for_hopper, kernel_test, run_interpreted

gpu = pytest.importorskip("sbmgraph.kernels.attention.gpu", exc_type=ImportError)

from sbmgraph.kernels.attention import cpu, cpu_backward, gpu_backward, operator  # noqa: E402
from sbmgraph.kernels.attention.inputs import Inputs, Needs  # noqa: E402
from sbmgraph.kernels.edge_dot import cpu as edge_dot_cpu  # noqa: E402
from sbmgraph.kernels.edge_dot import gpu as edge_dot_gpu  # noqa: E402
from sbmgraph.kernels.transpose import cpu as transpose_cpu  # noqa: E402
from sbmgraph.kernels.transpose import gpu as transpose_gpu  # noqa: E402

# Interpreted programs are slow, and there is one for each vertex: few rows, of many edges.
SHAPES = [
    # n, m, heads, d, dv, K
    (3, 39, 2, 5, 12, 3),
    (5, 9, 2, 40, 33, 70),
    (1, 33, 1, 16, 16, 1),
]


@pytest.fixture(autouse=True)
def triton_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ``fused`` backend takes the Triton kernels for CPU tensors too, where interpreted."""
    if INTERPRETED:
        monkeypatch.setattr(operator, "needs_csc", lambda device_type: True)
        module = importlib.import_module("sbmgraph.ops.edge_prob")  # the function hides it
        monkeypatch.setattr(module, "needs_csc", lambda device_type: True)
        monkeypatch.setattr(cpu, "forward", gpu.forward)
        monkeypatch.setattr(cpu_backward, "backward", gpu_backward.backward)
        monkeypatch.setattr(edge_dot_cpu, "forward", edge_dot_gpu.forward)
        monkeypatch.setattr(edge_dot_cpu, "backward", edge_dot_gpu.backward)
        monkeypatch.setattr(transpose_cpu, "transpose", transpose_gpu.transpose)


@kernel_test
@pytest.mark.parametrize(
    ("shape", "dtype", "estimator", "use_bias"),
    [
        (SHAPES[0], torch.float64, "logit", True),
        (SHAPES[0], torch.float32, "mask", False),
        (SHAPES[1], torch.float64, "mask", True),
        (SHAPES[1], torch.float32, "logit", False),
        (SHAPES[2], torch.float32, "logit", True),
        (SHAPES[1], torch.bfloat16, "logit", False),
        (SHAPES[1], torch.float16, "mask", False),
    ],
)
def test_equals_reference(shape: tuple, dtype: torch.dtype, estimator: str, use_bias: bool) -> None:
    problem = checks.random_problem(*shape)
    with checks.poisoned_memory():
        checks.check_results(
            problem,
            DEVICE,
            "fused",
            dtype,
            estimator=estimator,
            use_bias=use_bias,
            use_sampled=use_bias,
        )


@kernel_test
def test_nan_is_not_swallowed() -> None:
    problem = checks.random_problem(*SHAPES[0])
    problem.tensors["key"][3, 0, 0] = float("nan")
    found, exact = (
        problem.results(*where, torch.float32)
        for where in ((DEVICE, "fused"), ("cpu", "reference"))
    )
    for name in ("out", "grad of query", "grad of key"):
        assert torch.equal(found[name].isnan(), exact[name].isnan())
        assert found[name].isnan().any()


@kernel_test
def test_a_row_whose_scores_are_all_masked_is_empty() -> None:
    problem = checks.random_problem(*SHAPES[0])
    masked = problem.graph.edge_index[1] == 1
    problem.tensors["bias"][masked] = float("-inf")
    found = problem.results(DEVICE, "fused", torch.float32)
    assert not found["out"][1].any()
    assert not found["grad of query"][1].any()
    for name in set(found) - {"weights"}:
        assert bool(torch.isfinite(found[name]).all()), name


class Flat:
    """The kernels' view of random inputs with one head."""

    def __init__(self, n: int, m: int, dv: int) -> None:
        problem = checks.random_problem(n, m, 1, 4, dv, 1)
        self.graph = problem.graph.to(DEVICE)
        names = ("query", "key", "value")
        self.qkv = [problem.tensors[name].squeeze(1).to(DEVICE) for name in names]
        self.grad = problem.grad.squeeze(1).to(DEVICE)
        self.factors = Factors(*(problem.tensors[name].to(DEVICE) for name in ("Y", "Z")))

    def forward(self, dropout: float, seed: int) -> tuple[Tensor, Tensor]:
        options = Options(0.5, dropout, seed, "mask")
        return gpu.forward(*self.qkv, self.graph.csr, None, options)

    def backward(
        self, dropout: float, seed: int, needs: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        results = self.forward(dropout, seed)
        inputs = Inputs(*self.qkv, self.graph.csr, self.graph.csc(), factors=self.factors)
        options = Options(0.5, dropout, seed, "mask")
        return gpu_backward.backward(self.grad, inputs, results, options, Needs(*needs))

    def dropout_factor(self, dropout: float, seed: int) -> Tensor:
        """What dropout multiplies each weight by, [n, m], NaN off the graph: values that name their
        key show the weights."""
        given = self.qkv[2]
        self.qkv[2] = torch.eye(self.graph.num_keys, dtype=given.dtype, device=DEVICE)
        factor = self.forward(dropout, seed)[0] / self.forward(0.0, seed)[0]
        self.qkv[2] = given
        return factor


@kernel_test
def test_only_what_is_needed_is_computed() -> None:
    flat = Flat(3, 4, 2)
    everything = flat.backward(0.0, 0, (True,) * 6)
    for wanted in range(6):
        needs = tuple(i == wanted for i in range(6))
        some = flat.backward(0.0, 0, needs)
        assert [grad is not None for grad in some] == list(needs)
        assert torch.equal(some[wanted], everything[wanted])


@kernel_test
@pytest.mark.parametrize("seed", [3, 2**40 + 3])
def test_dropout_drops_its_share(seed: int) -> None:
    """The number of dropped edges of a right kernel leaves its bounds with a chance below 1e-6."""
    dropout, flat = 0.3, Flat(3, 400, 4)
    factor = flat.dropout_factor(dropout, seed)
    factor = factor[~factor.isnan()]
    assert factor.numel() == flat.graph.num_edges
    kept = factor[factor > 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - dropout)))
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], factor.numel(), 1 - dropout)
    assert low <= kept.numel() <= high


@kernel_test
def test_dropout_is_the_same_in_both_passes() -> None:
    dropout, seed, flat = 0.3, 2**35 + 1, Flat(3, 40, 6)
    factor = flat.dropout_factor(dropout, seed)
    mask = ~factor.isnan()
    query, key, value = leaves = [x.clone().requires_grad_() for x in flat.qkv]
    score = (query @ key.T * 0.5).masked_fill(~mask, float("-inf"))
    alpha = score.softmax(-1).nan_to_num(0.0)
    expected = (alpha * factor.nan_to_num(0.0)) @ value
    torch.testing.assert_close(flat.forward(dropout, seed)[0], expected.detach())
    found = flat.backward(dropout, seed, (True, True, True, False, False, False))
    truth = torch.autograd.grad(expected, leaves, flat.grad)
    for mine, theirs in zip(found[:3], truth, strict=True):
        torch.testing.assert_close(mine, theirs)


@kernel_test
def test_dropout_depends_on_the_seed_alone() -> None:
    flat = Flat(2, 50, 4)
    first, again, other, far = (flat.forward(0.5, seed)[0] for seed in (5, 5, 6, 5 + 2**32))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, far)


@kernel_test
@pytest.mark.parametrize("clusters", [1, 70])
def test_edge_probabilities_equal_the_dense_product(clusters: int) -> None:
    n, m, heads = 3, 40, 2
    graph = checks.random_graph(n, m, heads, 0.3, torch.Generator().manual_seed(0)).to(DEVICE)
    rate, member = (
        torch.rand(size, heads, clusters, dtype=torch.float64, device=DEVICE) for size in (n, m)
    )
    key, query = graph.edge_index
    expected = torch.einsum("nhk,mhk->nhm", rate, member)[query, graph.head, key]
    factors = Factors(rate, member)
    torch.testing.assert_close(edge_dot_gpu.forward(factors, graph.csr), expected)
    csc = CSC(*graph.csc())
    unneeded = edge_dot_gpu.backward(expected, factors, graph.csr, csc, (False, False))
    assert unneeded == (None, None)


@kernel_test
@pytest.mark.parametrize("shape", [(6, 9, 2), (1, 30, 1), (19, 3, 3), (3, 0, 1)])
@pytest.mark.parametrize("algorithm", ["sorting", "counting"])
def test_transpose_groups_edges_by_key_in_order(
    shape: tuple[int, int, int], algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, m, heads = shape
    if algorithm == "counting":
        monkeypatch.setattr(transpose_gpu, "MIN_PARTS", 1)
    graph = checks.random_graph(n, m, heads, 0.3, torch.Generator().manual_seed(0)).to(DEVICE)
    colptr, row, perm = transpose_gpu.transpose(graph.rowptr, graph.col, heads=heads, num_keys=m)
    key, query = graph.edge_index
    column = key * heads + graph.head
    order = torch.argsort(column * n + query)
    assert torch.equal(perm, order)
    assert torch.equal(row.long(), query[order])
    assert torch.equal(colptr.diff(), torch.bincount(column, minlength=m * heads))
    assert (row.dtype, perm.dtype, colptr.dtype) == (torch.int32, torch.int64, torch.int64)


@kernel_test
@pytest.mark.parametrize("shape", [(0, 0), (2, 0), (0, 2), (2, 2)])
def test_graphs_without_edges(shape: tuple[int, int]) -> None:
    n, m = shape
    edges = torch.empty(2, 0, dtype=torch.int64)
    graph = SampledGraph.from_edge_index(edges, n, m, heads=2).to(DEVICE)
    tensors = [torch.randn(s, 2, 4, device=DEVICE).requires_grad_() for s in (n, m, m)]
    out = edge_attention(*tensors, graph, backend="fused")
    assert out.shape == (n, 2, 4)
    assert not out.any()
    out.sum().backward()
    for x in tensors:
        assert not x.grad.any()


if not INTERPRETED:

    def test_in_tritons_interpreter() -> None:
        run_interpreted(__file__)

    FLOATS = "query key value out lse grad delta dquery dkey dvalue dgate rate member weight dense"
    TYPES = (
        dict.fromkeys(FLOATS.split(), "*fp32")
        | dict.fromkeys(["rowptr", "colptr", "perm", "ptr", "table"], "*i64")
        | dict.fromkeys(["graph", "query_ptr", "key_ptr"], "*i64")
        | dict.fromkeys(["col", "row", "index"], "*i32")
        | dict.fromkeys(["d", "dv", "clusters"], "i32:16")
        | dict.fromkeys(["heads", "num_queries", "num_keys", "others", "nodes", "parts"], "i32")
        | {"scale": "fp32", "dropout": "fp32", "seed": "i64"}
    )

    @pytest.mark.slow
    @pytest.mark.parametrize("channels", [32, 64, 128])
    def test_kernels_compile_for_an_h100(channels: int) -> None:
        """They assemble, and read rows 16 bytes at a time."""
        graph = checks.random_graph(3, 4, 1, 0.5, torch.Generator().manual_seed(0))
        options = Options(1.0, 0.1, 0, "logit")
        meta = dict(gpu.plan(graph.csr, channels, channels, torch.float32, options).meta)
        warps = meta.pop("num_warps")
        constants = {**meta, "LOGIT": True}
        kernels = (gpu._forward_kernel, gpu_backward._query_kernel, gpu_backward._key_kernel)
        for kernel in kernels:
            assert "ld.global.v4" in compile_for_hopper(kernel, TYPES, constants, warps)
        constants = edge_dot_gpu._meta(channels, torch.float32)
        warps = constants.pop("num_warps")
        compile_for_hopper(transpose_gpu._transpose_kernel, TYPES, {"EDGES": 256, "PLACE": True}, 2)
        for kernel in (edge_dot_gpu._dot_kernel, edge_dot_gpu._spmm_kernel):
            assert "ld.global.v4" in compile_for_hopper(kernel, TYPES, constants, warps)
