"""GPSBlock: GPSConv's recipe and calls, flat ragged batches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GATConv, GCNConv, GINEConv, GPSConv, SAGEConv, global_add_pool
from torch_geometric.transforms import AddRandomWalkPE
from torch_geometric.utils import to_torch_csr_tensor

from sbmgraph import record
from sbmgraph.nn import GPSBlock

N, C = 11, 16
BATCH = torch.tensor([0] * 4 + [1] + [2] * 6)
EDGES = torch.tensor([[0, 1, 1, 3, 5, 6, 10], [1, 0, 2, 0, 10, 5, 6]])
SMALL = {"num_clusters": 4}


def features(n: int = N, seed: int = 0) -> Tensor:
    return torch.randn(n, C, generator=torch.Generator().manual_seed(seed))


def block(**kwargs) -> GPSBlock:
    torch.manual_seed(0)
    return GPSBlock(
        C, **({"conv": SAGEConv(C, C), "heads": 4, "norm": None, "attn_kwargs": SMALL} | kwargs)
    )


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_name_and_size() -> None:
    layer = block(norm="batch_norm")
    assert str(layer) == ("GPSBlock(16, conv=SAGEConv(16, 16, aggr=mean), heads=4, attn_type=sbm)")
    assert layer(features(), EDGES).shape == (N, C)
    assert layer(features(), EDGES, BATCH).shape == (N, C)
    layer.reset_parameters()


@pytest.mark.parametrize("norm", ["batch_norm", "graph_norm", "layer_norm", None])
@pytest.mark.parametrize("local", [True, False])
def test_is_the_gps_recipe(norm: str | None, local: bool) -> None:
    """With the same weights, GPSConv with our attention put in its place gives the same: the MLP,
    norms and residuals are the published ones."""
    ours = block(norm=norm, conv=GCNConv(C, C) if local else None, act="gelu").eval()
    theirs = GPSConv(C, copy.deepcopy(ours.conv), heads=4, norm=norm, act="gelu").eval()
    theirs.mlp.load_state_dict(ours.mlp.state_dict())

    class Attention(nn.MultiheadAttention):
        """Our attention behind the call that GPSConv makes, padding and all."""

        def forward(self, x: Tensor, *args, key_padding_mask: Tensor, **kwargs) -> tuple:
            return ours.attn(x, mask=~key_padding_mask, generator=seeded()), None

    theirs.attn = Attention(C, 4)
    for mine, other in (
        (ours.norm_local, theirs.norm1),
        (ours.norm_global, theirs.norm2),
        (ours.norm_out, theirs.norm3),
    ):
        if mine is not None:
            for parameter in mine.parameters():
                nn.init.normal_(parameter, mean=1.0)
            other.load_state_dict(mine.state_dict())
    out = ours(features(), EDGES, BATCH, generator=seeded())
    torch.testing.assert_close(out, theirs(features(), EDGES, BATCH))


def test_sampled_edges_stay_inside_their_graph() -> None:
    layer = block()
    with record(layer) as runs:
        layer(features(), EDGES, BATCH)
    key, query = runs[0].graph.edge_index
    assert torch.equal(BATCH[key], BATCH[query])
    assert runs[0].name == "attn.conv"


def test_adjacency_kinds_and_edge_attributes() -> None:
    layer = block(conv=GATConv(C, C, edge_dim=3, add_self_loops=False)).eval()
    attr = torch.randn(7, 3)
    out = layer(features(), EDGES, BATCH, generator=seeded(), edge_attr=attr)
    assert out.shape == (N, C)
    plain = block().eval()
    adj = to_torch_csr_tensor(EDGES.flip(0), size=(N, N))
    torch.testing.assert_close(
        plain(features(), adj, generator=seeded()), plain(features(), EDGES, generator=seeded())
    )


def test_encodings_reach_the_memberships() -> None:
    layer = block(attn_kwargs={**SMALL, "pe_channels": 2})
    with record(layer) as runs:
        for scale in (0.0, 5.0):
            layer(features(), EDGES, pe=torch.full((N, 2), scale))
    first, second = (run.sbm.query_membership for run in runs)
    assert not torch.allclose(first, second)


def test_state_dict_deepcopy_and_precision() -> None:
    layer, other = block().eval(), block().eval()
    other.reset_parameters()
    other.load_state_dict(layer.state_dict())
    expected = layer(features(), EDGES, BATCH, generator=seeded())
    for module in (other, copy.deepcopy(layer)):
        assert torch.equal(module(features(), EDGES, BATCH, generator=seeded()), expected)
    half = copy.deepcopy(layer).to(torch.bfloat16)
    out = half(features().bfloat16(), EDGES, BATCH)
    assert out.dtype == torch.bfloat16
    assert bool(torch.isfinite(out).all())


def test_empty_and_single_node() -> None:
    layer = block()
    assert layer(features(0), EDGES[:, :0]).shape == (0, C)
    assert bool(torch.isfinite(layer(features(1), EDGES[:, :0])).all())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="'attn_type' must be 'sbm'"):
        block(attn_type="performer")
    with pytest.raises(ValueError, match="'channels' must be a multiple of 'heads' = 5"):
        block(heads=5)
    with pytest.raises(ValueError, match="'dropout'"):
        block(dropout=2.0)
    with pytest.raises(ValueError, match="sorted"):
        block()(features(), EDGES, BATCH.flip(0))


class Molecules(nn.Module):
    """A GPS model as PyG's documentation builds it: node types and random-walk encodings in,
    edge types to GINE layers, sum pooling, an MLP."""

    def __init__(self, layer: type[nn.Module], attn_type: str, num_layers: int = 2) -> None:
        super().__init__()
        self.node_embedding = nn.Embedding(5, C - 4)
        self.edge_embedding = nn.Embedding(3, C)
        self.pe_norm, self.pe_lin = nn.BatchNorm1d(6), nn.Linear(6, 4)
        self.convs = nn.ModuleList()
        for _ in range(num_layers):
            mlp = nn.Sequential(nn.Linear(C, C), nn.ReLU(), nn.Linear(C, C))
            self.convs.append(
                layer(C, GINEConv(mlp), heads=4, attn_type=attn_type, attn_kwargs={"dropout": 0.5})
            )
        self.mlp = nn.Sequential(nn.Linear(C, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(
        self, x: Tensor, pe: Tensor, edge_index: Tensor, edge_attr: Tensor, batch: Tensor
    ) -> Tensor:
        x = torch.cat([self.node_embedding(x), self.pe_lin(self.pe_norm(pe))], dim=1)
        edge_attr = self.edge_embedding(edge_attr)
        for conv in self.convs:
            x = conv(x, edge_index, batch, edge_attr=edge_attr)
        return self.mlp(global_add_pool(x, batch))


def molecules() -> list[Data]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for n in (6, 9, 4, 7):
        ring = torch.arange(n)
        edges = torch.stack([ring, (ring + 1) % n])
        types = torch.randint(3, (2 * n,), generator=generator)
        x = torch.randint(5, (n,), generator=generator)
        data = Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], 1), edge_attr=types)
        data.y = (x == 0).sum().float().view(1)
        found.append(AddRandomWalkPE(6, attr_name="pe")(data))
    return found


@pytest.mark.parametrize(
    ("layer", "attn_type"), [(GPSConv, "multihead"), (GPSBlock, "multihead"), (GPSBlock, "sbm")]
)
def test_a_gps_model_needs_no_other_change(layer: type[nn.Module], attn_type: str) -> None:
    """The same model trains with GPSConv and with our block; every weight takes a gradient."""
    torch.manual_seed(0)
    model = Molecules(layer, attn_type)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for data in DataLoader(molecules(), batch_size=2):
        optimizer.zero_grad()
        out = model(data.x, data.pe, data.edge_index, data.edge_attr, data.batch)
        assert out.shape == (2, 1)
        (out.squeeze(-1) - data.y).abs().mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
        optimizer.step()


def test_compiled_block_breaks_only_at_the_sampler() -> None:
    """One cause; the frames that call the layer (block, attention) end there too, hence 6 graphs:
    up to the heads, up to the sampler, and the rest of the heads, layer, attention and block."""
    torch._dynamo.reset()
    found = torch._dynamo.explain(block(norm="batch_norm"))(features(), EDGES, BATCH)
    assert found.graph_count == 6
    places = {reason.user_stack[-1].lineno for reason in found.break_reasons}
    assert len(places) == 1, found.break_reasons
    assert "SBMHeads._sample" in str(found.break_reasons[0].reason)
