"""Generated graphs whose nodes need to know of far ones: over-squashed trees, distant partners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class GraphBatch(NamedTuple):
    """A batch of generated graphs.

    Attributes:
        x: Two token numbers of every node, of shape ``[n, 2]``.
        edge_index: Edges, of shape ``[2, E]``.
        batch: Graph of each node, of shape ``[n]``.
        node: The nodes to classify, of shape ``[t]``.
        y: Their classes, of shape ``[t]``.
    """

    x: Tensor
    edge_index: Tensor
    batch: Tensor
    node: Tensor
    y: Tensor


@dataclass(frozen=True)
class TreeNeighboursMatch:
    """The over-squashing task of Alon & Yahav (ICLR 2021, Section 4.1).

    In a complete binary tree every leaf holds a key and a value, both permutations; the root holds
    one key and must answer with the value of the leaf that holds the same. Edges lead from child
    to parent, so local message passing has to squeeze :math:`2^{depth}` pairs into one vector.
    """

    depth: int

    @property
    def name(self) -> str:
        return f"tree-{self.depth}"

    @property
    def num_tokens(self) -> int:
        return 2**self.depth + 1

    @property
    def num_classes(self) -> int:
        return 2**self.depth

    @property
    def local_layers(self) -> int:
        return self.depth + 1

    def sample(self, num_graphs: int, generator: torch.Generator) -> GraphBatch:
        leaves, size = 2**self.depth, 2 ** (self.depth + 1) - 1
        keys, values = (
            torch.rand(num_graphs, leaves, generator=generator).argsort(dim=1) for _ in range(2)
        )
        wanted = torch.randint(leaves, (num_graphs,), generator=generator)
        x = torch.zeros(num_graphs, size, 2, dtype=torch.int64)
        x[:, 0, 0] = wanted + 1
        x[:, leaves - 1 :, 0] = keys + 1
        x[:, leaves - 1 :, 1] = values + 1
        y = values[keys == wanted.unsqueeze(1)]
        child = torch.arange(1, size)
        tree = torch.stack([child, (child - 1) // 2])
        root = torch.arange(num_graphs) * size
        edge_index = (tree.unsqueeze(1) + root.view(1, -1, 1)).flatten(1)
        batch = torch.arange(num_graphs).repeat_interleave(size)
        return GraphBatch(x.flatten(0, 1), edge_index, batch, root, y)


@dataclass(frozen=True)
class DistantPartners:
    """Planted partition whose communities need to know of one another from afar.

    Communities form a ring: edges are dense inside one, sparse between neighbours, absent
    otherwise. Each has a random bit that only a few of its nodes, the sources, show. The class of
    every node is the bit of the community on the other side of the ring.
    """

    communities: int = 8
    size: int = 12
    sources: int = 2
    inside: float = 0.4
    between: float = 0.03

    name = "partners"
    num_classes = 2

    @property
    def num_tokens(self) -> int:
        return max(self.communities, 3)

    @property
    def local_layers(self) -> int:
        return self.communities // 2 + 3

    def planted(self, data: GraphBatch) -> Tensor:
        """The community of every node, int64 ``[n]``: what heads may take as a block."""
        return data.x[:, 0]

    def sample(self, num_graphs: int, generator: torch.Generator) -> GraphBatch:
        count = self.communities * self.size
        community = torch.arange(self.communities).repeat_interleave(self.size)
        step = (community.unsqueeze(1) - community).abs()
        step = torch.minimum(step, self.communities - step)
        prob = (step == 0) * self.inside + (step == 1) * self.between
        chosen = torch.rand(num_graphs, count, count, generator=generator) < prob.triu(1)
        graph, i, j = chosen.nonzero(as_tuple=True)
        i, j = i + graph * count, j + graph * count
        edge_index = torch.stack([torch.cat([i, j]), torch.cat([j, i])])

        bit = torch.randint(2, (num_graphs, self.communities), generator=generator)
        order = torch.rand(num_graphs, self.communities, self.size, generator=generator)
        source = order.argsort(dim=2) < self.sources
        shown = torch.where(source, bit.unsqueeze(2) + 1, 0).flatten()
        x = torch.stack([community.repeat(num_graphs), shown], dim=1)
        y = bit.roll(self.communities // 2, dims=1).repeat_interleave(self.size, dim=1).flatten()
        batch = torch.arange(num_graphs).repeat_interleave(count)
        return GraphBatch(x, edge_index, batch, torch.arange(y.numel()), y)


Task = TreeNeighboursMatch | DistantPartners
TASKS: dict[str, Task] = {
    **{f"tree-{depth}": TreeNeighboursMatch(depth) for depth in range(2, 8)},
    "partners": DistantPartners(),
}
