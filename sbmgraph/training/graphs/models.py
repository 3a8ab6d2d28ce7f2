"""Node classifiers with local, dense, linear, fixed sparse and SBM attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GAT, GCN, GIN, GINConv, GPSConv

from sbmgraph.checks import check_choice, check_positive_int, check_range
from sbmgraph.graph import SampledGraph
from sbmgraph.nn import GPSBlock
from sbmgraph.ops import edge_attention
from sbmgraph.training.graphs.tasks import GraphBatch, Task


class ExpanderAttention(nn.Module):
    """Attention over a fixed expander (the union of random cycles, as in Exphormer: Shirzad et
    al., ICML 2023) and self-loops, on the same sparse operation as SBM attention."""

    def __init__(self, channels: int, heads: int, cycles: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.heads, self.cycles, self.seed = heads, cycles, seed
        self.lin_in = nn.Linear(channels, 3 * channels)
        self.lin_out = nn.Linear(channels, channels)

    def reset_parameters(self) -> None:
        self.lin_in.reset_parameters()
        self.lin_out.reset_parameters()

    def pattern(self, batch: Tensor) -> SampledGraph:
        """Every node's neighbours on random cycles through its graph, and itself; the same for
        batches of the same sizes."""
        generator = torch.Generator().manual_seed(self.seed)
        node = torch.arange(batch.numel())
        edges = [torch.stack([node, node])]
        ptr = torch.searchsorted(batch, torch.arange(int(batch[-1]) + 2))
        for _ in range(self.cycles):
            order = torch.rand(batch.numel(), generator=generator, dtype=torch.float64)
            tour = (batch + order).argsort()
            following = node + 1
            following[ptr[1:] - 1] = ptr[:-1]
            cycle = torch.stack([tour, tour[following]])
            edges += [cycle, cycle.flip(0)]
        return SampledGraph.from_edge_index(
            torch.cat(edges, dim=1), heads=self.heads, query_batch=batch, key_batch=batch
        )

    def forward(self, x: Tensor, batch: Tensor, **kwargs: Any) -> Tensor:
        query, key, value = self.lin_in(x).view(x.size(0), 3, self.heads, -1).unbind(1)
        out = edge_attention(query, key, value, self.pattern(batch))
        assert isinstance(out, Tensor)
        return self.lin_out(out.flatten(1))


def gps(layer: Callable[..., nn.Module], channels: int, heads: int, **kwargs: Any) -> nn.Module:
    """One GPS layer with GIN as its local part."""
    mlp = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))
    return layer(channels, GINConv(mlp), heads=heads, **kwargs)


class GraphTransformer(nn.Module):
    """A stack of GPS layers."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, edge_index, batch)
        return x


class NodeClassifier(nn.Module):
    """Embeddings of a node's two tokens, a body over the graph, a classifier."""

    def __init__(self, task: Task, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(task.num_tokens, channels) for _ in range(2))
        self.body = body
        self.classifier = nn.Linear(channels, task.num_classes)

    def forward(self, data: GraphBatch) -> Tensor:
        x = sum(embed(data.x[:, i]) for i, embed in enumerate(self.embeddings))
        x = self.body(x, data.edge_index, batch=data.batch)
        return self.classifier(x[data.node])


@dataclass
class Setting:
    """Everything of a run but its task, model and seed.

    Attributes:
        steps: Optimizer steps, each on fresh graphs.
        batch_size: Graphs a step.
        learning_rate: Peak of a one-cycle schedule of Adam.
        membership_lr: The same for the membership networks of SBM attention.
        channels: Channels of the nodes.
        heads: Attention heads.
        attention_layers: Layers of models with global attention; the others get enough layers to
            reach the relevant nodes.
        num_clusters: Blocks of SBM attention.
        init_density: Expected density of SBM attention at the start, if not its default.
        sbm: Further options of SBM attention, see :class:`~sbmgraph.nn.SBMOptions`.
        density_penalty: Weight of SBM attention's expected density in the loss.
        test_graphs: Graphs in the test set.
    """

    steps: int = 500
    batch_size: int = 32
    learning_rate: float = 3e-3
    membership_lr: float = 3e-3
    channels: int = 32
    heads: int = 2
    attention_layers: int = 2
    num_clusters: int = 16
    init_density: float | None = None
    sbm: dict[str, Any] = field(default_factory=dict)
    density_penalty: float = 1e-2
    test_graphs: int = 512

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "channels", "heads", "attention_layers",
                     "num_clusters", "test_graphs"):  # fmt: skip
            check_positive_int(name, getattr(self, name))
        for name in ("learning_rate", "membership_lr"):
            check_range(name, getattr(self, name), 0.0, float("inf"), low_open=True)
        check_range("density_penalty", self.density_penalty, 0.0, float("inf"))


LOCAL = {"gcn": GCN, "gin": GIN, "gat": GAT}
MODELS = (*LOCAL, "gps-dense", "gps-performer", "gps-sbm", "gps-expander")


def build_body(name: str, task: Task, setting: Setting) -> nn.Module:
    """The graph part of a model.

    Raises:
        ValueError: If the name is unknown.
    """
    check_choice("models", name, MODELS)
    channels, heads = setting.channels, setting.heads
    if name in LOCAL:
        return LOCAL[name](
            channels, channels, task.local_layers, channels, norm="batch_norm", jk="cat"
        )
    layers: list[nn.Module] = []
    for seed in range(setting.attention_layers):
        if name == "gps-sbm":
            options: dict[str, Any] = {"num_clusters": setting.num_clusters, **setting.sbm}
            if setting.init_density is not None:
                options["init_density"] = setting.init_density
            layer = gps(GPSBlock, channels, heads, attn_kwargs=options)
        elif name == "gps-expander":
            layer = gps(GPSBlock, channels, heads)
            layer.attn = ExpanderAttention(channels, heads, seed=seed)
        elif name == "gps-dense":
            layer = gps(GPSConv, channels, heads, attn_type="multihead")
        else:
            layer = gps(GPSConv, channels, heads, attn_type="performer")
        layers.append(layer)
    return GraphTransformer(layers)
