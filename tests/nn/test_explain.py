"""Explanations: our own scores against finite differences, and PyG's explainers beside us."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.explain import (
    AttentionExplainer,
    CaptumExplainer,
    Explainer,
    ExplainerAlgorithm,
    GNNExplainer,
    PGExplainer,
)
from torch_geometric.nn import GATConv, GCNConv

from sbmgraph import record
from sbmgraph.nn import GPSBlock, SBMConv, SBMTransformer, explain

N, C, H = 9, 4, 2
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8]])
NODE_CLASSES = {
    "mode": "multiclass_classification",
    "task_level": "node",
    "return_type": "raw",
}


def features() -> Tensor:
    return torch.randn(N, C, generator=torch.Generator().manual_seed(0))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


class Net(nn.Module):
    def __init__(self, local: type[nn.Module] = GCNConv) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = GPSBlock(C, local(C, C), heads=H, attn_kwargs={"num_clusters": 3})
        self.lin = nn.Linear(C, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.lin(self.block(x, edge_index))


def dense_output(layer: SBMConv, x: Tensor, mask: Tensor, factor: Tensor) -> Tensor:
    """The layer's output [n, H * d] where edges in ``mask`` weigh ``factor`` times as much."""
    query, key, value = (
        lin(x).view(N, H, -1) for lin in (layer.lin_query, layer.lin_key, layer.lin_value)
    )
    score = torch.einsum("nhd,mhd->nhm", query, key) / query.size(-1) ** 0.5
    weight = score.exp() * mask * factor
    alpha = weight / weight.sum(-1, keepdim=True).clamp(min=1e-300)
    return torch.einsum("nhm,mhd->nhd", alpha, value).flatten(1)


@pytest.mark.parametrize("local_heads", [0, 1])
def test_edge_scores_are_the_derivative_by_log_weight(local_heads: int) -> None:
    """Against central differences of a dense float64 forward."""
    torch.manual_seed(0)
    layer = SBMConv(C, 3, heads=H, num_clusters=3, local_heads=local_heads).double()
    x = features().double()
    found = explain(
        layer, x, edge_index=EDGES, generator=seeded(), output=lambda out: out.square().sum()
    )
    (scores,) = found.layers
    key, query = scores.edge_index
    mask = torch.zeros(N, H, N, dtype=torch.bool)
    mask[query, scores.head, key] = True
    given = torch.zeros(N, N, dtype=torch.bool)
    given[EDGES[1], EDGES[0]] = True
    assert bool(mask[given.unsqueeze(1).expand(-1, H, -1)].all())
    assert not bool(scores.sampled[scores.head < local_heads].any())
    assert bool(given[query, key][~scores.sampled].all())

    def value(edge: int, step: float) -> float:
        factor = torch.ones(N, H, N, dtype=torch.float64)
        factor[query[edge], scores.head[edge], key[edge]] = torch.tensor(step).exp()
        return float(dense_output(layer, x, mask, factor).detach().square().sum())

    assert found.prediction == pytest.approx(value(0, 0.0), rel=1e-10)
    for edge in range(key.numel()):
        slope = (value(edge, 1e-3) - value(edge, -1e-3)) / 2e-3
        assert float(scores.edge_score[edge]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_scores_find_the_node_that_matters() -> None:
    """Only node 7 carries a value, and query 2's output is explained."""
    torch.manual_seed(0)
    layer = SBMConv(C, 2, num_clusters=3, init_density=0.9, exploration=0.0)
    x = features()
    x[:, 0] = 0.0
    x[7, 0] = 3.0
    with torch.no_grad():
        layer.lin_query.weight.zero_()  # equal weights, so only values move the prediction
        layer.lin_value.weight.zero_()
        layer.lin_value.weight[:, 0] = 1.0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        with record(layer) as runs:
            found = explain(layer, x, index=2, target=0, generator=generator)
        key, query = runs[0].graph.edge_index
        neighbours = key[query == 2].tolist()
        if 7 in neighbours and len(neighbours) > 2:  # of two edges, both score the same
            break
    best = found.top_edges(1)[0]
    assert (best.layer, best.head, best.key, best.query) == ("", 0, 7, 2)
    assert best.score > 0
    assert found.node_score.nonzero().tolist() == [[7]]
    assert not bool(found.layers[0].edge_score[query != 2].any())
    torch.testing.assert_close(
        found.layers[0].edge_score.sum(), torch.tensor(0.0), atol=1e-6, rtol=0
    )


def test_a_model_of_tokens_and_several_layers() -> None:
    torch.manual_seed(0)
    model = SBMTransformer(7, 3, channels=8, heads=2, num_layers=2, num_clusters=3).train()
    tokens = torch.tensor([1, 2, 3, 4, 5])
    found = explain(model, tokens, index=0, generator=seeded())
    assert [scores.layer for scores in found.layers] == [
        "layers.0.attention.conv",
        "layers.1.attention.conv",
    ]
    assert found.node_score.shape == (5,)
    with torch.no_grad():
        logits = model.eval()(tokens, generator=seeded())
    assert found.prediction == pytest.approx(float(logits.max()), rel=1e-5)
    assert len(found.top_edges(4)) == 4
    assert abs(found.top_edges(4)[0].score) >= abs(found.top_edges(4)[3].score)


def test_the_model_is_left_as_it_was() -> None:
    net, x = Net().train(), features()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    explain(net, x, edge_index=EDGES, index=1)
    assert net.training
    assert net.block.training
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not net.block.attn.conv._forward_pre_hooks
    assert not net.block.attn.conv.attention._forward_pre_hooks


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="'model' must be a torch"):
        explain(lambda x: x, features())
    with pytest.raises(ValueError, match="must predict through an SBM layer"):
        explain(nn.Linear(C, 2), features())
    for kwargs in ({"index": N}, {"target": 3}, {"index": -1}):
        with pytest.raises(ValueError, match="must be None or in"):
            explain(Net(), features(), EDGES, **kwargs)
    with pytest.raises(ValueError, match="'output' must return a scalar"):
        explain(Net(), features(), EDGES, output=lambda out: out)
    with pytest.raises(ValueError, match="'k' must be"):
        explain(Net(), features(), EDGES).top_edges(0)


