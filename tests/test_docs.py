"""Every example of the documentation runs, and every public object has a page.

The examples of the guide to PyG run each on its own, with the names that its text speaks of; those
of any other page one after the other.
"""

from __future__ import annotations

import ast
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
ROOT = DOCS.parent
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
TEXTS = sorted(
    [
        ROOT / "CONTRIBUTING.md",
        *(p for f in (".", "concepts", "guides", "api") for p in DOCS.glob(f"{f}/*.md")),
    ]
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
            entry = re.fullmatch(r"(?:   |\.\. data:: )(\w+)", line)
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


def test_written_values_are_those_of_the_code() -> None:
    text = (DOCS / "api" / "ops.md").read_text()
    written = re.findall(r"\.\. data:: (\w+)\n   :value: (.+)", text)
    assert len(written) == 4
    for name, value in written:
        assert ast.literal_eval(value) == getattr(importlib.import_module("sbmgraph.ops"), name)


def test_no_property_has_a_type_before_its_text() -> None:
    """Napoleon takes what stands before a colon in a property's first line for its type."""
    role = re.compile(r":[a-z:]+:`[^`]*`")
    found = []
    for path in (ROOT / "sbmgraph").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                "property" in ast.unparse(decorator) for decorator in node.decorator_list
            ):
                first = (ast.get_docstring(node) or "").split("\n")[0]
                if path.parts[-2] not in ("training", "report") and ":" in role.sub("", first):
                    found.append(f"{path.name}: {node.name}")
    assert not found


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: path.name)
def test_code_fits_the_width_of_a_page(page: Path) -> None:
    """At 1200 pixels, beside the menu, a line of code has room for 92 characters."""
    wide, fence = [], None
    for line in page.read_text().splitlines():
        if line.strip().startswith("```"):
            fence = line.strip() if fence is None else None
        elif fence is not None and "{" not in fence and len(line) > 92:
            wide.append(line)
    assert not wide


@pytest.mark.parametrize("page", [*TEXTS, ROOT / "README.md"], ids=lambda path: path.name)
def test_named_files_exist(page: Path) -> None:
    text = re.sub(r"\{doc\}`[^`]*`", "", page.read_text())
    named = re.findall(
        r"(?<![\w/-])((?:tests|tasks|benchmarks|docs|sbmgraph|notebooks)/[\w./*-]*\w)", text
    )
    assert not [name for name in named if not list(ROOT.glob(name))]
