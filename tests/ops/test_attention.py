"""Edge attention against dense masked softmax and torch's own attention, float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sbmgraph import SBM, SampledGraph, sample
from sbmgraph.ops import edge_attention, edge_prob
from tests.dense import DenseAttention, dense_mask, random_sbm

BACKENDS = ["reference", "fused"]
N, M, H, D, DV = 7, 9, 2, 5, 3


def qkv(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((N, H, D), (M, H, D), (M, H, DV))
    return tuple(torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes)


def problem(seed: int = 0) -> tuple[SBM, SampledGraph]:
    sbm = random_sbm(N, M, H, seed=seed)
    return sbm, sample(sbm, exploration=0.2, generator=torch.Generator().manual_seed(seed))


def require_grad(sbm: SBM) -> SBM:
    return SBM(
        sbm.query_membership.clone().requires_grad_(),
        sbm.key_membership.clone().requires_grad_(),
        sbm.affinity.clone().requires_grad_(),
        sbm.query_batch,
        sbm.key_batch,
    )


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_complete_graph_equals_scaled_dot_product_attention(backend: str) -> None:
    query, key, value = (x.requires_grad_() for x in qkv())
    pairs = torch.cartesian_prod(torch.arange(M), torch.arange(N)).T
    graph = SampledGraph.from_edge_index(pairs, N, M, heads=H)
    out = edge_attention(query, key, value, graph, backend=backend)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1) for x in (query, key, value))
    ).transpose(0, 1)
    close(out, expected)
    weight = torch.randn_like(out)
    ours = torch.autograd.grad(out, (query, key, value), weight)
    theirs = torch.autograd.grad(expected, (query, key, value), weight)
    for mine, reference in zip(ours, theirs, strict=True):
        close(mine, reference)


@pytest.mark.parametrize("estimator", ["logit", "mask"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(3))
def test_sampled_graph_equals_dense_masked_softmax(backend: str, estimator: str, seed: int) -> None:
    sbm, graph = problem(seed)
    sbm = require_grad(sbm)
    query, key, value = (x.requires_grad_() for x in qkv(seed))
    truth = DenseAttention(dense_mask(graph), D**-0.5, estimator)
    # A large gradient makes the mask estimator's clipping bite.
    grad = 5 * torch.randn(N, H, DV, dtype=torch.float64)
    out = edge_attention(query, key, value, graph, sbm, estimator, backend=backend)
    close(out, truth.forward(query, key, value)[0])
    out.backward(grad)
    expected = truth.gradients(query, key, value, sbm, grad)
    close(query.grad, expected["query"])
    close(key.grad, expected["key"])
    close(value.grad, expected["value"])
    close(sbm.query_membership.grad, expected["query_membership"])
    close(sbm.key_membership.grad, expected["key_membership"])
    close(sbm.affinity.grad, expected["affinity"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_bias_and_its_gradient(backend: str) -> None:
    _, graph = problem()
    query, key, value = qkv()
    bias = torch.randn(graph.num_edges, dtype=torch.float64, requires_grad=True)
    mask = dense_mask(graph)
    dense_bias = torch.zeros(mask.shape, dtype=torch.float64)
    edge_key, edge_query = graph.edge_index
    dense_bias[edge_query, graph.head, edge_key] = bias.detach()
    dense_bias.requires_grad_()
    grad = torch.randn(N, H, DV, dtype=torch.float64)
    out = edge_attention(query, key, value, graph, bias=bias, backend=backend)
    expected = DenseAttention(mask, D**-0.5, "logit", dense_bias).forward(query, key, value)[0]
    close(out, expected)
    out.backward(grad)
    expected.backward(grad)
    close(bias.grad, dense_bias.grad[edge_query, graph.head, edge_key])


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend: str) -> None:
    _, graph = problem()
    inputs = tuple(x.requires_grad_() for x in qkv())
    assert torch.autograd.gradcheck(
        lambda q, k, v: edge_attention(q, k, v, graph, backend=backend), inputs
    )


def test_gradcheck_of_edge_prob() -> None:
    sbm, graph = problem()

    def prob(Y: Tensor, Z: Tensor, B: Tensor) -> Tensor:
        return edge_prob(SBM.unchecked(Y, Z, B, sbm.query_batch, sbm.key_batch), graph)

    inputs = (sbm.query_membership, sbm.key_membership, sbm.affinity)
    assert torch.autograd.gradcheck(prob, tuple(x.clone().requires_grad_() for x in inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_that_were_not_sampled_pass_no_gradient(backend: str) -> None:
    sbm, graph = problem()
    sbm = require_grad(sbm)
    query, key, value = qkv()
    sampled = torch.arange(graph.num_edges) % 2 == 0
    out = edge_attention(query, key, value, graph, sbm, backend=backend, sampled=sampled)
    grad = torch.randn_like(out)
    out.backward(grad)
    mask = dense_mask(graph)
    truth = DenseAttention(mask, D**-0.5, "logit")
    _, score, alpha = truth.forward(query, key, value)
    g = torch.einsum("nhd,mhd->nhm", grad, value)
    edge = alpha * (g - (alpha * g).sum(-1, keepdim=True)) * score
    keep = torch.zeros_like(mask)
    edge_key, edge_query = graph.edge_index
    keep[edge_query, graph.head, edge_key] = sampled
    through = torch.einsum("nhm,mhk->nhk", edge * keep, sbm.key_membership.detach())
    close(sbm.affinity.grad, torch.einsum("nhk,nhl->hkl", sbm.query_membership.detach(), through))


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_sum_to_one_where_there_are_edges(backend: str) -> None:
    _, graph = problem()
    query, key, value = qkv()
    with torch.no_grad():
        _, alpha = edge_attention(query, key, value, graph, backend=backend, return_weights=True)
    truth = DenseAttention(dense_mask(graph), D**-0.5, "logit").forward(query, key, value)[2]
    edge_key, edge_query = graph.edge_index
    close(alpha, truth[edge_query, graph.head, edge_key])


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_keeps_the_expectation(backend: str) -> None:
    """Mean of 4000 draws within 6 standard errors, element by element."""
    _, graph = problem()
    query, key, value = qkv()
    exact = edge_attention(query, key, value, graph, backend=backend)
    torch.manual_seed(0)
    draws = torch.stack(
        [
            edge_attention(query, key, value, graph, dropout=0.4, training=True, backend=backend)
            for _ in range(4000)
        ]
    )
    error = draws.std(0) / 4000**0.5
    assert ((draws.mean(0) - exact).abs() <= 6 * error + 1e-12).all()
    assert draws.std(0).max() > 0
    evaluated = edge_attention(query, key, value, graph, dropout=0.4, backend=backend)
    close(evaluated, exact)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision(backend: str, dtype: torch.dtype) -> None:
    sbm, graph = problem()
    exact = qkv()
    low = [x.to(dtype).requires_grad_() for x in exact]
    out = edge_attention(*low, graph, sbm, backend=backend)
    assert out.dtype == dtype
    out.sum().backward()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    same = [x.detach().double().requires_grad_() for x in low]
    expected = edge_attention(*same, graph, backend="reference")
    expected.sum().backward()
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    for mine, truth in zip(low, same, strict=True):
        assert mine.grad.dtype == dtype
        torch.testing.assert_close(mine.grad.double(), truth.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_scores_do_not_overflow(backend: str) -> None:
    _, graph = problem()
    query, key, value = qkv()
    out = edge_attention(1e4 * query, 1e4 * key, value, graph, backend=backend)
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3), (1, 1)])
def test_empty_graphs(backend: str, shape: tuple[int, int]) -> None:
    n, m = shape
    graph = SampledGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), n, m, heads=H)
    sbm = require_grad(random_sbm(n, m, H, batch=False))
    tensors = [torch.randn(s, H, D, requires_grad=True) for s in (n, m, m)]
    out = edge_attention(*tensors, graph, sbm, backend=backend)
    assert out.shape == (n, H, D)
    assert not out.any()
    out.sum().backward()
    for x in (*tensors, sbm.query_membership, sbm.key_membership):
        assert bool(torch.isfinite(x.grad).all())


def test_bad_input() -> None:
    sbm, graph = problem()
    query, key, value = qkv()

    def fails(match: str, *args, **kwargs) -> None:
        with pytest.raises(ValueError, match=match):
            edge_attention(*args, **kwargs)

    fails("'query' must have shape", query[0], key, value, graph)
    fails("'key' must have shape", query, key[:, :1], value, graph)
    fails("'value' must have shape", query, key, value[:-1], graph)
    fails("'key' must have as many channels", query, key[..., :-1], value, graph)
    fails("'query' must be a floating-point", query.long(), key, value, graph)
    fails("same dtype", query.float(), key, value, graph)
    fails("same device", query.to("meta"), key, value, graph)
    fails("'graph' must be a SampledGraph", query, key, value, "graph")
    fails("'graph' must have", query, key, value, graph, random_sbm(N, M, 1))
    fails("'backend' must be one of", query, key, value, graph, backend="cuda")
    fails("'estimator' must be one of", query, key, value, graph, sbm, estimator="gumbel")
    fails("'dropout' must be a number", query, key, value, graph, dropout=1.0)
    fails("'bias' must hold one entry", query, key, value, graph, bias=query[0, 0])
    fails("'sampled' must be boolean", query, key, value, graph, sampled=graph.head)


def infinite(edges: int, alive: list[int]) -> Tensor:
    bias = torch.full((edges,), float("-inf"), dtype=torch.float64)
    bias[alive] = 0.0
    return bias


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keys", [63, 64, 65, 129, 200])
def test_rows_that_begin_with_masked_edges(backend: str, keys: int) -> None:
    """Any number of biases of minus infinity before the first finite one."""
    graph = SampledGraph.from_edge_index(
        torch.stack([torch.arange(keys), torch.zeros(keys).long()])
    )
    ones = torch.ones(keys, 1, 1, dtype=torch.float64)
    bias = infinite(keys, [keys - 1])
    out = edge_attention(ones[:1], ones, ones, graph, bias=bias, backend=backend)
    assert out.item() == 1


@pytest.mark.parametrize("estimator", ["logit", "mask"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_edge_masked_by_its_bias_is_as_if_it_were_not_there(
    backend: str, estimator: str
) -> None:
    """Outputs, weights and all gradients are those of the graph without the edges; a row whose
    edges all are masked gives zeros."""
    sbm, graph = problem()
    leaves = [x.requires_grad_() for x in qkv()]
    alive = torch.arange(graph.num_edges) % 3 > 0
    alive &= graph.edge_index[1] != 2
    kept = SampledGraph.from_edge_index(
        graph.edge_index[:, alive], N, M, H, graph.head[alive], sbm.query_batch, sbm.key_batch
    )
    found = []
    for edges, bias in (
        (graph, torch.zeros(graph.num_edges, dtype=torch.float64).masked_fill(~alive, -torch.inf)),
        (kept, None),
    ):
        model = require_grad(sbm)
        out, weights = edge_attention(
            *leaves, edges, model, estimator, backend=backend, bias=bias, return_weights=True
        )
        inputs = (*leaves, model.query_membership, model.key_membership, model.affinity)
        weights = weights.detach()
        assert edges is kept or not weights[~alive].any()
        weights = weights if edges is kept else weights[alive]
        found.append([out, weights, *torch.autograd.grad(out.square().sum(), inputs)])
    assert not found[0][0][2].any()
    for mine, expected in zip(*found, strict=True):
        close(mine, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_model_serves_any_number_of_passes(backend: str) -> None:
    sbm, graph = problem()
    sbm = require_grad(sbm)
    grads = []
    for _ in range(3):
        query, key, value = (x.requires_grad_() for x in qkv())
        out = edge_attention(query, key, value, graph, sbm, backend=backend)
        grads.append(torch.autograd.grad(out.square().sum(), sbm.affinity)[0])
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_made_without_gradients_is_used_with_them(backend: str) -> None:
    """Nothing that a model or a graph keeps belongs to the mode of its first reader."""
    sbm, graph = problem()
    with torch.inference_mode():
        expected = edge_attention(*qkv(), graph, sbm, backend=backend)
        graph.csc(), sbm.rate, sbm.expected_density()
    query, key, value = (x.requires_grad_() for x in qkv())
    out = edge_attention(query, key, value, graph, sbm, backend=backend)
    out.sum().backward()
    assert torch.equal(out, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_that_was_sampled_in_inference_mode_first(backend: str) -> None:
    sbm = random_sbm(N, M, H)
    with torch.inference_mode():
        sample(sbm, exploration=0.2)
    graph = sample(sbm, exploration=0.2, generator=torch.Generator().manual_seed(0))
    query, key, value = (x.requires_grad_() for x in qkv())
    edge_attention(query, key, value, graph, sbm, backend=backend).sum().backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_is_the_same_in_every_backend(backend: str) -> None:
    _, graph = problem()
    leaves = qkv()
    found = []
    for name in (backend, "reference"):
        torch.manual_seed(1)
        found.append(edge_attention(*leaves, graph, dropout=0.4, training=True, backend=name))
    close(*found)


def test_an_older_name_of_an_argument_warns() -> None:
    sbm, graph = problem()
    chosen = torch.ones(graph.num_edges, dtype=torch.bool)
    with pytest.warns(DeprecationWarning, match="'sampled'"):
        edge_attention(*qkv(), graph, sbm, learned=chosen)


def test_scale_must_be_finite() -> None:
    _, graph = problem()
    for scale in (float("nan"), float("inf"), "1"):
        with pytest.raises(ValueError, match="'scale' must be a finite number"):
            edge_attention(*qkv(), graph, scale=scale)
