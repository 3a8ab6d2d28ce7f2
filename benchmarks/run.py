"""Measures sbmgraph beside its peers, in one process, and writes JSON and a Markdown table.

Usage: python benchmarks/run.py [--quick] [--only NAME ...] [--output DIR]

Alternatives of one measurement take turns, after a first round that warms up; the median counts.
Peak memory is that of a fresh process, less what it held before the measured step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch_geometric

import sbmgraph
from sbmgraph import SBM, SampledGraph, sample
from sbmgraph.files import write_atomically
from sbmgraph.nn import SBMAttention
from sbmgraph.ops import edge_attention

sys.path.insert(0, str(Path(__file__).parent))
import peers

N, D, H, K = 4096, 32, 8, 128
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# Measuring ########################################################################################


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def clock(function: Callable[[], Any]) -> float:
    synchronise()
    start = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - start


def compare(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each; they take turns."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(clock(function))
    return {name: median(found) for name, found in times.items()}


def peak_memory(*arguments: str) -> float:
    """Peak bytes that ``python run.py --child ...`` needs beyond what it holds before the step."""
    command = [sys.executable, __file__, "--child", *arguments]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    if out.returncode:
        raise RuntimeError(out.stderr)
    return float(out.stdout.split()[-1])


def random_sbm(n: int, heads: int, clusters: int, density: float, m: int | None = None) -> SBM:
    generator = torch.Generator().manual_seed(0)
    Y, Z = (
        torch.randn(size, heads, clusters, generator=generator).sigmoid() for size in (n, m or n)
    )
    B = torch.randn(heads, clusters**2, generator=generator).softmax(-1)
    sbm = SBM(Y, Z, B.view(heads, clusters, clusters))
    factor = density / float(sbm.expected_density().mean())
    return SBM(*(x.to(DEVICE) for x in (Y, Z, sbm.affinity * factor)))


def seeded_sample(sbm: SBM) -> SampledGraph:
    return sample(sbm, generator=torch.Generator(DEVICE).manual_seed(0))


def random_qkv(n: int) -> list[torch.Tensor]:
    return [torch.randn(n, H, D, device=DEVICE) for _ in range(3)]


def step(layer: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """One training step of a layer, without the optimiser."""

    def run() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x).square().mean().backward()

    return run


def sbm_layer(density: float, heads: int = H) -> SBMAttention:
    torch.manual_seed(0)
    return SBMAttention(heads * D, heads, num_clusters=K, init_density=density, exploration=0.0).to(
        DEVICE
    )


# Measurements #####################################################################################


def attention_forward(rounds: int) -> dict[str, Any]:
    out = {}
    for density in (0.01, 0.05):
        graph = seeded_sample(random_sbm(N, H, K, density))
        qkv = random_qkv(N)
        mask = torch.zeros(H, N, N, dtype=torch.bool, device=DEVICE)
        key, query = graph.edge_index
        mask[graph.head, query, key] = True
        functions = {
            "fused": lambda g=graph, x=qkv: edge_attention(*x, g, backend="fused"),
            "reference": lambda g=graph, x=qkv: edge_attention(*x, g, backend="reference"),
            "TransformerConv": peers.transformer_conv(*qkv, graph),
            "SDPA": peers.full_attention(*qkv),
            "SDPA with a boolean mask": peers.full_attention(*qkv, mask),
        }
        if DEVICE == "cpu":
            functions["sampled_addmm + CSR matmul"] = peers.sampled_addmm(*qkv, graph)
        else:
            functions["FlexAttention"] = peers.flex_attention(*qkv, mask)
        with torch.no_grad():
            times = compare(functions, rounds)
        out[f"{density:.0%}"] = {"edges": graph.num_edges, "seconds": times}
    return out


def attention_backward(rounds: int) -> dict[str, Any]:
    out = {}
    for density in (0.01, 0.05):
        sbm = random_sbm(N, H, K, density)
        graph = seeded_sample(sbm)
        leaves = [x.requires_grad_() for x in random_qkv(N)]
        # One head after the other in memory, as the membership network hands them over.
        factors = [
            x.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
            for x in (sbm.query_membership, sbm.key_membership)
        ]
        factors.append(sbm.affinity.clone().requires_grad_())

        def run(backend: str, g=graph, x=leaves, f=factors) -> None:
            g.__dict__.pop("_kept__csc", None)
            for leaf in (*x, *f):
                leaf.grad = None
            edge_attention(*x, g, SBM.unchecked(*f), backend=backend).sum().backward()

        times = compare(
            {"fused": lambda r=run: r("fused"), "reference": lambda r=run: r("reference")}, rounds
        )
        out[f"{density:.0%}"] = {"edges": graph.num_edges, "seconds": times}
    return out


def sampling(rounds: int) -> dict[str, Any]:
    out = {}
    problems = {f"{density:.0%}": random_sbm(N, H, K, density) for density in (0.01, 0.05, 0.2)}
    problems["5 M edges among 500,000 nodes, K = 5"] = random_sbm(500_000, 1, 5, 2e-5)
    for name, sbm in problems.items():
        _ = sbm.rate
        functions = {"fastrg": lambda s=sbm: sample(s, algorithm="fastrg")}
        if sbm.num_queries <= N:
            functions["dense"] = lambda s=sbm: sample(s, algorithm="dense")
            functions["auto"] = lambda s=sbm: sample(s)
        if DEVICE == "cpu" and name != "20%":
            functions["textbook fastRG"] = lambda s=sbm: peers.textbook_fastrg(s)
        if sbm.num_queries <= N:
            functions["rand < P, nonzero"] = lambda s=sbm: peers.naive_dense_sample(s)
        times = compare(functions, rounds)
        out[name] = {"edges": float(sbm.expected_edges().sum()), "seconds": times}
    return out


def layer_step(rounds: int) -> dict[str, Any]:
    x = torch.randn(N, H * D, device=DEVICE)
    torch.manual_seed(0)
    functions = {
        "SBM layer, 20%": step(sbm_layer(0.2), x),
        "SBM layer, 1%": step(sbm_layer(0.01), x),
        "dense masked form, 20%": step(peers.DenseSBMAttention(H * D, H, K, 0.2).to(DEVICE), x),
        "full attention (SDPA)": step(peers.FullAttention(H * D, H).to(DEVICE), x),
    }
    times = compare(functions, rounds)
    memory = {}
    if DEVICE == "cpu":
        memory = {
            "SBM layer, 20%": peak_memory("sbm", str(N), "0.2"),
            "dense masked form, 20%": peak_memory("dense", str(N), "0.2"),
        }
    return {"seconds": times, "peak_bytes": memory}


def crossover(rounds: int, sizes: tuple[int, ...]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for n in sizes:
        x = torch.randn(n, H * D, device=DEVICE)
        densities = (0.005, 0.01, 0.02, 0.05, 0.1) if n < 16384 else (0.01, 0.02, 0.05)
        functions = {f"{density:g}": step(sbm_layer(density), x) for density in densities}
        functions["full"] = step(peers.FullAttention(H * D, H).to(DEVICE), x)
        times = compare(functions, max(rounds if n <= 4096 else 1, 1))
        full = times.pop("full")
        meets = density_at(full, {float(name): found for name, found in times.items()})
        out[str(n)] = {"full": full, "seconds": times, "crossover": meets}
    return out


def density_at(seconds: float, found: dict[float, float]) -> float:
    """The density whose step takes ``seconds``, between the measured ones; 0 where even the lowest
    takes longer, and that of a straight line where even the highest takes less."""
    grid, times = np.array(list(found)), np.maximum.accumulate(list(found.values()))
    if times[0] >= seconds:
        return 0.0
    if times[-1] <= seconds:
        slope, start = np.polyfit(grid, times, 1)
        return float(np.clip((seconds - start) / slope, 0.0, 1.0)) if slope > 0 else 1.0
    return float(np.interp(seconds, times, grid))


def edges_scaling(rounds: int, largest: int) -> dict[str, Any]:
    n = 16384
    out = {}
    qkv = [x.requires_grad_() for x in random_qkv(n)]
    edges = 10**5
    while edges <= largest:
        sbm = random_sbm(n, H, 16, edges / (n * n * H))
        graph = seeded_sample(sbm)
        del sbm

        def run(g=graph) -> None:
            g.__dict__.pop("_kept__csc", None)
            edge_attention(*qkv, g, backend="fused").sum().backward()

        out[str(graph.num_edges)] = compare({"step": run}, rounds if edges < 10**8 else 1)["step"]
        del graph, run
        edges *= 10
    size, seconds = np.array([float(e) for e in out]), np.array(list(out.values()))
    exponent = np.polyfit(np.log(size), np.log(seconds), 1)[0]
    tail = np.polyfit(np.log(size[-3:]), np.log(seconds[-3:]), 1)[0]
    return {"seconds": out, "exponent": float(exponent), "exponent of the last three": float(tail)}


def memory_scaling(sizes: tuple[int, ...]) -> dict[str, Any]:
    """Forward and backward at 64 edges for each node and head."""
    out = {str(n): peak_memory("attention", str(n), str(64 / n)) for n in sizes}
    x, y = np.array([float(n) for n in out]), np.array(list(out.values()))
    slope, offset = np.polyfit(x, y, 1)
    residual = float(np.abs(y - slope * x - offset).max() / y.max())
    return {
        "peak_bytes": out,
        "bytes a node": float(slope),
        "offset": float(offset),
        "largest deviation from the line": residual,
    }


def large_layer() -> dict[str, Any]:
    return {"peak_bytes": peak_memory("sbm", "65536", "0.001")}


def child(kind: str, n: int, density: float) -> None:
    """Prints the peak memory of one step in this fresh process."""
    step(sbm_layer(0.25), torch.randn(64, H * D))()  # compiled code is loaded
    if kind == "attention":
        sbm = random_sbm(n, H, 16, density)
        graph = seeded_sample(sbm)
        qkv = [x.requires_grad_() for x in random_qkv(n)]
        factors = (sbm.query_membership, sbm.key_membership, sbm.affinity)
        leaves = [x.requires_grad_() for x in factors]
        before = resident()
        edge_attention(*qkv, graph, SBM.unchecked(*leaves)).sum().backward()
    else:
        layer = sbm_layer(density)
        if kind == "dense":
            layer = peers.DenseSBMAttention(H * D, H, K, density)
        x = torch.randn(n, H * D)
        before = resident()
        step(layer, x)()
    print(resident("VmHWM") - before)


def resident(field: str = "VmRSS") -> int:
    """Resident bytes of this process, now or (``VmHWM``) at most. A child's ``ru_maxrss`` would
    start from its parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in status if x.startswith(field))


