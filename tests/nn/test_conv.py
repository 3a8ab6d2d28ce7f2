"""SBMConv: sizes, batches, expectation, state, bad input."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from sbmgraph import record
from sbmgraph.nn import SBMConv
from tests.dense import DenseAttention, dense_mask

N, C = 11, 8
BATCH = torch.tensor([0] * 4 + [1] * 1 + [2] * 6)


def features(n: int = N, channels: int = C, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, channels, generator=torch.Generator().manual_seed(seed))


def conv(**kwargs) -> SBMConv:
    torch.manual_seed(0)
    return SBMConv(C, 4, **({"heads": 2, "num_clusters": 5} | kwargs))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("concat", "size"), [(True, 8), (False, 4)])
def test_sizes_and_name(concat: bool, size: int) -> None:
    layer = conv(concat=concat)
    assert str(layer) == "SBMConv(8, 4, heads=2)"
    assert layer(features()).shape == (N, size)
    assert layer(features(), BATCH).shape == (N, size)
    bipartite = SBMConv((C, 3), 4, heads=2, num_clusters=5, concat=concat)
    assert str(bipartite) == "SBMConv((8, 3), 4, heads=2)"
    assert bipartite((features(), features(5, 3))).shape == (5, size)


@pytest.mark.parametrize("backend", ["pyg", "fused"])
@pytest.mark.parametrize("bipartite", [False, True])
def test_equals_dense_attention_over_its_sampled_graph(backend: str, bipartite: bool) -> None:
    layer = conv(backend=backend).double()
    x_src = features().double()
    x_dst = features(5, seed=1).double() if bipartite else x_src
    x = (x_src, x_dst) if bipartite else x_src
    with record(layer) as runs:
        out = layer(x)
    query, key, value = (
        lin(y).view(-1, 2, 4)
        for lin, y in (
            (layer.lin_query, x_dst),
            (layer.lin_key, x_src),
            (layer.lin_value, x_src),
        )
    )
    truth = DenseAttention(dense_mask(runs[0].graph), 0.5, "logit")
    expected = truth.forward(query, key, value)[0].flatten(1)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)


def test_membership_is_the_papers() -> None:
    layer = conv()
    x = features()
    with record(layer) as runs:
        layer(x)
    sbm, net = runs[0].sbm, layer.membership
    query = layer.lin_query(x).view(N, 2, 4)
    for h in range(2):
        hidden = net.phi[2](torch.relu(net.phi[0](query[:, h])))
        expected = torch.sigmoid(hidden @ net.clusters[h].T)
        torch.testing.assert_close(sbm.query_membership[:, h], expected)
        affinity = (net.clusters[h] @ net.clusters[h].T).flatten().softmax(0).view(5, 5)
        torch.testing.assert_close(sbm.affinity[h], affinity)


def test_a_graph_does_not_depend_on_its_batch_mates() -> None:
    """Given its sampled edges, a graph's output is the same alone and in a batch; and it is
    sampled from the same probabilities."""
    layer = conv().double()
    x = features().double()
    with record(layer) as runs:
        together = layer(x, BATCH)
    own = BATCH == 2
    with record(layer) as alone:
        layer(x[own])
    torch.testing.assert_close(
        runs[0].sbm.query_membership[own], alone[0].sbm.query_membership, rtol=1e-12, atol=0
    )
    mask = dense_mask(runs[0].graph)
    assert not mask[own][:, :, ~own].any()
    assert not mask[~own][:, :, own].any()
    qkv = (lin(x[own]).view(-1, 2, 4) for lin in (layer.lin_query, layer.lin_key, layer.lin_value))
    expected = DenseAttention(mask[own][:, :, own], 0.5, "logit").forward(*qkv)[0].flatten(1)
    torch.testing.assert_close(together[own], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("clusters", [1, 4])
def test_small_graphs_are_finite(n: int, clusters: int) -> None:
    layer = conv(num_clusters=clusters, heads=1, exploration=0.0, init_density=1e-4)
    x = features(n).requires_grad_()
    out = layer(x, torch.zeros(n, dtype=torch.int64))
    assert out.shape == (n, 4)
    out.sum().backward()
    assert bool(torch.isfinite(x.grad).all())
    for name, parameter in layer.named_parameters():
        if parameter.grad is not None:
            assert bool(torch.isfinite(parameter.grad).all()), name


def test_gradients_reach_every_parameter() -> None:
    layer = conv(init_density=0.5)
    layer(features(), BATCH).pow(2).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
    assert layer.membership.clusters.grad.abs().sum() > 0


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
def test_init_density(density: float) -> None:
    """Over the random initialisation of 20 layers the mean is within 25 % of the target (odds
    above a half)."""
    found = []
    for seed in range(20):
        torch.manual_seed(seed)
        layer = SBMConv(32, 32, heads=2, num_clusters=32, init_density=density)
        with record(layer) as runs:
            layer(features(64, 32, seed))
        found.append(runs.expected_density())
    mean = torch.stack(found).mean().item()
    odds = (mean / (1 - mean)) / (density / (1 - density))
    assert 0.75 < odds < 1.33


def test_default_density_is_the_papers_quarter() -> None:
    layer = conv(num_clusters=64)
    with record(layer) as runs:
        layer(features(64))
    assert 0.2 < runs.expected_density().item() < 0.3


def test_max_density_bounds_the_expected_density() -> None:
    layer = conv(max_density=0.05)
    with record(layer) as runs:
        layer(features(200))
    run = runs[0]
    assert float(run.sbm.expected_density(run.exploration).max()) <= 0.05 * (1 + 1e-5)
    expected = float(run.sbm.expected_edges(run.exploration).sum())
    assert abs(run.graph.num_edges - expected) < 6 * expected**0.5


def test_exploration_only_in_training() -> None:
    layer = conv(init_density=1e-8, exploration=0.5)
    x = features(50)
    with record(layer) as runs:
        layer(x)
        layer.eval()
        layer(x)
    assert 0.4 < float(runs[0].graph.density().mean()) < 0.6
    assert float(runs[1].graph.density().mean()) < 0.01


def test_num_samples_averages_outputs_in_evaluation() -> None:
    layer = conv(num_samples=4)
    x = features()
    layer.train()
    with record(layer) as runs:
        layer(x)
    assert len(runs) == 1
    layer.eval()
    out = layer(x, generator=seeded())
    layer.num_samples = 1
    generator = seeded()
    each = torch.stack([layer(x, generator=generator) for _ in range(4)])
    torch.testing.assert_close(out, each.mean(0))


def test_a_generator_repeats_the_answer() -> None:
    layer, x = conv().eval(), features()
    before = torch.get_rng_state()
    assert torch.equal(layer(x, generator=seeded(1)), layer(x, generator=seeded(1)))
    assert not torch.equal(layer(x, generator=seeded(1)), layer(x, generator=seeded(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_return_attention_weights() -> None:
    layer, x = conv().eval(), features()
    with record(layer) as runs:
        out, (edge_index, alpha) = layer(x, BATCH, return_attention_weights=True)
    mask = dense_mask(runs[0].graph)
    assert alpha.shape == (edge_index.size(1), 2)
    union = mask.any(dim=1)
    assert torch.equal(union.nonzero().T.flip(0), edge_index)
    dense = torch.zeros(N, 2, N)
    dense[edge_index[1], :, edge_index[0]] = alpha.detach()
    assert torch.equal(dense > 0, mask)
    torch.testing.assert_close(dense.sum(-1), mask.any(-1).float())
    value = layer.lin_value(x).view(N, 2, 4)
    torch.testing.assert_close(torch.einsum("nhm,mhd->nhd", dense, value).flatten(1), out)


def test_state_dict_deepcopy_and_pickle() -> None:
    layer, x = conv().eval(), features()
    expected = layer(x, generator=seeded())
    other = conv()
    other.reset_parameters()
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer))
    for twin in (other.eval(), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x, generator=seeded()), expected)


def test_reset_parameters_draws_everything_anew() -> None:
    layer = conv()
    before = {name: p.clone() for name, p in layer.named_parameters()}
    torch.manual_seed(1)
    layer.reset_parameters()
    for name, parameter in layer.named_parameters():
        constant = name.startswith("lin_") and name.endswith("bias")
        assert constant or not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_to_dtype(dtype: torch.dtype) -> None:
    layer = conv().to(dtype)
    out = layer(features().to(dtype), BATCH)
    assert out.dtype == dtype
    out.sum().backward()
    assert bool(torch.isfinite(out).all())


def test_autocast_keeps_the_probabilities_in_float32() -> None:
    layer = conv()
    with torch.autocast("cpu", torch.bfloat16), record(layer) as runs:
        out = layer(features(), BATCH)
        assert runs[0].sbm.rate.dtype == torch.float32
        assert runs.expected_density().dtype == torch.float32
    assert out.dtype == torch.bfloat16
    assert runs[0].sbm.query_membership.dtype == torch.float32
    out.sum().backward()


def test_law_algorithm_and_estimator_reach_the_operators() -> None:
    for law in ("bernoulli", "poisson"):
        for algorithm in ("fastrg", "dense"):
            for estimator in ("logit", "mask"):
                layer = conv(law=law, algorithm=algorithm, estimator=estimator)
                layer(features(), BATCH).sum().backward()
    sure = conv(law="poisson", init_density=0.999, exploration=0.0)
    with record(sure) as runs:
        sure(features(200))
    assert abs(float(runs[0].graph.density().mean()) - 0.632) < 0.02


X = features()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda f: f(X[0]), "'x' must have shape"),
        (lambda f: f(X[:, :3]), "'x' must have 8 channels, got 3"),
        (lambda f: f(X.long()), "'x' must be a floating-point"),
        (lambda f: f([1.0]), "'x' must be a tensor"),
        (lambda f: f(X / 0), "'x' must be finite"),
        (lambda f: f(X, BATCH.flip(0)), "'batch' must be sorted"),
        (lambda f: f(X, BATCH[1:]), "'batch' must hold one graph number"),
        (lambda f: f(X, BATCH.float()), "'batch' must be an int64 vector"),
        (lambda f: f((X, X[:5]), BATCH), "'batch' must"),
        (lambda f: f(X, pe=X), "'pe' must be None"),
    ],
)
def test_bad_input(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(conv())


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"heads": 0}, "'heads' must be an integer >= 1"),
        ({"num_clusters": 0}, "'num_clusters' must be"),
        ({"dropout": 1.0}, "'dropout' must be a number"),
        ({"law": "gauss"}, "'law' must be one of"),
        ({"algorithm": "fast"}, "'algorithm' must be one of"),
        ({"backend": "cuda"}, "'backend' must be one of"),
        ({"estimator": "gumbel"}, "'estimator' must be one of"),
        ({"exploration": 2.0}, "'exploration' must be a number"),
        ({"init_density": 0.0}, "'init_density' must be a number"),
        ({"max_density": 0.0}, "'max_density' must be a number"),
        ({"max_density": 1.5}, "'max_density' must be a number"),
        ({"max_density": 0.005}, "'max_density' must be above 'exploration'"),
        ({"num_samples": 0}, "'num_samples' must be"),
    ],
)
def test_bad_arguments(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        conv(**kwargs)


def test_weights_belong_to_one_sample() -> None:
    with pytest.raises(ValueError, match="'num_samples' = 1"):
        conv(num_samples=2).eval()(X, return_attention_weights=True)


def test_positional_encodings_move_memberships() -> None:
    layer = conv(pe_channels=3)
    pe = features(N, 3, seed=5)
    with record(layer) as runs:
        layer(X, BATCH, pe=pe)
        layer(X, BATCH, pe=2 * pe)
    first, second = (run.sbm.query_membership for run in runs)
    assert not torch.allclose(first, second)
    with pytest.raises(ValueError, match="'pe' must be a tensor"):
        layer(X)
    with pytest.raises(ValueError, match="'pe' must have shape"):
        layer(X, pe=pe[:-1])