def explainer(net: Net, algorithm: ExplainerAlgorithm, **options: str | None) -> Explainer:
    """PyG's explainer of the classes of nodes, by a mask of the input's edges."""
    settings = {"explanation_type": "model", "edge_mask_type": "object"}
    return Explainer(net, algorithm, model_config=NODE_CLASSES, **{**settings, **options})


def watch_masks(net: Net) -> list[tuple]:
    """Whether our layer and the local one are being explained, at every call from now on."""
    ours, local, seen = net.block.attn.conv, net.block.conv, []

    def note(module: nn.Module, args: tuple) -> None:
        seen.append((ours.explain, getattr(ours, "_edge_mask", None), local.explain))

    net.block.register_forward_pre_hook(note)
    return seen


def check_only_local_was_masked(net: Net, seen: list[tuple], masked: bool = True) -> None:
    assert all(explained is False and mask is None for explained, mask, _ in seen)
    assert any(local for _, _, local in seen) == masked
    assert net.block.attn.conv.explain is False
    assert bool(torch.isfinite(net(features(), EDGES)).all())


@pytest.mark.parametrize("edge_mask_type", ["object", None])
def test_gnn_explainer_masks_the_inputs_edges_only(edge_mask_type: str | None) -> None:
    """PyG's mask reaches the local layer and never ours, and is gone afterwards."""
    net = Net().eval()
    seen = watch_masks(net)
    options = {"node_mask_type": "attributes", "edge_mask_type": edge_mask_type}
    found = explainer(net, GNNExplainer(epochs=3), **options)(features(), EDGES, index=3)
    assert found.node_mask.shape == (N, C)
    check_only_local_was_masked(net, seen, masked=edge_mask_type is not None)


def test_attention_explainer_reads_the_local_layer() -> None:
    found = explainer(Net(local=GATConv).eval(), AttentionExplainer())(features(), EDGES)
    assert found.edge_mask.shape == (EDGES.size(1),)


@pytest.mark.parametrize("method", ["IntegratedGradients", "ShapleyValueSampling"])
def test_captum_explainer_masks_the_inputs_edges_only(method: str) -> None:
    pytest.importorskip("captum")
    net = Net().eval()
    seen = watch_masks(net)
    explain_node = explainer(net, CaptumExplainer(method), node_mask_type="attributes")
    found = explain_node(features(), EDGES, index=3)
    assert found.node_mask.shape == (N, C)
    assert found.edge_mask.shape == (EDGES.size(1),)
    assert bool(found.node_mask.isfinite().all())
    check_only_local_was_masked(net, seen)


def test_pg_explainer_trains_beside_our_layer() -> None:
    net = Net().eval()
    seen = watch_masks(net)
    explain_node = explainer(net, PGExplainer(epochs=2), explanation_type="phenomenon")
    x, target = features(), torch.zeros(N, dtype=torch.int64)
    for epoch in range(2):
        loss = explain_node.algorithm.train(epoch, net, x, EDGES, target=target, index=3)
        assert math.isfinite(loss)
    found = explain_node(x, EDGES, target=target, index=3)
    assert found.edge_mask.shape == (EDGES.size(1),)
    check_only_local_was_masked(net, seen)