# Report ###########################################################################################


def ratio(seconds: dict[str, float], slow: str, fast: str) -> str:
    return f"{seconds[slow] / seconds[fast]:.1f}×"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def ratios(results: dict[str, Any]) -> list[list[str]]:
    """The rows of the summary: measure, target, found."""
    rows = []
    for part, slow, target in (
        ("attention forward", "TransformerConv", "25×"),
        ("attention forward and backward", "reference", "20×"),
    ):
        for density, found in results.get(part, {}).items():
            rows.append(
                [f"{part}, {density}: fused against {slow}", target,
                 ratio(found["seconds"], slow, "fused")]
            )  # fmt: skip
    for name, found in results.get("sampling", {}).items():
        if "textbook fastRG" in found["seconds"]:
            value = ratio(found["seconds"], "textbook fastRG", "fastrg")
            rows.append([f"fastRG, {name}: against textbook fastRG", "8×", value])
    if "layer step" in results:
        found = results["layer step"]
        seconds, memory = found["seconds"], found["peak_bytes"]
        dense = "dense masked form, 20%"
        value = ratio(seconds, dense, "SBM layer, 20%")
        rows.append(["layer step at 20 %: against the dense masked form", "3×, aim 5×", value])
        if memory:
            value = ratio(memory, dense, "SBM layer, 20%")
            rows.append(["its peak memory: against the dense masked form", "5×", value])
        value = ratio(seconds, "full attention (SDPA)", "SBM layer, 1%")
        rows.append(["layer step at 1 %: against full attention (SDPA)", "over 1×", value])
    aims = {"4096": "aim 5 %", "16384": "aim 10 %"}
    for n, found in results.get("crossover", {}).items():
        value = f"{found['crossover']:.1%}"
        rows.append([f"density below which the step beats SDPA, n = {n}", aims.get(n, "-"), value])
    if "large layer" in results:
        value = f"{results['large layer']['peak_bytes'] / 2**30:.2f} GiB"
        rows.append(["n = 65,536 at 0.1 %, 8 heads, one step: peak memory", "6 GiB", value])
    if "edges" in results:
        found = results["edges"]
        tail = found["exponent of the last three"]
        value = f"{found['exponent']:.2f} ({tail:.2f} for the last three)"
        rows.append(["time against edges: fitted exponent", "≤ 1.1", value])
    if "memory" in results:
        found = results["memory"]
        value = f"{found['bytes a node'] / 1024:.0f} KiB a node, off the line by at most "
        value += f"{found['largest deviation from the line']:.1%}"
        rows.append(["peak memory against nodes, 64 edges a node and head", "a line", value])
    if DEVICE == "cpu":
        rows.append(["GPU rows", "see benchmarks/run.py", "not measured (no GPU)"])
    return rows


