"""Fits the model of cost by which ``sample(algorithm="auto", layout="auto")`` chooses.

Usage: python benchmarks/fit_cost.py [--rounds 3] [--dtype bfloat16] [--points FILE]

Times every part of a step over a grid of sizes, densities, blocks and channels, fits the
coefficients with non-negative least squares of the relative errors, and prints them as
``sbmgraph/ops/cost.py`` holds them, with the worst relative error of each part. Times are those of
the whole machine at the threads that torch uses.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run import DEVICE, random_sbm, synchronise
from scipy.optimize import nnls

from sbmgraph import SBM, SampledGraph
from sbmgraph.kernels import dense, fastrg
from sbmgraph.kernels.bits import bits_to_csr
from sbmgraph.kernels.model import EdgeModel
from sbmgraph.ops import edge_attention
from sbmgraph.ops.cost import Part, Size

COLUMNS = {
    "fastrg": ("edge", "edge_block", "node", "node_block", "call"),
    "dense": ("pair", "pair_block", "node", "call"),
    "listing": ("edge", "pair", "call"),
    "edges": ("edge", "edge_block", "edge_channel", "node_block", "call"),
    "tiles": ("pair", "pair_block", "pair_channel", "edge", "node_block", "call"),
}
"""What each part's cost is made of."""


def seconds(function: Callable[[], Any], rounds: int) -> float:
    """The quickest of some runs after a first one."""
    best = float("inf")
    for attempt in range(rounds + 1):
        synchronise()
        start = time.perf_counter()
        function()
        synchronise()
        best = min(best, time.perf_counter() - start) if attempt else best
    return best


def training_step(
    sbm: SBM, graph: SampledGraph, qkv: list[torch.Tensor], backend: str
) -> Callable[[], None]:
    """Attention forward and backward, the gate's gradient and what it transposes included."""
    leaves = [x.detach().requires_grad_() for x in qkv]
    factors = (sbm.query_membership, sbm.key_membership, sbm.affinity)
    model = SBM.unchecked(*(x.detach().requires_grad_() for x in factors))

    def run() -> None:
        fresh = SampledGraph(graph.nodes, graph.bits if backend == "tile" else graph.csr)
        out = edge_attention(*leaves, fresh, model, backend=backend)
        torch.autograd.grad(out.sum(), (*leaves, model.query_membership, model.key_membership))

    return run


def measure(
    n: int, density: float, clusters: int, channels: int, rounds: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Seconds of every part at one point of the grid."""
    heads = max(1, min(8, 8192 // n)) if DEVICE == "cpu" else 8
    sbm = random_sbm(n, heads, clusters, density)
    model = EdgeModel(sbm.rate, sbm.key_membership, sbm.query_ptr, sbm.key_ptr)
    qkv = [torch.randn(n, heads, channels, device=DEVICE, dtype=dtype) for _ in range(3)]
    bits = dense.sample(model, "bernoulli", 0.0, 0)
    tiled = SampledGraph(sbm.nodes, bits)
    listed = SampledGraph(sbm.nodes, tiled.csr)
    size = Size(listed.num_edges, n * n * heads, 2 * n * heads, clusters, channels)
    functions: dict[str, Callable[[], Any]] = {
        "dense": lambda: dense.sample(model, "bernoulli", 0.0, 0),
        "listing": lambda: bits_to_csr(bits),
        "edges": training_step(sbm, listed, qkv, "fused"),
        "tiles": training_step(sbm, tiled, qkv, "tile"),
    }
    if density <= 0.3:
        functions["fastrg"] = lambda: fastrg.sample(model, "bernoulli", 0.0, 0)
    return {"size": size, "seconds": {k: seconds(f, rounds) for k, f in functions.items()}}


def fit(part: str, points: list[dict[str, Any]]) -> tuple[Part, float]:
    """The coefficients of one part in nanoseconds, and its worst relative error."""
    rows, times = [], []
    for point in points:
        if part in point["seconds"]:
            unit = [Part(**{column: 1.0}).of(point["size"]) for column in COLUMNS[part]]
            times.append(point["seconds"][part])
            rows.append(np.array(unit) / times[-1])
    table = np.array(rows)
    scale = table.max(axis=0)
    found = nnls(table / scale, np.ones(len(table)))[0] / scale
    error = float(np.abs(table @ found - 1).max())
    return Part(**dict(zip(COLUMNS[part], (found * 1e9).tolist(), strict=True))), error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--points", type=Path, help="file for what was measured")
    chosen = parser.parse_args()
    rounds, dtype = chosen.rounds, getattr(torch, chosen.dtype)
    torch.manual_seed(0)
    grid = itertools.product((256, 1024, 4096), (0.005, 0.03, 0.2, 0.8), (32, 128), (32,))
    more = [(1024, 0.2, 32, 64), (1024, 0.8, 32, 64)]
    if DEVICE == "cuda":
        more += [(16384, density, 128, 32) for density in (0.005, 0.03, 0.2, 0.8)]
    points = [measure(*sizes, rounds, dtype) for sizes in (*grid, *more)]
    if chosen.points is not None:
        chosen.points.write_text(json.dumps(points))
    for part in COLUMNS:
        found, error = fit(part, points)
        given = {k: float(f"{v:.3g}") for k, v in found._asdict().items() if v > 0}
        listing = ", ".join(f"{key}={value:g}" for key, value in given.items())
        print(f"    {part}=Part({listing}),  # relative error at most {error:.0%}")


if __name__ == "__main__":
    main()
