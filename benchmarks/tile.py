"""Attention over bits in tiles, against the edge kernels and against full attention.

All run in turns within one process, forward and backward, and the table holds ratios to
``scaled_dot_product_attention``: of the smallest times, and in brackets of the medians; then
nanoseconds for a pair of a query and a key. ``step`` is sampling, forward and backward. One thread
is timed by the processor time it takes, several by the clock.

    python benchmarks/tile.py --nodes 4096 --heads 8 --densities .2 .4 .6 .8 .95 --clusters 32 128
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from sbmgraph.kernels.attention import cpu as edges
from sbmgraph.kernels.attention import cpu_backward as edges_backward
from sbmgraph.kernels.attention.inputs import Inputs, Needs
from sbmgraph.kernels.bits import Bits, bits_to_csr
from sbmgraph.kernels.csr import CSR
from sbmgraph.kernels.dense import cpu as dense
from sbmgraph.kernels.model import EdgeModel
from sbmgraph.kernels.options import Factors, Options
from sbmgraph.kernels.tile import cpu

EVERY = (True,) * 5


def random_model(nodes: list[int], heads: int, density: float, clusters: int) -> EdgeModel:
    """Graphs of these sizes whose pairs are edges with probabilities near ``density``."""
    ptr = torch.tensor([0, *nodes], dtype=torch.int64).cumsum(0)
    rate, member = (torch.rand(sum(nodes), heads, clusters) + 4 for _ in range(2))
    return EdgeModel(rate * (density / (clusters * 4.5**2)), member, ptr, ptr)


def in_turns(
    candidates: dict[str, Callable[[], None]], seconds: float
) -> dict[str, tuple[float, float]]:
    """The smallest and the median time of each, in ms."""
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 3:
        for name, run in candidates.items():
            start = clock()
            run()
            times[name].append(1e3 * (clock() - start))
    return {name: (min(t), statistics.median(t)) for name, t in times.items()}


def steps(
    nodes: list[int], heads: int, channels: int, density: float, clusters: int, with_edges: bool
) -> dict[str, Callable[[], None]]:
    """What is timed, by name."""
    model, n = random_model(nodes, heads, density, clusters), sum(nodes)
    sampled = dense.sample(model, "bernoulli", 0.0, 0)
    q, k, v, grad = (torch.randn(n, heads, channels) for _ in range(4))
    factors = Factors(model.rate, model.member)
    options = Options(channels**-0.5, 0.0, 0, "logit")

    def tile_forward() -> None:
        cpu.forward(q, k, v, sampled, options)

    def tile(bits: Bits = sampled) -> None:
        out, lse = cpu.forward(q, k, v, bits, options)
        cpu.backward(grad, q, k, v, factors, bits, out, lse, options, EVERY)

    def sample() -> None:
        dense.sample(model, "bernoulli", 0.0, 0)

    def step() -> None:
        tile(dense.sample(model, "bernoulli", 0.0, 0))

    runs = {"tile forward": tile_forward, "tile": tile, "sampling": sample, "step": step}
    if with_edges:
        csr = CSR(*bits_to_csr(sampled), model.query_ptr, model.key_ptr, heads)
        flat = [x.flatten(0, 1) for x in (q, k, v)]
        inputs = Inputs(*flat, csr, factors=factors)
        needs = Needs(True, True, True, bias=False, rate=True, member=True)

        def list_() -> None:
            results = edges.forward(*flat, csr, None, options)
            edges_backward.backward(grad.flatten(0, 1), inputs, results, options, needs)

        runs["edges"] = list_
    if len(set(nodes)) == 1:
        full, full_grad = (
            [x.view(len(nodes), -1, heads, channels).transpose(1, 2).contiguous() for x in tensors]
            for tensors in ((q, k, v), (grad,))
        )
        for x in full:
            x.requires_grad_()

        def full_forward() -> None:
            with torch.no_grad():
                torch.nn.functional.scaled_dot_product_attention(*full)

        def full_step() -> None:
            out = torch.nn.functional.scaled_dot_product_attention(*full)
            torch.autograd.grad(out, full, full_grad[0])

        runs |= {"full forward": full_forward, "full": full_step}
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=4096)
    parser.add_argument("--graphs", type=int, default=1)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8, 0.95])
    parser.add_argument("--clusters", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each line of the table")
    parser.add_argument("--no-edges", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    nodes = [args.nodes] * args.graphs
    pairs = sum(n * n for n in nodes) * args.heads
    print(f"{torch.get_num_threads()} threads; ratios to full attention: smallest (median)")
    for clusters in args.clusters:
        for density in args.densities:
            runs = steps(nodes, args.heads, args.channels, density, clusters, not args.no_edges)
            times = in_turns(runs, args.seconds)
            line = f"K {clusters:3d}  density {density:4.2f}"
            for name, (best, median) in times.items():
                anchor = times["full forward" if "forward" in name else "full"]
                ratio = f"{best / anchor[0]:.2f} ({median / anchor[1]:.2f})"
                line += f"  {name} {ratio} {1e6 * best / pairs:.2f} ns/pair"
            print(line, flush=True)


if __name__ == "__main__":
    main()
