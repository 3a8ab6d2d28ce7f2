"""SBMConv among PyG's tools: given edges, adjacency kinds, bipartite and heterogeneous input,
loaders, compilation."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch_geometric.typing
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader, NeighborLoader
from torch_geometric.nn import HeteroConv, Linear, Sequential, to_hetero
from torch_geometric.utils import to_torch_csc_tensor, to_torch_csr_tensor

from sbmgraph import SampledGraph, record
from sbmgraph.nn import SBMConv
from tests.dense import DenseAttention, dense_mask

N, C, H, D = 11, 8, 3, 4
BATCH = torch.tensor([0] * 4 + [1] + [2] * 6)
EDGES = torch.tensor([[0, 1, 1, 3, 3, 5, 6, 10, 7, 9], [1, 1, 2, 0, 0, 10, 5, 6, 7, 8]])
ATTR = torch.linspace(-2.0, 3.0, 20).view(10, 2)


def conv(**kwargs) -> SBMConv:
    torch.manual_seed(0)
    return SBMConv(C, D, **({"heads": H, "num_clusters": 5} | kwargs))


def features(n: int = N, channels: int = C, seed: int = 0) -> Tensor:
    return torch.randn(n, channels, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def given_mask(edge_index: Tensor, num_targets: int = N, num_sources: int = N) -> Tensor:
    mask = torch.zeros(num_targets, num_sources, dtype=torch.bool)
    mask[edge_index[1], edge_index[0]] = True
    return mask


def mean_attr(edge_index: Tensor, attr: Tensor) -> Tensor:
    """Attributes [n, m, edge_dim], the mean over duplicate edges."""
    total, count = torch.zeros(N, N, attr.size(1), dtype=attr.dtype), torch.zeros(N, N, 1)
    for (key, query), row in zip(edge_index.T.tolist(), attr, strict=True):
        total[query, key] += row
        count[query, key] += 1
    return total / count.clamp(min=1)


def heads_of(layer: SBMConv, x: Tensor) -> list[Tensor]:
    return [lin(x).view(-1, H, D) for lin in (layer.lin_query, layer.lin_key, layer.lin_value)]


# Given edges ######################################################################################


@pytest.mark.parametrize("backend", ["pyg", "auto"])
@pytest.mark.parametrize("local_heads", [0, 2])
@pytest.mark.parametrize("edge_dim", [None, 2])
def test_attends_over_the_union(backend: str, local_heads: int, edge_dim: int | None) -> None:
    """Equal to dense attention over sampled | given edges with the bias on given ones; local heads
    see the given ones alone."""
    layer = conv(backend=backend, local_heads=local_heads, edge_dim=edge_dim).double()
    x = features().double()
    attr = None if edge_dim is None else ATTR.double()
    with record(layer) as runs:
        out = layer(x, BATCH, edge_index=EDGES, edge_attr=attr)
    assert runs[0].graph.heads == H - local_heads
    mask = torch.zeros(N, H, N, dtype=torch.bool)
    mask[:, local_heads:] = dense_mask(runs[0].graph)
    mask |= given_mask(EDGES).unsqueeze(1)
    bias = None
    if edge_dim is not None:
        bias = layer.lin_edge(mean_attr(EDGES, ATTR.double())).permute(0, 2, 1)
    expected, _, _ = DenseAttention(mask, D**-0.5, "logit", bias).forward(*heads_of(layer, x))
    torch.testing.assert_close(out, expected.flatten(1), rtol=1e-10, atol=1e-12)


def test_given_edges_get_no_straight_through_gradient() -> None:
    """With next to no sampled edges, the SBM's parameters get a zero gradient, all others do not;
    with the same edges sampled, they get one."""
    layer = conv(init_density=1e-12, exploration=0.0, edge_dim=2)
    with record(layer) as runs:
        layer(features(), BATCH, edge_index=EDGES, edge_attr=ATTR).pow(2).sum().backward()
    assert runs[0].graph.num_edges == 0
    for name, parameter in layer.named_parameters():
        gradient = parameter.grad
        moved = gradient is not None and bool(gradient.abs().sum() > 0)
        assert moved != name.startswith("attention.membership"), name

    layer = conv(init_density=0.99, exploration=0.0)
    layer(features(), BATCH, edge_index=EDGES).pow(2).sum().backward()
    assert layer.membership.clusters.grad.abs().sum() > 0


def test_weights_cover_sampled_and_given_edges_of_all_heads() -> None:
    layer = conv(local_heads=1, init_density=0.2).eval()
    x = features()
    with record(layer) as runs:
        out, (edge_index, alpha) = layer(x, BATCH, edge_index=EDGES, return_attention_weights=True)
    dense = torch.zeros(N, H, N)
    dense[edge_index[1], :, edge_index[0]] = alpha
    given = given_mask(EDGES)
    assert torch.equal(dense[:, 0] > 0, given)
    assert torch.equal(dense[:, 1:] > 0, dense_mask(runs[0].graph) | given.unsqueeze(1))
    value = layer.lin_value(x).view(N, H, D)
    torch.testing.assert_close(out, torch.einsum("nhm,mhd->nhd", dense, value).flatten(1))
    assert torch.equal(edge_index[1], edge_index[1].sort().values)


def test_several_samples_with_given_edges_are_averaged() -> None:
    layer = conv(num_samples=3).eval()
    generator = seeded()
    averaged = layer(features(), edge_index=EDGES, generator=generator)
    single = conv().eval()
    generator = seeded()
    outs = [single(features(), edge_index=EDGES, generator=generator) for _ in range(3)]
    torch.testing.assert_close(averaged, torch.stack(outs).mean(0))


# Adjacency kinds ##################################################################################


def adjacency(kind: str) -> Tensor:
    size = (N, N)
    flipped = EDGES[:, :3].flip(0)  # distinct edges; matrices cannot hold duplicates
    if kind == "edge_index":
        return EDGES[:, :3]
    if kind == "int32":
        return EDGES[:, :3].int()
    if kind == "EdgeIndex":
        return EdgeIndex(EDGES[:, :3], sparse_size=size)
    if kind == "csr":
        return to_torch_csr_tensor(flipped, ATTR[:3], size=size)
    if kind == "csc":
        return to_torch_csc_tensor(flipped, ATTR[:3], size=size)
    if kind == "coo":
        return torch.sparse_coo_tensor(flipped, ATTR[:3], (N, N, 2)).coalesce()
    if not torch_geometric.typing.WITH_TORCH_SPARSE:
        pytest.skip("torch-sparse is not installed")
    from torch_sparse import SparseTensor

    return SparseTensor(row=flipped[0], col=flipped[1], value=ATTR[:3], sparse_sizes=size)


@pytest.mark.parametrize(
    "kind", ["edge_index", "int32", "EdgeIndex", "csr", "csc", "coo", "SparseTensor"]
)
def test_every_adjacency_kind_gives_the_same_output(kind: str) -> None:
    """Asymmetric edges, so that a transposed reading shows; matrices carry the attributes."""
    layer = conv(init_density=0.05, edge_dim=2).eval()
    expected = layer(features(), edge_index=EDGES[:, :3], edge_attr=ATTR[:3], generator=seeded())
    adj = adjacency(kind)
    attr = ATTR[:3] if kind in ("edge_index", "int32", "EdgeIndex") else None
    out = layer(features(), edge_index=adj, edge_attr=attr, generator=seeded())
    torch.testing.assert_close(out, expected)
    reversed_out = layer(
        features(), edge_index=EDGES[:, :3].flip(0), edge_attr=ATTR[:3], generator=seeded()
    )
    assert not torch.allclose(reversed_out, expected)


def test_a_matrix_without_edge_dim_only_connects() -> None:
    layer = conv().eval()
    expected = layer(features(), edge_index=EDGES[:, :3], generator=seeded())
    torch.testing.assert_close(
        layer(features(), edge_index=adjacency("csr"), generator=seeded()), expected
    )


def test_the_order_of_given_edges_does_not_matter() -> None:
    layer = conv(edge_dim=2).eval()
    perm = torch.randperm(EDGES.size(1), generator=seeded())
    outs = [
        layer(features(), BATCH, edge_index=edges, edge_attr=attr, generator=seeded())
        for edges, attr in ((EDGES, ATTR), (EDGES[:, perm], ATTR[perm]))
    ]
    torch.testing.assert_close(*outs)


# Bipartite input ##################################################################################


def test_targets_without_features_query_with_the_bias() -> None:
    layer = SBMConv((C, 3), D, heads=H, num_clusters=5)
    nn.init.normal_(layer.lin_query.bias)
    x_src, edges = features(), torch.tensor([[0, 10], [1, 4]])
    zero = layer((x_src, torch.zeros(5, 3)), edge_index=edges, generator=seeded())
    none = layer((x_src, None), edge_index=edges, size=(N, 5), generator=seeded())
    torch.testing.assert_close(none, zero)
    batches = (torch.zeros(N, dtype=torch.int64), torch.zeros(5, dtype=torch.int64))
    assert layer((x_src, None), batches).shape == (5, H * D)
    without_bias = SBMConv((C, 3), D, num_clusters=5, bias=False)
    assert bool(torch.isfinite(without_bias((x_src, None), size=(N, 2))).all())
    lazy = SBMConv((-1, -1), D, num_clusters=5)
    assert bool(torch.isfinite(lazy((x_src, None), size=(N, 2))).all())


def test_bipartite_given_edges() -> None:
    layer = SBMConv((C, 3), D, heads=H, num_clusters=5).double()
    x_src, x_dst = features().double(), features(2, 3).double()
    edges = torch.tensor([[0, 10, 4], [1, 0, 0]])
    batches = (torch.tensor([0] * 5 + [1] * 6), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="different graphs"):
        layer((x_src, x_dst), batches, edge_index=edges)
    with record(layer) as runs:
        out = layer((x_src, x_dst), edge_index=edges)
    mask = dense_mask(runs[0].graph) | given_mask(edges, 2).unsqueeze(1)
    query = layer.lin_query(x_dst).view(-1, H, D)
    key, value = (lin(x_src).view(-1, H, D) for lin in (layer.lin_key, layer.lin_value))
    expected, _, _ = DenseAttention(mask, D**-0.5, "logit").forward(query, key, value)
    torch.testing.assert_close(out, expected.flatten(1), rtol=1e-10, atol=1e-12)


# Bad input ########################################################################################


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"edge_index": torch.tensor([[0], [N]])}, r"'edge_index' must hold nodes in \[0, 11\)"),
        ({"edge_index": torch.tensor([[-1], [0]])}, "'edge_index' must hold nodes"),
        ({"edge_index": torch.tensor([[0], [5]]), "batch": BATCH}, "different graphs"),
        ({"edge_index": torch.zeros(3, 2, dtype=torch.int64)}, r"shape \[2, num_edges\]"),
        ({"edge_index": torch.zeros(2, 2)}, "integer tensor"),
        ({"edge_index": [[0], [1]]}, "'edge_index' must be a tensor"),
        ({"edge_index": EDGES, "edge_attr": ATTR[:4]}, r"\[10, 2\].*one row for each edge"),
        ({"edge_index": EDGES, "edge_attr": ATTR[:, :1]}, r"\[10, 2\]"),
        ({"edge_index": EDGES, "edge_attr": ATTR.long()}, "floating-point"),
        ({"edge_index": EDGES, "edge_attr": "length"}, "'edge_attr' must be a tensor"),
        ({"edge_attr": ATTR}, "'edge_attr' must come with 'edge_index'"),
        ({"batch": BATCH.flip(0), "edge_index": EDGES}, "sorted"),
        ({"batch": BATCH.flip(0)}, "sorted"),
        ({"batch": BATCH[:4]}, "each of 11 nodes"),
        ({"batch": EDGES}, "edges go to 'edge_index'"),
        ({"batch": (BATCH, None)}, "for source and one for target"),
        ({"edge_index": torch.eye(N, N + 1).to_sparse()}, "by sources"),
    ],
)  # fmt: skip
def test_bad_edges(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        conv(edge_dim=2)(features(), **kwargs)


def test_bad_edge_arguments() -> None:
    with pytest.raises(ValueError, match="'edge_attr' must be None as 'edge_dim' is None"):
        conv()(features(), edge_index=EDGES, edge_attr=ATTR)
    with pytest.raises(ValueError, match="'edge_index' must be given as 'local_heads' = 1"):
        conv(local_heads=1)(features())
    with pytest.raises(ValueError, match="'local_heads' must leave one of 'heads' = 3"):
        conv(local_heads=3)
    with pytest.raises(ValueError, match="'edge_dim' must be an integer"):
        conv(edge_dim=0)
    with pytest.raises(ValueError, match="'size' or 'batch'"):
        conv()((features(), None))
    with pytest.raises(ValueError, match=r"'size' must be \(11, 11\) like the nodes"):
        conv()(features(), size=(N, 5))
    with pytest.raises(ValueError, match="'edge_index' must be on cpu"):
        conv()(features(), edge_index=EDGES.to("meta"))
    with pytest.raises(ValueError, match="'batch' must be a tuple"):
        conv()((features(), features(5)), BATCH)


# Layer hygiene ####################################################################################


@pytest.mark.parametrize("edges", [EDGES[:, :0], EDGES])
def test_empty_graph_and_isolated_nodes(edges: Tensor) -> None:
    """A query without any edge gets zeros, and everything stays finite."""
    layer = conv(init_density=1e-12, exploration=0.0, edge_dim=2)
    x = features().requires_grad_()
    out = layer(x, edge_index=edges, edge_attr=ATTR[: edges.size(1)])
    isolated = torch.ones(N, dtype=torch.bool)
    isolated[edges[1]] = False
    assert bool((out[isolated] == 0).all())
    out.sum().backward()
    assert bool(torch.isfinite(x.grad).all())
    empty = layer(features(0), edge_index=EDGES[:, :0], edge_attr=ATTR[:0])
    assert empty.shape == (0, H * D)


def test_permuting_nodes_permutes_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law is permuted exactly (same memberships), and so is the output over a fixed graph."""
    layer = conv(edge_dim=2).double()
    x, attr = features().double(), ATTR.double()
    perm = torch.randperm(N, generator=seeded())
    place = torch.empty_like(perm)
    place[perm] = torch.arange(N)
    with record(layer) as runs:
        out = layer(x, edge_index=EDGES, edge_attr=attr)
    graph = runs[0].graph
    moved = SampledGraph.from_edge_index(place[graph.edge_index], N, N, H, graph.head)
    monkeypatch.setattr("sbmgraph.nn.heads.sample", lambda *args, **kwargs: moved)
    with record(layer) as permuted:
        again = layer(x[perm], edge_index=place[EDGES], edge_attr=attr)
    torch.testing.assert_close(again, out[perm], rtol=1e-10, atol=1e-12)
    for name in ("query_membership", "key_membership"):
        first, second = (getattr(r[0].sbm, name) for r in (runs, permuted))
        torch.testing.assert_close(second, first[perm], rtol=1e-10, atol=1e-12)


