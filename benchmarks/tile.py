"""Attention over bits in tiles, against the edge kernels and against full attention.

The three run in turns within one process, forward and backward, and the table holds ratios to
``scaled_dot_product_attention``: the smallest time of each, and in brackets the median.

    python benchmarks/tile.py --nodes 4096 --heads 8 --densities .2 .4 .6 .8 .95 --clusters 32 128
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sbmgraph.graph import SampledGraph
from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Factors, Options
from sbmgraph.kernels.tile import cpu, cpu_backward
from sbmgraph.ops import cpu as edges


def random_bits(nodes: list[int], heads: int, density: float) -> Bits:
    """Graphs of these sizes whose pairs are edges independently."""
    ptr = torch.tensor([0, *nodes], dtype=torch.int64).cumsum(0)
    words, starts = [], [0]
    for n in nodes:
        width = (n + 31) // 32
        edge = torch.zeros(n * heads, width * 32, dtype=torch.bool)
        edge[:, :n] = torch.rand(n * heads, n) < density
        bit = torch.ones(1, dtype=torch.int32) << torch.arange(32, dtype=torch.int32)
        words.append((edge.view(-1, 32).int() * bit).sum(-1, dtype=torch.int32))
        starts.append(starts[-1] + words[-1].numel())
    return Bits(torch.cat(words), torch.tensor(starts), ptr, ptr, heads)


def as_edges(bits: Bits) -> SampledGraph:
    """The same graphs as a list of edges."""
    columns, counts = [], []
    for g, (low, high) in enumerate(zip(bits.query_ptr[:-1], bits.query_ptr[1:], strict=True)):
        n = int(high - low)
        words = bits.words[bits.word_ptr[g] : bits.word_ptr[g + 1]].view(n * bits.heads, -1, 1)
        edge = ((words >> torch.arange(32, dtype=torch.int32)) & 1).bool().flatten(1)
        columns.append(edge.nonzero()[:, 1].int() + low.int())
        counts.append(edge.sum(1))
    rowptr = torch.zeros(sum(c.numel() for c in counts) + 1, dtype=torch.int64)
    torch.cumsum(torch.cat(counts), 0, out=rowptr[1:])
    return rowptr, torch.cat(columns)


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
    """Forward and backward passes by name."""
    bits, n = random_bits(nodes, heads, density), sum(nodes)
    q, k, v, grad = (torch.randn(n, heads, channels) for _ in range(4))
    factors = Factors(torch.rand(n, heads, clusters), torch.rand(n, heads, clusters))
    options = Options(channels**-0.5, 0.0, 0, "logit")

    def tile_forward() -> None:
        cpu.forward(q, k, v, bits, options)

    def tile() -> None:
        out, lse = cpu.forward(q, k, v, bits, options)
        cpu_backward.backward(grad, q, k, v, factors, bits, out, lse, options, (True,) * 5)

    runs = {"tile forward": tile_forward, "tile": tile}
    if with_edges:
        rowptr, col = as_edges(bits)
        flat = [x.flatten(0, 1) for x in (q, k, v)]
        scale = options.scale

        def list_() -> None:
            out, lse = edges.attention_forward(*flat, rowptr, col, heads, None, scale, 0.0, 0)
            edges.attention_backward(
                grad.flatten(0, 1), *flat, out, lse, rowptr, col, heads, None, None, None, None,
                *factors, None, scale, 0.0, 0, "logit", (True, True, True, False, True, True),
            )  # fmt: skip

        runs["edges"] = list_
    if len(set(nodes)) == 1:
        full = [
            x.view(len(nodes), -1, heads, channels).transpose(1, 2).contiguous().requires_grad_()
            for x in (q, k, v)
        ]
        full_grad: Tensor = grad.view(len(nodes), -1, heads, channels).transpose(1, 2).contiguous()

        def full_forward() -> None:
            with torch.no_grad():
                torch.nn.functional.scaled_dot_product_attention(*full)

        def full_step() -> None:
            out = torch.nn.functional.scaled_dot_product_attention(*full)
            torch.autograd.grad(out, full, full_grad)

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
