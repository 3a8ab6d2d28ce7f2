"""Tile sizes tried for every tile kernel, on a GPU: what ``gpu_sizes.py`` chooses from.

Compiling is most of the work, so that processes side by side compile into Triton's cache first::

    for i in 0 1 2 3; do python benchmarks/gpu_tune.py --compile $i 4 & done; wait
    python benchmarks/gpu_tune.py --output benchmarks/gpu_tune.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.gpu_parts import SIZES, Run, draw, inputs, model_of_density  # noqa: E402
from sbmgraph import SBM  # noqa: E402
from sbmgraph.kernels.bits import Bits  # noqa: E402
from sbmgraph.kernels.dense import gpu as dense  # noqa: E402
from sbmgraph.kernels.options import Factors, Options  # noqa: E402
from sbmgraph.kernels.tile import gpu, gpu_backward, gpu_sizes  # noqa: E402
from sbmgraph.kernels.tile.gpu_sizes import Sizes  # noqa: E402


class Case(NamedTuple):
    """A kernel with one choice of sizes: ``run`` launches it."""

    kernel: str
    dtype: str
    sizes: tuple[int, ...]
    run: Callable[[], object]


TILES = {
    ("forward", "bfloat16"): [(128, 128, 8), (128, 64, 8), (128, 64, 4), (64, 128, 4), (64, 64, 4)],
    ("query", "bfloat16"): [(128, 64, 8), (64, 64, 4), (64, 64, 8), (128, 32, 8), (64, 32, 4)],
    ("key", "bfloat16"): [(64, 64, 8), (64, 64, 4), (64, 128, 8), (32, 64, 4), (32, 128, 8)],
    ("forward", "float32"): [(64, 64, 8), (64, 64, 4), (32, 64, 4), (64, 32, 4), (128, 32, 8)],
    ("query", "float32"): [(64, 32, 8), (64, 32, 4), (32, 32, 4), (32, 64, 4), (64, 64, 8)],
    ("key", "float32"): [(32, 64, 8), (32, 32, 4), (32, 32, 8), (32, 64, 4), (64, 64, 8)],
}
SAMPLER = [(64, 64, 4), (64, 64, 8), (128, 64, 8), (64, 128, 8), (128, 128, 8), (32, 64, 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", nargs=2, type=int, metavar=("I", "OF"), help="only run each")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("gpu_tune.jsonl"))
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    chosen = parser.parse_args()
    run = Run("tune", SIZES[chosen.size], chosen.device, chosen.output)
    cases = tile_cases(run), sampler_cases(run)
    first, step = chosen.compile or (0, 1)
    for case in itertools.islice(itertools.chain(*cases), first, None, step):
        labels = {"kernel": case.kernel, "dtype": case.dtype, "sizes": list(case.sizes)}
        try:
            case.run()
            if chosen.compile is None:
                labels["milliseconds"] = run.milliseconds(case.run)
        except Exception as error:
            labels["error"] = f"{type(error).__name__}: {str(error)[:160]}"
        if chosen.compile is None:
            run.note(**labels)
        else:
            print(json.dumps(labels), flush=True)


class Tiled(NamedTuple):
    """The inputs of the three kernels of tile attention in one dtype."""

    qkv: tuple[Tensor, Tensor, Tensor]
    bits: Bits
    factors: Factors
    options: Options
    sweeps: Any
    grads: tuple[Tensor, ...]

    def launch(self, kernel: str, sizes: Sizes) -> None:
        """Runs one kernel with the sizes."""
        setattr(gpu_sizes, f"{kernel}_sizes", lambda *_: sizes)
        dquery, dkey, dvalue, drate, dmember = self.grads
        rate, member = (gpu_backward._head_by_head(x, dquery.dtype) for x in self.factors)
        if kernel == "forward":
            gpu.forward(*self.qkv, self.bits, self.options)
        elif kernel == "query":
            self.sweeps.by_query(dquery, drate, member)
        else:
            self.sweeps.by_key(dkey, dvalue, dmember, rate)


def tiled(run: Run, dtype: torch.dtype) -> Tiled:
    """Random inputs at a quarter of all edges."""
    sbm = model_of_density(run, [run.size.nodes], run.size.heads, 0.25)
    bits = draw(sbm, "bits").bits
    factors = Factors(sbm.rate, sbm.key_membership)
    options = Options(run.size.channels**-0.5, 0.0, 0, "logit")
    *qkv, grad = (x.detach() for x in inputs(run, run.size.nodes, run.size.heads, dtype))
    out, lse = gpu.forward(*qkv, bits, options)
    sweeps = gpu_backward._Sweeps(grad, *qkv, bits, out, lse, options)
    grads = *map(torch.empty_like, qkv), *map(gpu_backward._by_head, factors)
    return Tiled(tuple(qkv), bits, factors, options, sweeps, grads)


def tile_cases(run: Run) -> Iterator[Case]:
    """The three kernels of tile attention, by every choice and two or three stages."""
    for (kernel, name), choices in TILES.items():
        case = tiled(run, getattr(torch, name))
        for chosen, stages in itertools.product(choices, (2, 3)):
            sizes = Sizes(*chosen, stages)
            yield Case(kernel, name, tuple(sizes), partial(case.launch, kernel, sizes))


def sampler_cases(run: Run) -> Iterator[Case]:
    """The dense sampler."""
    sbm = model_of_density(run, [run.size.nodes], run.size.heads, 0.25)
    for chosen, stages, span in itertools.product(SAMPLER, (1, 2, 3), (256, 1024)):
        sizes = (*chosen, stages, span)
        yield Case("sampler", "bfloat16x3", sizes, partial(_draw_with, sbm, sizes))


def _draw_with(sbm: SBM, sizes: tuple[int, ...]) -> None:
    dense.QUERIES, dense.KEYS, dense.WARPS, dense.STAGES, dense.SPAN = sizes
    draw(sbm, "bits")


if __name__ == "__main__":
    main()