def test_batch_mates_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = conv(edge_dim=2).double()
    x, attr = features().double(), ATTR.double()
    with record(layer) as runs:
        together = layer(x, BATCH, edge_index=EDGES, edge_attr=attr)
    graph, own = runs[0].graph, BATCH == 2
    inside = graph.edge_index[1] >= 5
    alone = SampledGraph.from_edge_index(
        graph.edge_index[:, inside] - 5, 6, 6, H, graph.head[inside]
    )
    monkeypatch.setattr("sbmgraph.nn.heads.sample", lambda *args, **kwargs: alone)
    mine = EDGES[1] >= 5
    out = layer(x[own], edge_index=EDGES[:, mine] - 5, edge_attr=attr[mine])
    torch.testing.assert_close(together[own], out, rtol=1e-10, atol=1e-12)


def test_state_dict_and_deepcopy() -> None:
    layer = conv(edge_dim=2, local_heads=1, pe_channels=3)
    pe = features(N, 3)
    other = conv(edge_dim=2, local_heads=1, pe_channels=3)
    other.reset_parameters()
    other.load_state_dict(layer.state_dict())
    outs = [
        module(features(), BATCH, EDGES, ATTR, pe=pe, generator=seeded())
        for module in (layer, other, copy.deepcopy(layer))
    ]
    for out in outs[1:]:
        assert torch.equal(out, outs[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    layer = conv(edge_dim=2, local_heads=1).to(dtype)
    x = features().to(dtype).requires_grad_()
    out = layer(x, BATCH, edge_index=EDGES, edge_attr=ATTR.to(dtype))
    out.sum().backward()
    assert out.dtype == dtype
    assert bool(torch.isfinite(x.grad).all())


# PyG's containers and loaders #####################################################################


def hetero_data() -> HeteroData:
    data = HeteroData()
    data["paper"].x = features(6, 5)
    data["author"].x = features(4, 3)
    data["author", "writes", "paper"].edge_index = torch.tensor([[0, 1, 3], [5, 2, 0]])
    data["paper", "cites", "paper"].edge_index = torch.tensor([[0, 1], [1, 2]])
    data["paper", "written", "author"].edge_index = torch.tensor([[5, 2], [0, 1]])
    return data


def test_hetero_conv() -> None:
    """Edges by keyword; and None as an edge type's edges for sampled ones alone."""
    data = hetero_data()
    layer = HeteroConv(
        {kind: SBMConv((-1, -1), D, heads=H, num_clusters=5) for kind in data.edge_types}
    )
    out = layer(data.x_dict, edge_index_dict=data.edge_index_dict)
    assert {kind: tuple(x.shape) for kind, x in out.items()} == {
        "paper": (6, H * D),
        "author": (4, H * D),
    }
    out = layer(data.x_dict, edge_index_dict=dict.fromkeys(data.edge_types))
    assert out["paper"].shape == (6, H * D)
    batches = {"paper": torch.tensor([0] * 3 + [1] * 3), "author": torch.tensor([0, 0, 1, 1])}
    with record(layer) as runs:
        layer(data.x_dict, edge_index_dict=dict.fromkeys(data.edge_types), batch_dict=batches)
    assert [run.graph.num_graphs for run in runs] == [2, 2, 2]
    with pytest.raises(ValueError, match="'edge_index_dict' in HeteroConv"):
        layer(data.x_dict, data.edge_index_dict)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = SBMConv((-1, -1), D, heads=H, num_clusters=5)
        self.lin = Linear(-1, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.lin(self.conv(x, edge_index=edge_index).relu())


def test_to_hetero() -> None:
    data = hetero_data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = to_hetero(Net(), data.metadata())
    out = net(data.x_dict, data.edge_index_dict)
    assert {kind: tuple(x.shape) for kind, x in out.items()} == {"paper": (6, 2), "author": (4, 2)}
    sum(x.sum() for x in out.values()).backward()


def graphs() -> list[Data]:
    return [
        Data(x=features(n, seed=n), edge_index=torch.tensor([[0], [n - 1]]), y=torch.tensor([n]))
        for n in (3, 1, 5, 2)
    ]


def test_batch_and_data_loader() -> None:
    layer = conv()
    for batch in DataLoader(graphs(), batch_size=2):
        assert isinstance(batch, Batch)
        with record(layer) as runs:
            out = layer(batch.x, batch.batch, edge_index=batch.edge_index)
        assert out.shape == (batch.num_nodes, H * D)
        key, query = runs[0].graph.edge_index
        assert torch.equal(batch.batch[key], batch.batch[query])


@pytest.mark.skipif(
    not (torch_geometric.typing.WITH_PYG_LIB or torch_geometric.typing.WITH_TORCH_SPARSE),
    reason="NeighborLoader needs pyg-lib or torch-sparse",
)
def test_neighbor_loader() -> None:
    data = Data(x=features(), edge_index=EDGES)
    layer = conv()
    for batch in NeighborLoader(data, num_neighbors=[2], batch_size=4):
        out = layer(batch.x, edge_index=batch.edge_index)
        assert out.shape == (batch.num_nodes, H * D)


def test_sequential() -> None:
    model = Sequential(
        "x, batch, edge_index",
        [
            (conv(), "x, batch -> x"),
            nn.ReLU(inplace=True),
            (SBMConv(H * D, 2, num_clusters=5), "x, batch, edge_index -> x"),
        ],
    )
    assert model(features(), BATCH, EDGES).shape == (N, 2)


# Compilation ######################################################################################


@pytest.mark.parametrize("given", [False, True])
def test_compiled_graph_breaks_only_at_the_sampler(given: bool) -> None:
    layer = conv(edge_dim=2, local_heads=1) if given else conv()
    kwargs = {"edge_index": EDGES, "edge_attr": ATTR} if given else {}
    torch._dynamo.reset()
    found = torch._dynamo.explain(layer)(features(), BATCH, **kwargs)
    places = {reason.user_stack[-1].lineno for reason in found.break_reasons}
    assert len(places) == 1, found.break_reasons
    assert found.graph_count == 4  # before and after the break, in the layer and in its heads
    assert "SBMHeads._sample" in str(found.break_reasons[0].reason)


def test_compiled_equals_eager() -> None:
    layer = conv(edge_dim=2, local_heads=1)
    torch._dynamo.reset()
    outs, gradients = [], []
    for call in (layer, torch.compile(layer, backend="aot_eager")):
        torch.manual_seed(1)
        out = call(features(), BATCH, edge_index=EDGES, edge_attr=ATTR)
        outs.append(out)
        gradients.append(torch.autograd.grad(out.square().sum(), list(layer.parameters())))
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*gradients)
