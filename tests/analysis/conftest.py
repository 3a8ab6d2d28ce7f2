from __future__ import annotations

import numpy as np
import pytest
import torch

from sbmgraph import SBM, sample
from sbmgraph.record import LayerSample


@pytest.fixture
def batched() -> SBM:
    """Three graphs of self-attention, one of them empty, two heads, four blocks."""
    generator = torch.Generator().manual_seed(1)
    batch = torch.tensor([0] * 9 + [2] * 14)
    factors = [torch.rand(23, 2, 4, generator=generator) for _ in range(2)]
    return SBM(*factors, torch.rand(2, 4, 4, generator=generator) / 12, batch, batch)


@pytest.fixture
def bipartite() -> SBM:
    """Two graphs with other numbers of queries than keys, three heads."""
    generator = torch.Generator().manual_seed(2)
    return SBM(
        torch.rand(12, 3, 4, generator=generator),
        torch.rand(17, 3, 4, generator=generator),
        torch.rand(3, 4, 4, generator=generator) / 12,
        torch.tensor([0] * 5 + [1] * 7),
        torch.tensor([0] * 11 + [1] * 6),
    )


@pytest.fixture
def runs(batched: SBM) -> list[LayerSample]:
    """Two layers, two samples each, as ``record`` would give them."""
    generator = torch.Generator().manual_seed(3)
    layer = torch.nn.Identity()
    return [
        LayerSample(
            name, layer, batched, sample(batched, exploration=0.1, generator=generator), 0.1
        )
        for name in ("layers.0", "layers.0", "layers.1", "layers.1")
    ]


@pytest.fixture
def dense():
    """The adjacency matrix of one head on one graph, [n, m], by loops over the global edge list."""

    def build(sampled, head, graph, values=None):
        query_low, query_high = sampled.query_ptr[graph : graph + 2].tolist()
        key_low, key_high = sampled.key_ptr[graph : graph + 2].tolist()
        out = np.zeros((query_high - query_low, key_high - key_low))
        edges = zip(*sampled.edge_index.tolist(), sampled.head.tolist(), strict=True)
        for edge, (key, query, h) in enumerate(edges):
            if h == head and query_low <= query < query_high:
                out[query - query_low, key - key_low] = 1.0 if values is None else values[edge]
        return out

    return build
