"""The parts of ``benchmarks/gpu.py``: each measures one thing and notes what it finds at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbmgraph import SBM, SampledGraph, sample
from sbmgraph.ops import edge_attention

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Size:
    """How large the inputs are; ``batches`` gives, for each task of Long Range Arena, the number
    of sequences and their shortest and longest length."""

    nodes: int
    truth_nodes: int
    layer_nodes: tuple[int, ...]
    heads: int
    channels: int
    clusters: int
    densities: tuple[float, ...]
    grid: tuple[float, ...]
    batches: dict[str, tuple[int, int, int]]
    seconds: float


SIZES = {
    "full": Size(
        nodes=4096,
        truth_nodes=777,
        layer_nodes=(1024, 4096, 16384),
        heads=8,
        channels=32,
        clusters=128,
        densities=(0.01, 0.05, 0.2, 0.6),
        grid=(0.005, 0.02, 0.1, 0.3, 0.6, 0.95),
        batches={
            "listops": (128, 500, 2000),
            "text": (128, 500, 3072),
            "retrieval": (64, 2000, 4000),
            "image": (256, 1024, 1024),
            "pathfinder32": (256, 1024, 1024),
        },
        seconds=0.25,
    ),
    "tiny": Size(
        nodes=48,
        truth_nodes=40,
        layer_nodes=(32,),
        heads=2,
        channels=16,
        clusters=4,
        densities=(0.2,),
        grid=(0.3,),
        batches={"listops": (2, 5, 20)},
        seconds=0.0,
    ),
}


class Run(NamedTuple):
    """What a part runs with."""

    part: str
    size: Size
    device: str
    output: Path

    def note(self, **row: Any) -> None:
        """Appends a row to the results."""
        row = {"part": self.part, **row}
        print(row, flush=True)
        with open(self.output, "a") as file:
            file.write(json.dumps(row) + "\n")

    @contextmanager
    def attempt(self, **labels: Any) -> Iterator[None]:
        """One case: if it fails, the next goes on. The part fails in the end all the same."""
        try:
            yield
        except Exception as error:
            FAILED.append(labels)
            self.note(**labels, error=f"{type(error).__name__}: {str(error)[:300]}")
            traceback.print_exc()

    def milliseconds(self, function: Callable[[], Any]) -> float:
        """The median time of ``function`` after three runs, for about ``size.seconds``."""
        cuda = self.device == "cuda"
        for _ in range(3 if cuda else 1):
            function()
        times: list[float] = []
        stop = time.monotonic() + self.size.seconds
        while not times or time.monotonic() < stop:
            if cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                function()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end))
            else:
                begin = time.perf_counter()
                function()
                times.append((time.perf_counter() - begin) * 1e3)
        return median(times)


FAILED: list[dict[str, Any]] = []


class Part(NamedTuple):
    """A part: what it shows, its limit in seconds, and its function."""

    what: str
    limit: int
    function: Callable[[Run], None]

    def run(self, run: Run) -> None:
        """Runs it; exits with 1 if a case failed."""
        FAILED.clear()
        self.function(run)
        if FAILED:
            raise SystemExit(f"{run.part}: {len(FAILED)} cases failed: {FAILED}")


PARTS: dict[str, Part] = {}


def part(what: str, limit: int) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Registers a part under its function's name."""

    def register(function: Callable[[Run], None]) -> Callable[[Run], None]:
        PARTS[function.__name__] = Part(what, limit, function)
        return function

    return register


# Inputs ###########################################################################################


def model_of_density(run: Run, lengths: list[int], heads: int, density: float) -> SBM:
    """A random SBM with probabilities around ``density``: memberships on the simplex, affinities
    as far from it as both 0 and 1 allow."""
    generator = torch.Generator().manual_seed(0)
    n, K = sum(lengths), run.size.clusters
    Y, Z = (torch.randn(n, heads, K, generator=generator).mul(3).softmax(-1) for _ in "YZ")
    spread = 2 * torch.rand(heads, K, K, generator=generator) - 1
    B = density + min(density, 1 - density) * spread
    batch = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return SBM(*(x.to(run.device) for x in (Y, Z, B, batch, batch)))


