"""record(): what a model sampled, without touching its forward."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from sbmgraph import record
from sbmgraph.nn import SBMConv, SBMTransformer
from sbmgraph.record import evaluating, layer_density


def model() -> SBMTransformer:
    torch.manual_seed(0)
    return SBMTransformer(10, 3, channels=8, num_clusters=4, max_length=20)


TOKENS = torch.arange(12) % 10
BATCH = torch.arange(12) // 5


def test_records_each_layer_in_order() -> None:
    net = model()
    with record(net) as runs:
        net(TOKENS, BATCH)
    assert [run.name for run in runs] == ["layers.0.attention.conv", "layers.1.attention.conv"]
    assert runs[0].layer is net.get_submodule(runs[0].name)
    assert runs[1].graph.num_queries == 12
    assert runs[0].sbm.num_graphs == 3
    assert runs[0].exploration == 0.01
    net(TOKENS, BATCH)
    assert len(runs) == 2, "nothing is recorded outside the block"
    runs.clear()
    assert len(runs) == 0


def test_output_is_the_same_with_and_without() -> None:
    net = model().eval()
    generator = torch.Generator().manual_seed(0)
    plain = net(TOKENS, BATCH, generator=generator)
    with record(net):
        recorded = net(TOKENS, BATCH, generator=generator.manual_seed(0))
    assert torch.equal(plain, recorded)


def test_exploration_is_off_in_evaluation() -> None:
    net = model().eval()
    with record(net) as runs:
        net(TOKENS, BATCH)
    assert {run.exploration for run in runs} == {0.0}


def test_expected_density_is_the_mean_and_has_a_gradient() -> None:
    net = model()
    with record(net) as runs:
        net(TOKENS, BATCH)
    density = runs.expected_density()
    expected = torch.stack([run.sbm.expected_density() for run in runs]).mean()
    torch.testing.assert_close(density, expected)
    density.backward()
    for run in runs:
        assert run.layer.membership.clusters.grad.abs().sum() > 0


def test_several_samples_are_several_runs() -> None:
    conv = SBMConv(4, 4, num_clusters=3, num_samples=3).eval()
    with record(conv) as runs:
        conv(torch.randn(6, 4))
    assert list(runs.by_layer()) == [""]
    assert len(runs.by_layer()[""]) == 3


def test_recordings_nest_and_see_their_own_model_only() -> None:
    first, second = SBMConv(4, 4, num_clusters=3), SBMConv(4, 4, num_clusters=3)
    both = nn.ModuleList([first, second])
    x = torch.randn(5, 4)
    with record(both) as outer, record(second) as inner:
        first(x)
        second(x)
    assert [run.name for run in outer] == ["0", "1"]
    assert [run.name for run in inner] == [""]


def test_an_error_ends_the_recording() -> None:
    conv = SBMConv(4, 4, num_clusters=3)
    with pytest.raises(RuntimeError, match="stop"), record(conv) as runs:
        raise RuntimeError("stop")
    conv(torch.randn(5, 4))
    assert len(runs) == 0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"'model' must be a torch.nn.Module"), record("model"):
        pass
    with record(nn.Linear(2, 2)) as runs:
        pass
    with pytest.raises(ValueError, match="needs a recorded sample"):
        runs.expected_density()


EDGES = torch.tensor([[0, 1, 7, 9], [2, 4, 6, 9]])


@pytest.mark.parametrize("options", [{}, {"edge_dim": 1, "local_heads": 1}, {"num_samples": 3}])
def test_weights_are_those_that_the_layer_returns(options: dict) -> None:
    torch.manual_seed(0)
    conv = SBMConv(4, 4, heads=2, num_clusters=3, **options).eval()
    edges = {"edge_index": EDGES, "edge_attr": torch.rand(4, 1)} if "edge_dim" in options else {}
    x, generator = torch.randn(12, 4), torch.Generator()
    wanted = "num_samples" not in options
    with record(conv, weights=True) as runs:
        out = conv(x, generator=generator.manual_seed(0), return_attention_weights=wanted, **edges)
    assert len(runs) == options.get("num_samples", 1)
    for run in runs:
        assert run.source.shape == x.shape
        assert run.weights.shape == run.graph.col.shape
        for edges_of in run.attended:
            total = torch.zeros(edges_of.graph.rowptr.numel() - 1)
            total.index_add_(0, edges_of.graph.row, edges_of.weights)
            present = edges_of.graph.rowptr.diff() > 0
            torch.testing.assert_close(total, present.float())
    if not wanted:
        return
    out, (edge_index, alpha) = out
    found = torch.zeros(12, 12, 2)
    for edges_of in runs[0].attended:
        key, query = edges_of.graph.edge_index
        found[key, query, edges_of.graph.head + edges_of.first_head] = edges_of.weights
    torch.testing.assert_close(found[edge_index[0], edge_index[1]], alpha)
    torch.testing.assert_close(found.sum(), alpha.sum())
    drawn = runs[0].attended[-1]
    given = torch.isin(
        drawn.graph.col.long() * 12 + drawn.graph.edge_index[1], EDGES[0] * 12 + EDGES[1]
    )
    assert (given | drawn.sampled).all()
    if "edge_dim" in options:
        assert not runs[0].attended[0].sampled.any()
        assert runs[0].attended[0].graph.num_edges == 4


def test_recorded_weights_carry_a_gradient_with_any_backend() -> None:
    conv = SBMConv(4, 4, heads=2, num_clusters=3, backend="auto")
    with record(conv, weights=True) as runs:
        out = conv(torch.randn(12, 4))
    assert torch.autograd.grad(out.sum(), runs[0].attended[0].weights)[0].abs().sum() > 0


def test_keep_records_what_a_function_returns_and_no_graph() -> None:
    net = model()
    torch.manual_seed(1)
    with record(net) as runs:
        net(TOKENS, BATCH)
    torch.manual_seed(1)
    with record(net, keep=layer_density) as densities:
        net(TOKENS, BATCH)
    assert list(densities.by_layer()) == list(runs.by_layer())
    for density, run in zip(densities, runs, strict=True):
        assert torch.equal(density.expected, run.sbm.expected_density())
        assert torch.equal(density.sampled, run.graph.density())
        assert density.exploration == 0.01
        assert not density.expected.requires_grad
    torch.testing.assert_close(densities.expected_density(), runs.expected_density())
    graphs = []
    with record(net, keep=lambda run: graphs.append(weakref.ref(run.graph))) as nothing:
        net(TOKENS, BATCH)
    gc.collect()
    assert list(nothing) == [None, None]
    assert [graph() for graph in graphs] == [None, None]


def test_bad_keep() -> None:
    with pytest.raises(ValueError, match="'keep' must be a function"), record(model(), keep=3):
        pass


def test_evaluating_restores_the_mode_of_every_module() -> None:
    net = model().train()
    frozen = net.layers[0].eval()
    modes = {module: module.training for module in net.modules()}
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert {module: module.training for module in net.modules()} == modes
    with pytest.raises(RuntimeError, match="stop"), evaluating(net):
        raise RuntimeError("stop")
    assert {module: module.training for module in net.modules()} == modes
    assert not frozen.training
    assert net.training
