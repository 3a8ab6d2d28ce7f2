"""One big graph: peak memory and time of a two-layer GPS model, forward and backward on the CPU.

    python benchmarks/graph_scale.py

runs GPS with SBM attention on a random geometric graph of 200,000 nodes at a mean of 16 sampled
edges a node and head, and GPS with dense attention (PyG's GPSConv) on growing graphs for as long as
memory and time allow. Every measurement has a process of its own. Writes
``benchmarks/graph_scale.json`` and ``benchmarks/GRAPH_SCALE.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch_geometric
from torch import Tensor, nn
from torch.nn import functional as F

from sbmgraph.files import write_atomically

FOLDER = Path(__file__).parent
GIB = 2**30


def geometric_graph(num_nodes: int, degree: float, seed: int) -> Tensor:
    """Edges, both ways, of a random geometric graph in the unit square with a mean degree."""
    import numpy as np
    from scipy.spatial import cKDTree

    points = np.random.default_rng(seed).random((num_nodes, 2))
    radius = (degree / (num_nodes * np.pi)) ** 0.5
    pairs = torch.from_numpy(cKDTree(points).query_pairs(radius, output_type="ndarray")).long().T
    return torch.cat([pairs, pairs.flip(0)], dim=1)


def build(kind: str, args: argparse.Namespace) -> nn.Sequential:
    """Two GPS layers."""
    from torch_geometric.nn import GPSConv, SAGEConv, Sequential

    from sbmgraph.nn import GPSBlock

    layers = []
    for _ in range(2):
        local = SAGEConv(args.channels, args.channels)
        if kind == "sbm":
            options = {
                "num_clusters": args.clusters,
                "init_density": 2 * args.edges / args.nodes,
                "max_density": args.edges / args.nodes,
                "exploration": 0.0,
            }
            layer = GPSBlock(args.channels, local, heads=args.heads, attn_kwargs=options)
        else:
            layer = GPSConv(args.channels, local, heads=args.heads)
        layers.append((layer, "x, edge_index -> x"))
    return Sequential("x, edge_index", layers)


def measure(kind: str, args: argparse.Namespace) -> dict[str, float]:
    """Peak memory and times in this process; the first step compiles, the second is timed."""
    from sbmgraph import record

    torch.manual_seed(args.seed)
    edge_index = geometric_graph(args.nodes, degree=8.0, seed=args.seed)
    x = torch.randn(args.nodes, args.channels)
    y = torch.randint(args.channels, (args.nodes,))
    model = build(kind, args)
    start_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for _ in range(2):
        model.zero_grad()
        begin = time.perf_counter()
        with record(model) as runs:
            out = model(x, edge_index)
        middle = time.perf_counter()
        F.cross_entropy(out, y).backward()
        end = time.perf_counter()
    found = {
        "nodes": args.nodes,
        "given_edges": edge_index.size(1),
        "forward_seconds": middle - begin,
        "backward_seconds": end - middle,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "start_bytes": start_bytes,
    }
    if len(runs):
        edges = [run.graph.num_edges / (args.nodes * args.heads) for run in runs]
        found["edges_per_node_and_head"] = sum(edges) / len(edges)
    return found


def in_subprocess(kind: str, nodes: int, args: argparse.Namespace) -> dict[str, float] | str:
    """The measurement, or why there is none."""
    options = {**vars(args), "nodes": nodes, "measure": kind}
    command = [sys.executable, __file__]
    command += [f"--{name}={value}" for name, value in options.items()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.timeout)
    except subprocess.TimeoutExpired:
        return f"more than {args.timeout:g} s"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1][:200]
    return json.loads(done.stdout.splitlines()[-1])


def report(results: dict) -> str:
    """The results as Markdown."""
    lines = [
        "# One big graph",
        "",
        f"`{results['command']}` on {results['machine']}. Two GPS layers (SAGE as the local part, "
        f"{results['channels']} channels, {results['heads']} heads, K = {results['clusters']}), "
        "forward and backward; peak is the whole process's resident memory.",
        "",
        "| global attention | nodes | edges a node and head | forward (s) | backward (s) | "
        "peak (GiB) |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        found = row["found"]
        if isinstance(found, str):
            lines.append(f"| {row['kind']} | {row['nodes']:,} | | stopped: {found} | | |")
            continue
        edges = found.get("edges_per_node_and_head", found["nodes"])
        lines.append(
            f"| {row['kind']} | {row['nodes']:,} | {edges:,.1f} | {found['forward_seconds']:.1f} | "
            f"{found['backward_seconds']:.1f} | {found['peak_bytes'] / GIB:.2f} |"
        )
    return "\n".join([*lines, "", _dense_note(results)]) + "\n"


def _dense_note(results: dict) -> str:
    """What the dense model would take on the SBM model's graph."""
    found = {kind: [] for kind in ("sbm", "dense")}
    for row in results["rows"]:
        if not isinstance(row["found"], str):
            found[row["kind"]].append(row["found"])
    note = f"Load average at the start: {results['load']:.1f}."
    if not found["sbm"] or not found["dense"]:
        return note
    wanted, largest = found["sbm"][0]["nodes"], found["dense"][-1]
    seconds = largest["forward_seconds"] + largest["backward_seconds"]
    minutes = seconds * (wanted / largest["nodes"]) ** 2 / 60
    return (
        "PyTorch fuses dense attention on the CPU, so its memory is linear as well and time is "
        f"what limits it: by its quadratic cost {wanted:,} nodes would take about {minutes:.0f} "
        f"minutes a step (extrapolated from {largest['nodes']:,}). {note}"
    )


def main() -> None:
    """Runs the benchmark, or with ``--measure`` one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=200_000)
    parser.add_argument("--edges", type=float, default=16.0, help="mean sampled a node and head")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--clusters", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=float, default=8.0, help="GiB that may be used")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds a measurement")
    parser.add_argument("--measure", choices=["sbm", "dense"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args)))
        return

    load = os.getloadavg()[0]
    rows = [{"kind": "sbm", "nodes": args.nodes, "found": in_subprocess("sbm", args.nodes, args)}]
    nodes = 2048
    while True:
        found = in_subprocess("dense", nodes, args)
        rows.append({"kind": "dense", "nodes": nodes, "found": found})
        if isinstance(found, str) or found["peak_bytes"] > args.memory * GIB:
            break
        nodes *= 2
    results = {
        **{name: getattr(args, name) for name in ("channels", "heads", "clusters", "edges")},
        "command": shlex.join(["python", "benchmarks/graph_scale.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, "
        f"torch-geometric {torch_geometric.__version__}, {torch.get_num_threads()} threads",
        "load": load,
        "rows": rows,
    }
    write_atomically(FOLDER / "graph_scale.json", json.dumps(results, indent=1) + "\n")
    write_atomically(FOLDER / "GRAPH_SCALE.md", report(results))
    print(report(results))


if __name__ == "__main__":
    main()