def inputs(run: Run, nodes: int, heads: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys, values and the output's gradient."""
    generator = torch.Generator().manual_seed(1)
    shape = (nodes, heads, run.size.channels)
    q, k, v, grad = (torch.randn(shape, generator=generator).to(run.device, dtype) for _ in "qkvg")
    return [q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), grad]


def lengths_of(run: Run, task: str) -> list[int]:
    sequences, low, high = run.size.batches[task]
    generator = torch.Generator().manual_seed(2)
    return torch.randint(low, high + 1, (sequences,), generator=generator).tolist()


def draw(sbm: SBM, layout: str, seed: int = 0) -> SampledGraph:
    generator = torch.Generator().manual_seed(seed)
    return sample(sbm, algorithm="dense", layout=layout, generator=generator)


def times(run: Run, forward: Callable[[], Tensor], leaves: list[Tensor], grad: Tensor) -> dict:
    """Of the forward pass alone, and of both passes."""
    with torch.no_grad():
        alone = run.milliseconds(forward)
    both = run.milliseconds(lambda: torch.autograd.grad(forward(), leaves, grad, allow_unused=True))
    return {"forward": alone, "forward_backward": both}


def leaf_model(sbm: SBM) -> tuple[SBM, list[Tensor]]:
    """The model with memberships and affinity that take gradients."""
    leaves = [
        x.detach().requires_grad_()
        for x in (sbm.query_membership, sbm.key_membership, sbm.affinity)
    ]
    return SBM(*leaves, sbm.query_batch, sbm.key_batch), leaves


def attention_times(
    run: Run, sbm: SBM, graph: SampledGraph, backend: str, dtype: torch.dtype
) -> dict[str, float]:
    """Of attention over ``graph`` with gradients of everything, the model's factors included."""
    q, k, v, grad = inputs(run, graph.num_queries, graph.heads, dtype)
    model, leaves = leaf_model(sbm)
    graph.csr if backend == "fused" else graph.bits  # noqa: B018  (made before the clock starts)
    return times(
        run,
        lambda: edge_attention(q, k, v, graph, model, backend=backend),
        [q, k, v, *leaves],
        grad,
    )


# Parts ############################################################################################


