"""Importing sbmgraph is light and needs no extra; the public names are pinned."""

from __future__ import annotations

import subprocess
import sys

import sbmgraph
import sbmgraph.nn
import sbmgraph.ops

EXTRAS = (
    "matplotlib", "pandas", "plotly", "scipy", "jsonargparse", "lightning", "PIL", "tensorboard",
    "torchmetrics", "entmax", "linformer", "nystrom_attention", "performer_pytorch",
    "reformer_pytorch", "triton", "tokenizers", "transformers", "sklearn",
    "numba", "torch_scatter", "torch_sparse",
)  # fmt: skip


def test_public_names() -> None:
    assert {"SBM", "SampledGraph", "sample", "record"} <= set(sbmgraph.__all__)
    assert "edge_attention" in sbmgraph.ops.__all__
    assert {"SBMConv", "SBMAttention", "SBMTransformer"} <= set(sbmgraph.nn.__all__)
    for module in (sbmgraph, sbmgraph.nn, sbmgraph.ops):
        for name in module.__all__:
            assert hasattr(module, name), name


def test_import_needs_no_extra_and_loads_no_compiler() -> None:
    """In a fresh interpreter that has torch and PyG, and where importing any extra fails."""
    code = f"""
import sys
import torch, torch_geometric.nn

before = {{name.split(".")[0] for name in sys.modules}}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Refuse())
import sbmgraph, sbmgraph.nn, sbmgraph.ops, sbmgraph.sampling
loaded = sorted(({{name.split(".")[0] for name in sys.modules}} - before) & set({EXTRAS!r}))
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