def markdown(results: dict[str, Any]) -> str:
    lines = ["# Benchmarks", "", "Ratios first; each compares medians of runs that took turns.", ""]
    lines += table(["measure", "target", "found"], ratios(results))
    for key, value in results["machine"].items():
        lines.append(f"- {key}: {value}")
    lines += ["", f"n = {N}, d = {D}, H = {H}, K = {K} unless said.", ""]
    for part in ("attention forward", "attention forward and backward", "sampling"):
        rows = [
            [name, f"{found['edges']:.3g}", other, milliseconds(seconds),
             f"{found['edges'] / seconds / 1e6:.1f}"]
            for name, found in results.get(part, {}).items()
            for other, seconds in found["seconds"].items()
        ]  # fmt: skip
        if rows:
            lines += [f"## {part.capitalize()}", ""]
            lines += table(["density", "edges", "what", "median", "M edges/s"], rows)
    if "layer step" in results:
        found = results["layer step"]
        lines += ["## One training step of a layer", ""]
        rows = [
            [name, milliseconds(seconds),
             f"{found['peak_bytes'][name] / 2**30:.2f} GiB" if name in found["peak_bytes"] else "-"]
            for name, seconds in found["seconds"].items()
        ]  # fmt: skip
        lines += table(["layer", "median", "peak memory"], rows)
    if "crossover" in results:
        lines += ["## Step time by density", ""]
        rows = [
            [n, milliseconds(found["full"]),
             ", ".join(f"{float(d):.1%}: {milliseconds(s)}" for d, s in found["seconds"].items())]
            for n, found in results["crossover"].items()
        ]  # fmt: skip
        lines += table(["n", "full attention (SDPA)", "SBM layer"], rows)
    if "edges" in results:
        lines += ["## Attention forward and backward by edges (n = 16,384)", ""]
        rows = [
            [f"{int(edges):,}", milliseconds(seconds)]
            for edges, seconds in results["edges"]["seconds"].items()
        ]
        lines += table(["edges", "median"], rows)
    if "memory" in results:
        lines += ["## Peak memory of attention forward and backward", ""]
        rows = [
            [n, f"{found / 2**20:.0f} MiB"] for n, found in results["memory"]["peak_bytes"].items()
        ]
        lines += table(["n", "peak"], rows)
    return "\n".join(lines)