@part("the kernels' own tests on the device", 150)
def tests(run: Run) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m"]
    command.append("gpu and not slow")
    command += (
        ["tests/kernels"] if run.device == "cuda" else ["--collect-only", "tests/kernels/tile"]
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    try:
        import xdist  # noqa: F401
    except ImportError:
        pass
    else:
        command += ["-n", "6"] if run.device == "cuda" else ["-n", "0"]
    found = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    print(found.stdout, found.stderr)
    run.note(summary=found.stdout.strip().splitlines()[-1], exit_code=found.returncode)
    if found.returncode:
        FAILED.append({"tests": found.returncode})


@part("largest errors of the tiles against dense float64", 45)
def truth(run: Run) -> None:
    n, heads = run.size.truth_nodes, 2
    lengths = [n, n // 3]
    sbm = model_of_density(run, lengths, heads, 0.25)
    graph = draw(sbm, "bits")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for estimator in ("logit", "mask"):
            with run.attempt(dtype=str(dtype)[6:], estimator=estimator):
                errors = _errors(run, sbm, graph, dtype, estimator)
                run.note(dtype=str(dtype)[6:], estimator=estimator, **errors)
                worst = 1e-4 if dtype == torch.float32 else 5e-2
                assert max(errors.values()) < worst, f"errors above {worst}"


def _errors(
    run: Run, sbm: SBM, graph: SampledGraph, dtype: torch.dtype, estimator: str
) -> dict[str, float]:
    """Relative to the largest entry, of output and gradients; the truth is masked softmax with the
    gate as a factor of 1, whose derivative autograd takes."""
    q, k, v, grad = inputs(run, graph.num_queries, graph.heads, dtype)
    model, leaves = leaf_model(sbm)
    out = edge_attention(q, k, v, graph, model, estimator, backend="tile")
    found = [out, *torch.autograd.grad(out, [q, k, v, *leaves], grad)]
    wide = [x.detach().double().requires_grad_() for x in (q, k, v, *leaves)]
    Q, K, V, Y, Z, B = wide
    mask = torch.zeros(graph.num_queries, graph.heads, graph.num_keys, dtype=torch.bool)
    key, query = graph.edge_index.cpu()
    mask[query, graph.head.cpu(), key] = True
    mask = mask.to(run.device)
    score = torch.einsum("nhd,mhd->nhm", Q, K) * run.size.channels**-0.5
    alpha = score.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0.0)
    exact = torch.einsum("nhm,mhv->nhv", alpha, V)
    exact_grads = torch.autograd.grad(exact, [Q, K, V], grad.double(), retain_graph=True)
    with torch.no_grad():
        product = torch.einsum("nhv,mhv->nhm", grad.double(), V)
        gate = alpha * (product - (alpha * product).sum(-1, keepdim=True))
        gate = gate * score if estimator == "logit" else gate.clamp(-1, 1)
    prob = torch.einsum("nhk,hkl,mhl->nhm", Y, B, Z)
    model_grads = torch.autograd.grad(prob, [Y, Z, B], gate * mask)
    names = ("out", "query", "key", "value", "Y", "Z", "B")
    return {
        name: ((a.double() - b).abs().max() / b.abs().max()).item()
        for name, a, b in zip(names, found, (exact, *exact_grads, *model_grads), strict=True)
    }


@part("dense sampler: law, the same graph on the CPU, pairs a second", 45)
def law(run: Run) -> None:
    n, heads = run.size.nodes, run.size.heads
    for density in run.size.densities:
        with run.attempt(density=density):
            sbm = model_of_density(run, [n], heads, density)
            graph, again = draw(sbm, "bits", 3), draw(sbm, "bits", 3)
            assert torch.equal(graph.bits.words, again.bits.words), "two draws of one seed differ"
            on_cpu = draw(
                model_of_density(run._replace(device="cpu"), [n], heads, density), "bits", 3
            )
            flips = _popcount(graph.bits.words.cpu() ^ on_cpu.bits.words)
            pairs = n * n * heads
            expected = sbm.expected_edges().double().sum().item()
            deviation = (graph.num_edges - expected) / expected**0.5
            spent = run.milliseconds(lambda sbm=sbm: draw(sbm, "bits"))
            run.note(
                density=density,
                flips_per_million_pairs=flips / pairs * 1e6,
                standard_errors_from_expectation=deviation,
                milliseconds=spent,
                gigapairs_a_second=pairs / spent / 1e6,
            )
            assert abs(deviation) < 6, "edges are not as many as expected"


def _popcount(words: Tensor) -> int:
    return sum(int(((words >> bit) & 1).sum()) for bit in range(32))


@part("attention over one graph: edges, tiles, flash attention and FlexAttention", 100)
def attention(run: Run) -> None:
    n, heads = run.size.nodes, run.size.heads
    for dtype in (torch.bfloat16, torch.float32):
        labels = {"dtype": str(dtype)[6:]}
        with run.attempt(**labels, backend="flash"):
            q, k, v, grad = inputs(run, n, heads, dtype)
            dense = [x.detach().transpose(0, 1)[None].contiguous() for x in (q, k, v, grad)]
            leaves = [x.requires_grad_() for x in dense[:3]]
            spent = times(
                run, lambda x=leaves: F.scaled_dot_product_attention(*x), leaves, dense[3]
            )
            run.note(**labels, backend="flash", density=1.0, **spent)
        for density in run.size.densities:
            sbm = model_of_density(run, [n], heads, density)
            graph = draw(sbm, "bits")
            for backend in ("tile", "fused"):
                with run.attempt(**labels, backend=backend, density=density):
                    spent = attention_times(run, sbm, graph, backend, dtype)
                    run.note(**labels, backend=backend, density=density, **spent)
    with run.attempt(backend="flex"):
        _flex(run, n, heads)


def _flex(run: Run, n: int, heads: int) -> None:
    """FlexAttention that reads the same bits; its factors take no gradient."""
    if run.device == "cpu":
        return
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    graph = draw(model_of_density(run, [n], heads, run.size.densities[-1]), "bits")
    words = graph.bits.words.view(n, heads, -1)

    def sampled(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ((words[query, h, key // 32] >> (key % 32)) & 1) != 0

    mask = torch.compile(create_block_mask)(sampled, 1, heads, n, n, device=run.device)
    compiled = torch.compile(flex_attention)
    q, k, v, grad = (
        x.detach().transpose(0, 1)[None].contiguous() for x in inputs(run, n, heads, torch.bfloat16)
    )
    leaves = [x.requires_grad_() for x in (q, k, v)]
    spent = times(run, lambda: compiled(*leaves, block_mask=mask), leaves, grad)
    run.note(dtype="bfloat16", backend="flex", density=run.size.densities[-1], **spent)


@part("the batches of Long Range Arena at a quarter of all edges, bfloat16", 60)
def batches(run: Run) -> None:
    for task in run.size.batches:
        lengths, heads = lengths_of(run, task), 2
        with run.attempt(task=task):
            sbm = model_of_density(run, lengths, heads, 0.25)
            graph = draw(sbm, "bits")
            row = {"pairs": float(sum(x * x for x in lengths) * heads)}
            row["sampling"] = run.milliseconds(lambda sbm=sbm: draw(sbm, "bits"))
            spent = attention_times(run, sbm, graph, "tile", torch.bfloat16)
            row |= {f"tile_{key}": value for key, value in spent.items()}
            shape = (len(lengths), heads, max(lengths), run.size.channels)
            leaves = [torch.randn(shape, device=run.device, dtype=torch.bfloat16) for _ in "qkvg"]
            grad = leaves.pop()
            leaves = [x.requires_grad_() for x in leaves]
            spent = times(run, lambda x=leaves: F.scaled_dot_product_attention(*x), leaves, grad)
            row |= {f"flash_padded_{key}": value for key, value in spent.items()}
            run.note(task=task, **row)


class _Full(nn.Module):
    """Full attention with its projections: what a layer's step is compared with."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.inner, self.outer = (
            heads,
            nn.Linear(channels, 3 * channels),
            nn.Linear(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.inner(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(*qkv)  # [graphs, heads, nodes, channels]
        return self.outer(out.transpose(1, 2).flatten(2))


FORMS = {
    "tiled": {"algorithm": "dense", "layout": "bits"},
    "listed": {"algorithm": "fastrg", "layout": "csr"},
}
"""The forms of a step that are timed beside what ``auto`` chooses."""


def _layer(run: Run, density: float, heads: int = 0, **options: Any) -> nn.Module:
    from sbmgraph.nn import SBMAttention

    size = run.size
    heads = heads or size.heads
    channels = heads * size.channels
    options = {"num_clusters": size.clusters, "init_density": density, **options}
    return SBMAttention(channels, heads, **options).to(run.device)


def _forms(
    run: Run, density: float, heads: int, shape: tuple[int, ...], batch: Tensor | None
) -> dict[str, float]:
    """The step's time as ``auto`` chooses and by force."""
    forms = {"sbm": {}, **FORMS}
    return {
        name: run.milliseconds(_step(run, _layer(run, density, heads, **form), shape, batch))
        for name, form in forms.items()
    }


def _step(
    run: Run, layer: nn.Module, shape: tuple[int, ...], batch: Tensor | None = None
) -> Callable[[], None]:
    """Forward and backward of a layer in bfloat16 autocast."""
    x = torch.randn(shape, device=run.device, requires_grad=True)
    more = {} if batch is None else {"batch": batch}

    def step() -> None:
        with torch.autocast(run.device, torch.bfloat16):
            out = layer(x, **more)
        out.float().square().sum().backward()
        layer.zero_grad(set_to_none=True)
        x.grad = None

    return step


@part("a layer's step by nodes and density, against full attention (flash)", 90)
def layer(run: Run) -> None:
    heads = run.size.heads
    channels = heads * run.size.channels
    for nodes in run.size.layer_nodes:
        dense = _Full(channels, heads).to(run.device)
        full = run.milliseconds(_step(run, dense, (1, nodes, channels)))
        below = 0.0
        for density in run.size.grid:
            with run.attempt(nodes=nodes, density=density):
                spent = _forms(run, density, heads, (nodes, channels), None)
                ratio = spent["sbm"] / full
                run.note(nodes=nodes, density=density, **spent, full=full, ratio=ratio)
                if spent["sbm"] <= full:
                    below = max(below, density)
        run.note(nodes=nodes, faster_than_flash_up_to_density=below)
    lengths = lengths_of(run, "listops")
    channels = 2 * run.size.channels
    dense = _Full(channels, 2).to(run.device)
    full = run.milliseconds(_step(run, dense, (len(lengths), max(lengths), channels)))
    batch = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(run.device)
    for density in run.size.grid:
        with run.attempt(nodes="listops", density=density):
            spent = _forms(run, density, 2, (sum(lengths), channels), batch)
            ratio = spent["sbm"] / full
            run.note(nodes="listops", density=density, **spent, full=full, ratio=ratio)


@part("host synchronisations and launches of a layer's step, and its hottest kernels", 40)
def profile(run: Run) -> None:
    from torch.profiler import ProfilerActivity

    nodes = run.size.layer_nodes[-1] if run.device == "cpu" else run.size.nodes
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] * (run.device == "cuda")
    for density in run.size.densities:
        with run.attempt(density=density):
            shape = (nodes, run.size.heads * run.size.channels)
            step = _step(run, _layer(run, density), shape)
            step()
            waits = _waits(run, step)
            with torch.profiler.profile(activities=activities) as found:
                step()
            events = found.key_averages()
            kernels = [x for x in events if x.device_type == torch.autograd.DeviceType.CUDA]
            launched = sum(x.count for x in kernels)
            run.note(density=density, synchronisations=waits, launches=launched)
            for x in sorted(kernels, key=lambda x: -x.self_device_time_total)[:8]:
                run.note(
                    density=density,
                    kernel=x.key[:80],
                    milliseconds=x.self_device_time_total / 1e3,
                    count=x.count,
                )


def _waits(run: Run, step: Callable[[], None]) -> int | None:
    if run.device == "cpu":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(x.message) for x in caught)


@part("training steps of all models on all tasks: sequences a second", 70)
def throughput(run: Run) -> None:
    from benchmarks.throughput import TASKS, VARIANTS, Task, measure

    tasks = TASKS
    if run.size is SIZES["tiny"]:
        tasks = {"listops": Task((5, 9), 32, 10, 64)}
    for name, task in tasks.items():
        for variant in VARIANTS:
            with run.attempt(task=name, model=variant.name):
                found = measure(task, variant, run.device, run.size.seconds / 2)
                run.note(
                    task=name,
                    model=variant.name,
                    sequences_a_second=found["sequences_per_second"],
                    peak_mebibytes=found["peak_memory_bytes"] / 2**20,
                )
