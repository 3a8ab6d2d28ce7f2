"""SBMHeads: sampling and attention on ready queries, keys and values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sbmgraph import SampledGraph, record, sample
from sbmgraph.nn import SBMConv, SBMHeads
from tests.dense import DenseAttention, dense_mask

N, M, H, D, DV = 9, 7, 3, 4, 5
QUERY_BATCH = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 3])
KEY_BATCH = torch.tensor([0, 0, 1, 1, 1, 1, 2])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def qkv(n: int = N, m: int = M) -> list[torch.Tensor]:
    shapes = ((n, H, D), (m, H, D), (m, H, DV))
    generator = seeded(1)
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes
    ]


def heads(**kwargs) -> SBMHeads:
    torch.manual_seed(0)
    return SBMHeads(D, H, num_clusters=4, **kwargs).double()


@pytest.mark.parametrize("estimator", ["logit", "mask"])
@pytest.mark.parametrize("backend", ["pyg", "auto"])
def test_equals_dense_attention_on_its_own_sample(estimator: str, backend: str) -> None:
    layer = heads(estimator=estimator, backend=backend)
    query, key, value = qkv()
    with record(layer) as runs:
        out = layer(query, key, value, (KEY_BATCH, QUERY_BATCH), scale=0.3, generator=seeded())
    run = runs[0]
    again = sample(run.sbm, exploration=0.01, generator=seeded())
    assert torch.equal(run.graph.col, again.col)
    truth = DenseAttention(dense_mask(run.graph), 0.3, estimator)
    torch.testing.assert_close(out, truth.forward(query, key, value)[0], rtol=0, atol=1e-12)
    grad = torch.randn(out.shape, generator=seeded(2), dtype=out.dtype)
    factors = [run.sbm.query_membership, run.sbm.key_membership, run.sbm.affinity]
    found = torch.autograd.grad(out, factors, grad)
    expected = truth.gradients(query, key, value, run.sbm, grad)
    names = ("query_membership", "key_membership", "affinity")
    for name, gradient in zip(names, found, strict=True):
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10)


def test_is_what_a_conv_runs() -> None:
    torch.manual_seed(0)
    conv = SBMConv(6, D, heads=H, num_clusters=4)
    x = torch.randn(N, 6)
    query, key, value = (
        lin(x).view(-1, H, D) for lin in (conv.lin_query, conv.lin_key, conv.lin_value)
    )
    own = conv.attention(query, key, value, QUERY_BATCH, generator=seeded())
    assert torch.equal(conv(x, QUERY_BATCH, generator=seeded()), own.flatten(1))


def full_attention(query, key, value, query_batch, key_batch, bias=0.0, scale=None):
    """Softmax over all keys of the same graph, spelled out."""
    scale = query.size(-1) ** -0.5 if scale is None else scale
    score = torch.einsum("nhd,mhd->nhm", query, key) * scale + bias
    same = query_batch[:, None, None] == key_batch
    weight = score.masked_fill(~same, float("-inf")).softmax(-1).nan_to_num(0.0)
    return torch.einsum("nhm,mhd->nhd", weight, value)


def test_dense_is_full_attention_of_each_graph() -> None:
    """Ragged bipartite graphs; one has no keys (zeros), one no queries."""
    layer = heads(init_density=1)
    query, key, value = qkv()
    out = layer(query, key, value, (KEY_BATCH, QUERY_BATCH), scale=0.3)
    truth = full_attention(query, key, value, QUERY_BATCH, KEY_BATCH, scale=0.3)
    torch.testing.assert_close(out, truth, rtol=0, atol=1e-12)
    assert not out[-1].any()
    found = torch.autograd.grad(out.square().sum(), (query, key, value))
    expected = torch.autograd.grad(truth.square().sum(), (query, key, value))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [[5, 5, 5], [1, 130, 7], [4]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dense_self_attention_is_sdpa(lengths: list[int], dtype: torch.dtype) -> None:
    layer = heads(init_density=1.0).to(dtype)
    total = sum(lengths)
    query, key, value = (x.detach().to(dtype) for x in qkv(total, total))
    batch = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    out = layer(query, key, value, batch)
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        alone = F.scaled_dot_product_attention(
            *(x[None, part].transpose(1, 2) for x in (query, key, value))
        )
        torch.testing.assert_close(out[part], alone[0].transpose(0, 1), rtol=0, atol=1e-6)
        start += length


@pytest.mark.parametrize("local_heads", [0, 1])
def test_dense_with_given_edges(local_heads: int) -> None:
    """A bias on given edges; local heads keep to them."""
    layer = heads(init_density=1, local_heads=local_heads)
    query, key, value = qkv()
    edges = torch.tensor([[0, 3, 4, 5], [1, 3, 3, 6]])
    given = SampledGraph.from_edge_index(edges, N, M, query_batch=QUERY_BATCH, key_batch=KEY_BATCH)
    bias = torch.randn(4, H, generator=seeded(), dtype=torch.float64)
    out = layer(query, key, value, (KEY_BATCH, QUERY_BATCH), given=given, bias=bias)
    dense_bias = torch.zeros(N, H, M, dtype=torch.float64)
    for (source, target), row in zip(given.edge_index.T.tolist(), bias, strict=True):
        dense_bias[target, :, source] = row
    if local_heads:
        kept = torch.zeros(N, M, dtype=torch.bool)
        kept[edges[1], edges[0]] = True
        dense_bias[:, 0] = dense_bias[:, 0].masked_fill(~kept, float("-inf"))
    truth = full_attention(query, key, value, QUERY_BATCH, KEY_BATCH, dense_bias)
    torch.testing.assert_close(out, truth, rtol=0, atol=1e-12)


def test_dense_heads_are_recorded_as_certain() -> None:
    layer = heads(init_density=1)
    query, key, value = qkv()
    batch = (KEY_BATCH, QUERY_BATCH)
    with record(layer) as runs, record(layer, weights=True) as weighed:
        out = layer(query, key, value, batch)
    assert torch.equal(out, layer(query, key, value, batch)) or torch.allclose(
        out, layer(query, key, value, batch), rtol=0, atol=1e-12
    )
    pairs = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.equal(runs[0].graph.density(), pairs.unsqueeze(1).expand(4, H))
    assert torch.equal(runs[0].sbm.expected_density(), pairs.unsqueeze(1).expand(4, H))
    assert len(weighed) == 1
    total = torch.zeros(N * H, dtype=torch.float64)
    total = total.index_add(0, weighed[0].graph.row, weighed[0].weights.detach())
    torch.testing.assert_close(total[: 8 * H], torch.ones(8 * H, dtype=torch.float64))


def test_dense_is_a_choice() -> None:
    layer = heads(init_density=1)
    query, key, value = (x.detach() for x in qkv(40, 40))
    with pytest.raises(ValueError, match="'density' must say where"):
        layer.set_dense(False)
    layer.set_dense(False, 0.1)
    with record(layer) as runs:
        layer(query, key, value)
    assert 0.03 < runs.expected_density().item() < 0.3
    layer.set_dense(True)
    assert torch.equal(layer(query, key, value), layer(query, key, value))
    layer.set_dense(False)
    assert not layer.dense
    bounded = heads(max_density=0.5)
    with pytest.raises(ValueError, match="'max_density' must be 1 or None for dense heads"):
        bounded.set_dense()
    with pytest.raises(ValueError, match="'max_density' must be 1 or None for dense heads"):
        heads(init_density=1, max_density=0.5)


def test_dropout_of_a_call_is_active_in_training_only() -> None:
    layer = heads(init_density=0.9)
    query, key, value = (x.detach() for x in qkv(40, 40))
    plain = layer(query, key, value, generator=seeded(), dropout=0.0)
    assert not torch.allclose(layer(query, key, value, generator=seeded(), dropout=0.9), plain)
    layer.eval()
    first, second = (layer(query, key, value, generator=seeded(), dropout=p) for p in (0.0, 0.9))
    assert torch.equal(first, second)


def test_batch_size_counts_graphs_without_nodes() -> None:
    layer = heads()
    query, key, value = qkv()
    with record(layer) as runs:
        layer(query, key, value, (KEY_BATCH, QUERY_BATCH), batch_size=6)
    assert runs[0].sbm.expected_density().shape == (6, H)
    assert runs[0].graph.density().shape == (6, H)
    with pytest.raises(ValueError, match="'batch' must hold graph numbers below 'batch_size' = 2"):
        layer(query, key, value, (KEY_BATCH, QUERY_BATCH), batch_size=2)
    with pytest.raises(ValueError, match="'batch_size' must be 1 as 'batch' is None, got 2"):
        layer(query, key, value, batch_size=2)


@pytest.mark.parametrize("options", [{"init_density": 0.95}, {"init_density": 1}])
def test_attention_weights_sum_to_one(options: dict) -> None:
    layer = heads(**options)
    query, key, value = (x.detach() for x in qkv(30, 30))
    _, (edge_index, alpha) = layer(
        query, key, value, generator=seeded(), return_attention_weights=True
    )
    total = torch.zeros(30, H, dtype=torch.float64).index_add(0, edge_index[1], alpha)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_exploration_in_evaluation_is_an_option() -> None:
    query, key, value = (x.detach() for x in qkv())
    for explore, expected in ((False, 0.0), (True, 0.25)):
        layer = heads(exploration=0.25, explore_in_evaluation=explore).eval()
        with record(layer) as runs:
            layer(query, key, value)
        assert runs[0].exploration == expected


def test_empty_inputs() -> None:
    for options in ({}, {"init_density": 1}):
        layer = heads(**options)
        for n, m in ((0, 0), (0, 3), (3, 0)):
            query, key, value = qkv(n, m)
            batch = (torch.zeros(m, dtype=torch.int64), torch.zeros(n, dtype=torch.int64))
            out = layer(query, key, value, batch)
            assert out.shape == (n, H, DV)
            assert not out.any()
            out.sum().backward()


def bad_inputs():
    query, key, value = (x.detach() for x in qkv())
    good = (query, key, value)
    yield (*good[:2], value[:3]), {}, r"'value' must have a row for each of 7 keys"
    yield (query[:, :2], key, value), {}, r"'query' must have shape \[nodes, 3, 4\]"
    yield (query, key[..., :2], value), {}, r"'key' must have shape \[nodes, 3, 4\]"
    yield (query.float(), key, value), {}, "must have the same dtype"
    yield tuple(x.float() for x in good), {}, "'query' must have the layer's dtype torch.float64"
    yield (query[0], key, value), {}, "'query' must have shape"
    yield ("q", key, value), {}, "'query' must be a tensor"
    yield good, {"scale": float("nan")}, "'scale' must be a number"
    yield good, {"dropout": 1.0}, "'dropout' must be a number"
    yield good, {"batch": QUERY_BATCH}, "'batch' must be a tuple of source and target"
    yield good, {"bias": value[:, :, 0]}, "'bias' must come with 'given'"
    yield good, {"given": "edges"}, "'given' must be a SampledGraph"
    yield good, {"generator": 3}, "'generator' must be a torch.Generator"
    yield good, {"pe": value}, "'pe' must be None as 'pe_channels' is 0"
    yield (query * float("nan"), key, value), {}, "must be finite"


@pytest.mark.parametrize("case", range(len(list(bad_inputs()))))
def test_bad_inputs(case: int) -> None:
    inputs, kwargs, message = list(bad_inputs())[case]
    with pytest.raises(ValueError, match=message):
        heads()(*inputs, **kwargs)
