"""Every example of the documentation runs, and every public object has a page.

The examples of the guide to PyG run each on its own, with the names that its text speaks of; those
of any other page one after the other.
"""

from __future__ import annotations

import importlib
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

DOCS = Path(__file__).parents[1] / "docs"
GUIDE = DOCS / "pyg.md"
FENCE = re.compile(r"^ *```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
BLOCKS = FENCE.findall(GUIDE.read_text())
# kernels.md quotes the source.
PAGES = sorted(
    path
    for folder in (DOCS, DOCS / "concepts", DOCS / "guides")
    for path in folder.glob("*.md")
    if path.name not in ("pyg.md", "kernels.md") and FENCE.search(path.read_text())
)
PACKAGES = (
    "sbmgraph",
    "sbmgraph.analysis",
    "sbmgraph.data",
    "sbmgraph.nn",
    "sbmgraph.nn.baselines",
    "sbmgraph.ops",
    "sbmgraph.training",
    "sbmgraph.viz",
    "sbmgraph.viz.report",
)
# Tables that the text of a page describes.
NO_PAGE = {"sbmgraph.__version__", "sbmgraph.data.TASKS", "sbmgraph.data.GLUE_TASKS"}


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


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text()
    if page.stem == "huggingface":
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in FENCE.findall(text):
        exec(compile(textwrap.dedent(block), str(page), "exec"), names)


def pages() -> set[str]:
    """The full names of all objects that the reference has a page of."""
    found = set()
    for path in (DOCS / "api").glob("*.md"):
        module = ""
        for line in path.read_text().splitlines():
            heading = re.fullmatch(r"\.\. currentmodule:: (\S+)", line)
            entry = re.fullmatch(r"   (\w+)", line)
            if heading:
                module = heading[1]
            elif entry:
                found.add(f"{module}.{entry[1]}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_object_has_a_page(package: str) -> None:
    pytest.importorskip("lightning" if package.endswith("training") else "torch")
    public = {f"{package}.{name}" for name in importlib.import_module(package).__all__}
    assert public - NO_PAGE <= pages()


def test_every_page_has_an_object() -> None:
    for name in pages():
        module, _, attribute = name.rpartition(".")
        if module == "sbmgraph.hf":
            pytest.importorskip("transformers")
        assert hasattr(importlib.import_module(module), attribute), name
