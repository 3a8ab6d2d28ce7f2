"""Every example of the guide runs, each on its own, with the names that its text speaks of."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.nn import GCNConv

from sbmgraph import record
from sbmgraph.nn import GPSBlock, SBMConv

GUIDE = Path(__file__).parents[1] / "docs" / "pyg.md"
BLOCKS = re.findall(r"^ *```python\n(.*?)^ *```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = GPSBlock(64, GCNConv(64, 64), heads=4, attn_kwargs={"num_clusters": 4})
        self.lin = nn.Linear(64, 3)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        return self.lin(self.block(x, edge_index, batch))


def hetero() -> HeteroData:
    data = HeteroData()
    for kind in ("a", "b"):
        data[kind].x = torch.randn(6, 5)
        data[kind].batch = torch.tensor([0, 0, 0, 1, 1, 1])
    for kinds in (("a", "to", "b"), ("b", "to", "a")):
        data[kinds].edge_index = torch.tensor([[0, 4], [1, 5]])
    return data


def namespace(block: str) -> dict[str, Any]:
    graphs = [
        Data(x=torch.randn(n, 64), edge_index=torch.tensor([[0, 1], [1, 2]]), pe=torch.randn(n, 20))
        for n in (5, 4)
    ]
    data = hetero() if "HeteroConv" in block else Batch.from_data_list(graphs)
    found: dict[str, Any] = {"data": data, "model": Model(), "record": record, "SBMConv": SBMConv}
    found["criterion"] = nn.CrossEntropyLoss()
    if isinstance(data, Batch):
        data.y = torch.zeros(9, dtype=torch.int64)
        found |= {"x": data.x, "edge_index": data.edge_index, "batch": data.batch}
        found["edge_attr"] = torch.randn(4, 8 if "edge_dim" in block else 64)
        found["mlp"] = nn.Sequential(nn.Linear(64, 64))
    sources = {"n_src": 9, "n_dst": 4, "batch_src": torch.zeros(9, dtype=torch.int64)}
    sources |= {"x_src": torch.randn(9, 64), "x_dst": torch.randn(4, 64)}
    return found | sources | {"batch_dst": torch.zeros(4, dtype=torch.int64)}


def test_the_guide_has_examples() -> None:
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_example_runs(block: str) -> None:
    exec(compile(textwrap.dedent(block), str(GUIDE), "exec"), namespace(block))
