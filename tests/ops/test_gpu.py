"""The Triton kernels of edge attention against the ``pyg`` backend and dense truths."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from sbmgraph import SBM, SampledGraph
from sbmgraph.ops import edge_attention, fused
from tests.dense import random_sbm
from tests.triton_runs import (
    DEVICE,
    INTERPRETED,
    compile_for_hopper,
    kernel_test,
    run_interpreted,
)

gpu = pytest.importorskip("sbmgraph.ops.gpu", exc_type=ImportError)

TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.bfloat16: 3e-2,
    torch.float16: 4e-3,
}


@pytest.fixture(autouse=True)
def triton_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ``fused`` backend takes the Triton kernels for CPU tensors too, where interpreted."""
    if INTERPRETED:
        monkeypatch.setitem(fused.KERNELS, "cpu", "sbmgraph.ops.gpu")
        fused._works.cache_clear()


def hand_made_graph(n: int, m: int, heads: int, seed: int = 0) -> SampledGraph:
    """A random graph whose first vertex has every key and whose second has none."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n, heads, m, generator=generator) < 0.3
    mask[0] = True
    mask[1:2] = False
    query, head, key = mask.nonzero(as_tuple=True)
    graph = SampledGraph.from_edge_index(torch.stack([key, query]), n, m, heads, head)
    return graph.to(DEVICE)


def inputs(n: int, m: int, heads: int, d: int, dv: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((n, heads, d), (m, heads, d), (m, heads, dv))
    return [
        torch.randn(*shape, generator=generator).to(DEVICE, dtype).requires_grad_()
        for shape in shapes
    ]


def model(n: int, m: int, heads: int, dtype: torch.dtype) -> SBM:
    sbm = random_sbm(n, m, heads, clusters=5, batch=False, dtype=dtype)
    factors = (sbm.query_membership, sbm.key_membership, sbm.affinity)
    return SBM(*(factor.to(DEVICE).requires_grad_() for factor in factors))


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=tolerance, atol=tolerance, check_device=False
    )


@kernel_test
@pytest.mark.parametrize(
    ("shape", "dtype", "estimator"),
    [
        ((4, 37, 2, 5, 12), torch.float64, "logit"),
        ((3, 70, 1, 40, 32), torch.float64, "mask"),
        ((5, 9, 2, 32, 32), torch.float32, "mask"),
        ((3, 18, 3, 70, 5), torch.float32, "logit"),
        ((1, 1, 1, 1, 1), torch.float32, "logit"),
    ],
)
def test_outputs_and_gradients_equal_the_reference(shape, dtype, estimator) -> None:
    n, m, heads, _, dv = shape
    graph, tensors = hand_made_graph(n, m, heads), inputs(*shape, dtype)
    bias = torch.randn(graph.num_edges, dtype=dtype).to(DEVICE).requires_grad_()
    # A large gradient makes the mask estimator's clipping bite.
    grad = 5 * torch.randn(n, heads, dv, dtype=dtype).to(DEVICE)
    results = {}
    for backend in ("pyg", "fused"):
        sbm = model(n, m, heads, dtype)
        out = edge_attention(
            *tensors, graph, sbm, estimator, scale=0.37, backend=backend, bias=bias
        )
        wanted = [*tensors, bias, sbm.query_membership, sbm.key_membership, sbm.affinity]
        results[backend] = [out, *torch.autograd.grad(out, wanted, grad)]
    for mine, expected in zip(results["fused"], results["pyg"], strict=True):
        assert mine.dtype == expected.dtype
        close(mine, expected, 5 * TOLERANCE[dtype])


@kernel_test
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_inputs_are_summed_in_float32(dtype: torch.dtype) -> None:
    graph, tensors = hand_made_graph(3, 20, 2), inputs(3, 20, 2, 8, 8, dtype)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    out = edge_attention(*tensors, graph, backend="fused")
    expected = edge_attention(*exact, graph, backend="pyg")
    assert out.dtype == dtype
    close(out, expected, TOLERANCE[dtype])
    weight = torch.randn(out.shape).to(DEVICE)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, truth in zip(tensors, exact, strict=True):
        assert mine.grad.dtype == dtype
        close(mine.grad, truth.grad, TOLERANCE[dtype])


@kernel_test
def test_every_entry_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised memory is NaN here."""

    def poisoned(make):
        def empty(*args, **kwargs):
            out = make(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return empty

    graph, (query, key, value) = hand_made_graph(4, 9, 2), inputs(4, 9, 2, 5, 3, torch.float32)
    rate, member = torch.rand(8, 3).to(DEVICE), torch.rand(18, 3).to(DEVICE)
    flat = [x.detach().flatten(0, 1) for x in (query, key, value)]
    csr, csc = (graph.rowptr, graph.col, 2), graph.csc()
    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    out, lse = gpu.attention_forward(*flat, *csr, None, 0.4, 0.0, 0)
    grads = gpu.attention_backward(
        torch.ones_like(out), *flat, out, lse, *csr, *csc, None, 0.4, 0.0, 0, "logit", (True,) * 5
    )
    prob = gpu.edge_prob_forward(rate, member, *csr)
    more = gpu.edge_prob_backward(prob, rate, member, *csr, *csc, (True, True))
    for result in (out, *grads, prob, *more):
        assert bool(torch.isfinite(result).all())
    empty = graph.rowptr.diff() == 0
    assert bool(torch.isneginf(lse[empty]).all())
    assert not out[empty].any()


@kernel_test
def test_only_what_is_needed_is_computed() -> None:
    graph, (query, key, value) = hand_made_graph(3, 4, 1), inputs(3, 4, 1, 2, 2, torch.float32)
    flat = [x.detach().flatten(0, 1) for x in (query, key, value)]
    out, lse = gpu.attention_forward(*flat, graph.rowptr, graph.col, 1, None, 1.0, 0.0, 0)
    args = (*flat, out, lse, graph.rowptr, graph.col, 1, *graph.csc(), None, 1.0, 0.0, 0, "mask")
    everything = gpu.attention_backward(out, *args, (True,) * 5)
    for wanted in range(5):
        needs = tuple(i == wanted for i in range(5))
        some = gpu.attention_backward(out, *args, needs)
        assert [grad is not None for grad in some] == list(needs)
        assert torch.equal(some[wanted], everything[wanted])


def dropout_factor(graph: SampledGraph, query: Tensor, key: Tensor, rate: float, seed: int):
    """What dropout multiplies each weight by, [n, m]: values that name their key show the weights.
    Entries off the graph are NaN."""
    value = torch.eye(graph.num_keys, dtype=query.dtype, device=DEVICE)
    args = (query, key, value, graph.rowptr, graph.col, 1, None, 0.5)
    dropped, _ = gpu.attention_forward(*args, rate, seed)
    exact, _ = gpu.attention_forward(*args, 0.0, seed)
    return dropped / exact


@kernel_test
@pytest.mark.parametrize("seed", [3, 2**40 + 3])
def test_dropout_drops_its_share(seed: int) -> None:
    """The number of dropped edges of a right kernel leaves its bounds with a chance below 1e-6."""
    rate, graph = 0.3, hand_made_graph(3, 400, 1)
    query, key, _ = (x.detach().flatten(0, 1) for x in inputs(3, 400, 1, 4, 4, torch.float64))
    factor = dropout_factor(graph, query, key, rate, seed)
    factor = factor[~factor.isnan()]
    assert factor.numel() == graph.num_edges
    kept = factor[factor > 0]
    close(kept, torch.full_like(kept, 1 / (1 - rate)), 1e-9)
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], graph.num_edges, 1 - rate)
    assert low <= kept.numel() <= high


