"""Fits the cost model by which ``sample(algorithm="auto")`` chooses.

Usage: python benchmarks/fit_cost.py

Prints the four numbers of ``COSTS`` in ``sbmgraph/sampling/sample.py``: nanoseconds of one core.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
import torch
from scipy.optimize import nnls

from sbmgraph import SBM
from sbmgraph.sampling import cpu


def seconds(run, sbm: SBM) -> float:
    """The quicker of three runs after a first one, in CPU time of this thread."""
    best = float("inf")
    for attempt in range(4):
        start = time.thread_time()
        run(sbm, "bernoulli", 0.0, attempt)
        best = min(best, time.thread_time() - start) if attempt else best
    return best


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: dict[str, list] = {"fastrg": [], "dense": []}
    for n, clusters, density in itertools.product((512, 2048), (16, 128), (0.01, 0.05, 0.2)):
        heads = 4
        Y, Z = (torch.randn(n, heads, clusters).sigmoid() for _ in range(2))
        B = torch.randn(heads, clusters**2).softmax(-1).view(heads, clusters, clusters)
        sbm = SBM(Y, Z, B * (4 * density))
        pairs, blocks = n * n * heads, 2 * n * heads * clusters
        edges = float(sbm.expected_edges().sum())
        rows["fastrg"].append((edges, blocks, seconds(cpu.sample_fastrg, sbm)))
        rows["dense"].append((pairs, pairs * clusters, seconds(cpu.sample_dense, sbm)))
    found: list[float] = []
    for measured in rows.values():
        table = np.array(measured)
        # Relative errors count, so that small problems matter as much as large ones.
        scaled = table[:, :2] / table[:, 2:]
        found += list(nnls(scaled, np.ones(len(table)))[0] * 1e9)
    print("COSTS = (" + ", ".join(f"{x:.3g}" for x in found) + ")")


if __name__ == "__main__":
    main()