def machine(command: str) -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    import numba

    return {
        "processor": name,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, PyG "
        f"{torch_geometric.__version__}, Numba {numba.__version__}, sbmgraph "
        f"{sbmgraph.__version__}",
        "command": command,
        "load average at the start": f"{os.getloadavg()[0]:.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--only", nargs="*", help="names of the parts to run")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--child", nargs=3, metavar=("KIND", "N", "DENSITY"), help="internal")
    args = parser.parse_args()
    if args.child:
        child(args.child[0], int(args.child[1]), float(args.child[2]))
        return
    rounds = 3
    sizes = (1024, 2048, 4096) if args.quick else (1024, 2048, 4096, 8192, 16384)
    parts: dict[str, Callable[[], Any]] = {
        "attention forward": lambda: attention_forward(rounds),
        "attention forward and backward": lambda: attention_backward(rounds),
        "sampling": lambda: sampling(3),
        "layer step": lambda: layer_step(3),
        "crossover": lambda: crossover(3, sizes),
        "edges": lambda: edges_scaling(3, 10**6 if args.quick else 10**8),
    }
    if DEVICE == "cpu":
        nodes = (2048, 4096, 8192) if args.quick else (2048, 4096, 8192, 16384, 32768)
        parts["memory"] = lambda: memory_scaling(nodes)
        if not args.quick:
            parts["large layer"] = large_layer
    if unknown := set(args.only or ()) - set(parts):
        parser.error(f"--only must name parts among {list(parts)}, got {sorted(unknown)}")
    flags = ["--quick"] * args.quick + (
        ["--only", *map(shlex.quote, args.only)] if args.only else []
    )
    command = " ".join(["python benchmarks/run.py", *flags])
    results: dict[str, Any] = {"machine": machine(command)}
    args.output.mkdir(parents=True, exist_ok=True)
    for name, run in parts.items():
        if args.only and name not in args.only:
            continue
        start = time.perf_counter()
        results[name] = run()
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        write_atomically(args.output / "results.json", json.dumps(results, indent=2) + "\n")
        write_atomically(args.output / "RESULTS.md", markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