@kernel_test
def test_dropout_is_the_same_in_both_passes() -> None:
    n, m, rate, seed = 3, 40, 0.3, 2**35 + 1
    graph, tensors = hand_made_graph(n, m, 1), inputs(n, m, 1, 4, 6, torch.float64)
    flat = [x.detach().flatten(0, 1) for x in tensors]
    factor = dropout_factor(graph, flat[0], flat[1], rate, seed)
    mask = ~factor.isnan()
    leaves = [x.clone().requires_grad_() for x in flat]
    score = (leaves[0] @ leaves[1].T * 0.5).masked_fill(~mask, float("-inf"))
    alpha = score.softmax(-1).nan_to_num(0.0)
    expected = (alpha * factor.nan_to_num(0.0)) @ leaves[2]
    csr = (graph.rowptr, graph.col, 1)
    out, lse = gpu.attention_forward(*flat, *csr, None, 0.5, rate, seed)
    close(out, expected.detach(), 1e-10)
    grad = torch.randn(n, 6, dtype=torch.float64).to(DEVICE)
    needs = (True, True, True, False, False)
    found = gpu.attention_backward(
        grad, *flat, out, lse, *csr, *graph.csc(), None, 0.5, rate, seed, "", needs
    )
    for mine, truth in zip(found, torch.autograd.grad(expected, leaves, grad), strict=False):
        close(mine, truth, 1e-10)


