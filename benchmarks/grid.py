"""Is the automatic choice of algorithm and layout right? A step by density, forced and chosen.

Usage: python benchmarks/grid.py [--rounds 3] [--sizes 256 1024 4096 16384] [--output grid.json]

A step draws a graph and attends over it forward and backward, the gradients of memberships and
affinity included, with 32 channels a head. The three forms of a step (fastRG to lists, dense to
lists, dense to tiles), the automatic choice and full attention (``scaled_dot_product_attention``,
forward and backward) take turns; the quickest of each counts (half as many turns from 4,096 nodes
on). Prints one row a point: the automatic choice over the best forced one, and the forced form that
it took over the best one: the choice's worth, without the noise of timing one program twice.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import torch
from run import DEVICE, clock, random_sbm

from sbmgraph import SBM, sample
from sbmgraph.files import write_atomically
from sbmgraph.ops import edge_attention
from sbmgraph.ops.cost import FORMS
from sbmgraph.ops.sample import choose, size_of

DENSITIES = (0.005, 0.02, 0.1, 0.3, 0.6, 0.95)
CHANNELS = 32
HEADS = {256: 8, 1024: 8, 4096: 8, 16384: 1}


def step(
    factors: tuple[torch.Tensor, ...], leaves: list[torch.Tensor], algorithm: str, layout: str
) -> Callable[[], None]:
    """One step from the factors on, in a given form."""
    inputs = (*leaves, *factors)

    def run() -> None:
        sbm = SBM.unchecked(*factors)
        graph = sample(sbm, algorithm=algorithm, layout=layout, channels=CHANNELS)
        out = edge_attention(*leaves, graph, sbm)
        torch.autograd.grad(out.sum(), inputs)

    return run


def full_step(leaves: list[torch.Tensor]) -> Callable[[], None]:
    """Full attention forward and backward."""

    def run() -> None:
        out = peers.full_attention(*leaves)()
        torch.autograd.grad(out.sum(), leaves)

    return run


def point(n: int, density: float, clusters: int, rounds: int) -> dict[str, Any]:
    """Seconds of every form, of the choice and of full attention."""
    heads = HEADS.get(n, 1)
    sbm = random_sbm(n, heads, clusters, density)
    factors = tuple(
        x.detach().requires_grad_()
        for x in (sbm.query_membership, sbm.key_membership, sbm.affinity)
    )
    leaves = [torch.randn(n, heads, CHANNELS, device=DEVICE).requires_grad_() for _ in range(3)]
    steps = {
        form: step(factors, leaves, *choices)
        for form, choices in FORMS.items()
        if form != "listed" or density <= 0.3  # beyond, fastRG leaves its rows to the dense sampler
    }
    steps |= {"auto": step(factors, leaves, "auto", "auto"), "full": full_step(leaves)}
    with torch.no_grad():
        size = size_of(SBM.unchecked(*factors), 0.0, CHANNELS)
        choice = choose(SBM.unchecked(*factors), size, "auto", "auto", torch.float32)
        chosen = next(form for form, choices in FORMS.items() if choices == choice)
    times = dict.fromkeys(steps, float("inf"))
    for turn in range(rounds + 1):
        for name, function in steps.items():
            taken = clock(function)
            times[name] = min(times[name], taken) if turn else times[name]
    best = min(times[form] for form in FORMS if form in times)
    return {
        "n": n, "heads": heads, "density": density, "clusters": clusters, "seconds": times,
        "form": chosen, "auto / best": times["auto"] / best,
        "form / best": times[chosen] / best, "auto / full": times["auto"] / times["full"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(HEADS))
    parser.add_argument("--clusters", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--densities", type=float, nargs="+", default=list(DENSITIES))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    print(
        "| n | heads | K | density | listed | thinned | tiled | auto | form | auto / best "
        "| form / best | auto / full |"
    )
    print("|---" * 12 + "|")
    points = []
    for n, clusters, density in itertools.product(args.sizes, args.clusters, args.densities):
        found = point(n, density, clusters, args.rounds if n < 4096 else max(1, args.rounds // 2))
        points.append(found)
        times = [found["seconds"].get(form) for form in (*FORMS, "auto")]
        cells = ["–" if t is None else f"{1e3 * t:.1f} ms" for t in times]
        print(
            f"| {n} | {found['heads']} | {clusters} | {density:.1%} | {' | '.join(cells)} | "
            f"{found['form']} | {found['auto / best']:.2f} | {found['form / best']:.2f} | "
            f"{found['auto / full']:.2f} |",
            flush=True,
        )
        if args.output:
            write_atomically(args.output, json.dumps(points, indent=1))


if __name__ == "__main__":
    main()