@kernel_test
def test_dropout_depends_on_the_seed_alone() -> None:
    graph, (query, key, value) = hand_made_graph(2, 50, 1), inputs(2, 50, 1, 4, 4, torch.float32)
    flat = [x.detach().flatten(0, 1) for x in (query, key, value)]

    def run(seed: int) -> Tensor:
        return gpu.attention_forward(*flat, graph.rowptr, graph.col, 1, None, 1.0, 0.5, seed)[0]

    assert torch.equal(run(5), run(5))
    assert not torch.equal(run(5), run(6))
    assert not torch.equal(run(5), run(5 + 2**32))


@kernel_test
@pytest.mark.parametrize("clusters", [1, 3, 70])
def test_edge_probabilities_equal_the_dense_product(clusters: int) -> None:
    n, m, heads = 3, 40, 2
    graph = hand_made_graph(n, m, heads)
    rate, member = (
        torch.rand(size, heads, clusters, dtype=torch.float64).to(DEVICE).requires_grad_()
        for size in (n, m)
    )
    key, query = graph.edge_index
    expected = torch.einsum("nhk,mhk->nhm", rate, member)[query, graph.head, key]
    args = (rate.detach().flatten(0, 1), member.detach().flatten(0, 1))
    csr = (graph.rowptr, graph.col, heads)
    close(gpu.edge_prob_forward(*args, *csr), expected.detach(), 1e-12)
    grad = torch.randn(expected.shape, dtype=torch.float64).to(DEVICE)
    truth = torch.autograd.grad(expected, (rate, member), grad)
    found = gpu.edge_prob_backward(grad, *args, *csr, *graph.csc(), (True, True))
    for mine, theirs in zip(found, truth, strict=True):
        close(mine, theirs.flatten(0, 1), 1e-12)
    assert gpu.edge_prob_backward(grad, *args, *csr, *graph.csc(), (False, False)) == (None, None)


@kernel_test
@pytest.mark.parametrize("shape", [(6, 9, 2), (1, 30, 1), (40, 3, 3)])
def test_transpose_groups_edges_by_key_in_order(shape: tuple[int, int, int]) -> None:
    n, m, heads = shape
    graph = hand_made_graph(n, m, heads)
    colptr, row, perm = gpu.transpose(graph.rowptr, graph.col, heads, m)
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
    tensors, sbm = inputs(n, m, 2, 4, 3, torch.float32), model(n, m, 2, torch.float32)
    out = edge_attention(*tensors, graph, sbm, backend="fused")
    assert out.shape == (n, 2, 3)
    assert not out.any()
    out.sum().backward()
    for x in (*tensors, sbm.query_membership, sbm.key_membership):
        assert not x.grad.any()


if not INTERPRETED:

    def test_in_tritons_interpreter() -> None:
        run_interpreted(__file__)

    @pytest.mark.slow
    @pytest.mark.parametrize("channels", [32, 64, 128])
    def test_kernels_compile_for_an_h100(channels: int) -> None:
        """Rows are read 16 bytes at a time, and without bias or dropout nothing else is compiled
        in."""
        meta = gpu._meta(channels, channels, torch.float32)
        warps = meta.pop("num_warps")
        floats = "query key value out lse grad delta dquery dkey dvalue dgate rate member weight"
        types = dict.fromkeys([*floats.split(), "dense"], "*fp32")
        types |= dict.fromkeys(["rowptr", "colptr", "perm", "ptr"], "*i64")
        types |= dict.fromkeys(["col", "row", "index"], "*i32")
        types |= dict.fromkeys(["heads", "d", "dv", "clusters"], "i32")
        types |= {"scale": "fp32", "seed": "i64"}
        constants = {**meta, "DROPOUT": 0.0, "LOGIT": True}
        for kernel in (gpu._forward_kernel, gpu._backward_query_kernel, gpu._backward_key_kernel):
            code = compile_for_hopper(kernel, types, constants, warps)
            assert "ld.global.v4" in code
        constants = gpu._cluster_meta(channels, torch.float32)
        warps = constants.pop("num_warps")
        for kernel in (gpu._edge_prob_kernel, gpu._spmm_kernel):
            assert "ld.global.v4" in compile_for_hopper(kernel, types, constants, warps)
