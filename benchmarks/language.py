"""Language encoders with SBM heads beside the same encoders with full attention, by density.

Usage: python benchmarks/language.py [--threads 2] [--rounds 9] [--lengths 128 512] [--output FILE]

A training step (forward and backward, without optimizer) and an inference step of two encoders: one
of MiniLM-L6's size, by Transformers and ``sbmgraph.hf.convert`` with the heads of
``tasks/configs/sparsify.yaml``, and the paper's for GLUE, this library's own with the heads of
``tasks/configs/glue_finetune.yaml``. Weights and tokens are random, sequences have no padding and
nothing is dropped out. Full attention is ``scaled_dot_product_attention``. All densities of an
encoder and full attention take turns in one process, after a round that warms up; a ratio is the
median of those inside a round, so that what else the machine does touches both sides. Writes JSON
and, beside it, ``LANGUAGE.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

# Read when torch loads OpenMP: threads that wait by spinning keep the kernels' own from the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch import Tensor, nn

from sbmgraph import record
from sbmgraph.files import write_atomically
from sbmgraph.nn import SBMHeads
from sbmgraph.nn.models import build_model
from sbmgraph.record import layer_density
from sbmgraph.version import __version__

sys.path.insert(0, str(Path(__file__).parent))
from run import clock

FOLDER = Path(__file__).parent
STEPS = ("training", "inference")


class Encoder(NamedTuple):
    """The sizes of an encoder, and the options of its SBM heads."""

    layers: int
    heads: int
    channels: int
    ffn_channels: int
    vocab_size: int
    options: dict[str, Any]


ENCODERS = {
    "MiniLM-L6": Encoder(
        6, 12, 384, 1536, 30522, {"num_clusters": 32, "membership": "softmax"}
    ),
    "paper": Encoder(4, 8, 512, 2048, 50265, {"num_clusters": 128}),
    "tiny": Encoder(2, 2, 32, 64, 100, {"num_clusters": 4}),
}  # fmt: skip
"""``"tiny"`` tries the program out."""


def make(name: str, length: int, density: float | None) -> nn.Module:
    """An encoder with SBM heads, or with full attention where ``density`` is :obj:`None`."""
    torch.manual_seed(0)
    sizes = ENCODERS[name]
    options = {} if density is None else {**sizes.options, "init_density": density}
    if name == "paper":
        return build_model(
            "full" if density is None else "sbm",
            vocab_size=sizes.vocab_size,
            num_classes=2,
            channels=sizes.channels,
            heads=sizes.heads,
            num_layers=sizes.layers,
            ffn_channels=sizes.ffn_channels,
            max_length=length,
            dropout=0.0,
            **options,
        )
    from transformers import BertConfig, BertModel

    from sbmgraph.hf import convert

    config = BertConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.channels,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.ffn_channels,
        max_position_embeddings=length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    model = BertModel(config, add_pooling_layer=False)
    return model if density is None else convert(model, **options)


def scores(model: nn.Module, tokens: Tensor) -> Tensor:
    """One vector a sequence."""
    out = model(tokens)
    return out if isinstance(out, Tensor) else out.last_hidden_state.mean(dim=1)


@torch.no_grad()
def calibrate(model: nn.Module, tokens: Tensor, density: float) -> None:
    """Gives the heads of every layer the expected density asked for on these tokens, one layer
    after the other."""

    def hook(heads: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(heads, SBMHeads)
        query, key = (
            args[i] if len(args) > i else kwargs[n] for i, n in enumerate(("query", "key"))
        )
        heads.membership.set_density(density, query, key)

    handles = [
        module.register_forward_pre_hook(hook, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, SBMHeads)
    ]
    scores(model.eval(), tokens)
    for handle in handles:
        handle.remove()


@torch.no_grad()
def sampled_density(model: nn.Module, tokens: Tensor) -> float:
    """The mean density of the graphs that the layers sample in evaluation."""
    with record(model, keep=lambda run: layer_density(run).sampled.mean()) as runs:
        scores(model.eval(), tokens)
    return float(torch.stack(list(runs)).mean())


def step_of(model: nn.Module, tokens: Tensor, kind: str) -> Callable[[], None]:
    """A step, to be clocked."""

    def training() -> None:
        scores(model, tokens).logsumexp(-1).sum().backward()

    def inference() -> None:
        with torch.inference_mode():
            scores(model, tokens)

    return training if kind == "training" else inference


def measure(
    name: str, length: int, sequences: int, densities: list[float], rounds: int, threads: int
) -> list[dict[str, Any]]:
    """One row a step and attention, full attention first."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(ENCODERS[name].vocab_size, (sequences, length), generator=generator)
    models: dict[float | None, nn.Module] = {}
    found: dict[float | None, float | None] = {None: None}
    for density in (None, *densities):
        models[density] = make(name, length, density)
        if density is not None:
            if density < 1:
                calibrate(models[density], tokens, density)
            found[density] = sampled_density(models[density], tokens)
    rows = []
    for kind in STEPS:
        times: dict[float | None, list[float]] = {density: [] for density in models}
        for turn in range(rounds + 1):
            for density, model in models.items():
                model.train(kind == "training").zero_grad(set_to_none=True)
                taken = clock(step_of(model, tokens, kind))
                times[density] += [taken] if turn else []
        for density, taken in times.items():
            ratios = sorted(a / b for a, b in zip(taken, times[None], strict=True))
            rows.append({
                "encoder": name, "length": length, "sequences": sequences, "step": kind,
                "attention": "full" if density is None else "sbm", "density": density,
                "sampled_density": found[density], "seconds": median(taken), "best": min(taken),
                "over_full": median(ratios), "lowest": ratios[0], "highest": ratios[-1],
            })  # fmt: skip
    return rows


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    machine = report["machine"]
    lines = [
        "# Language encoders: SBM heads beside full attention",
        "",
        f"`{report['command']}` on {machine['device']}, {machine['threads']} threads, Python "
        f"{machine['python']}, torch {machine['torch']}, sbmgraph {machine['sbmgraph']}, load "
        f"average {machine['load_before']:.1f} at the start.",
        "",
        "One step of an encoder with random weights on random tokens, float32, without padding "
        "and dropout; training is forward and backward. Median seconds of the rounds, and the "
        "median of a round's ratios to full attention in that round with their range. Density "
        "is that of the graphs sampled in evaluation; in training every pair has one percent "
        "more. At density 1 nothing is sampled. Encoders: "
        + "; ".join(f"{name}, {_describe(sizes)}" for name, sizes in report["encoders"].items())
        + ".",
    ]
    for kind in STEPS:
        lines += [
            "",
            f"## {kind.capitalize()}",
            "",
            "| encoder | tokens | attention | density | seconds | over full | range |",
            "|---|---|---|---:|---:|---:|---:|",
        ]
        for row in report["results"]:
            if row["step"] != kind:
                continue
            cells = [row["encoder"], f"{row['sequences']} × {row['length']}"]
            if row["attention"] == "full":
                cells += ["full", "", f"{row['seconds']:.3f}", "1", ""]
            else:
                cells += [
                    f"sbm, {row['density']:g}",
                    f"{row['sampled_density']:.1%}",
                    f"{row['seconds']:.3f}",
                    f"{row['over_full']:.2f}",
                    f"{row['lowest']:.2f} to {row['highest']:.2f}",
                ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _describe(sizes: dict[str, Any]) -> str:
    options = ", ".join(f"{key} {value}" for key, value in sizes["options"].items())
    return (
        f"{sizes['layers']} layers, {sizes['heads']} heads, {sizes['channels']} channels, "
        f"{sizes['ffn_channels']} in the feed-forward networks ({options})"
    )


def describe_machine(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    name = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sbmgraph": __version__,
    }


def main(argv: list[str] | None = None) -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=["MiniLM-L6", "paper"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.25, 1.0])
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a batch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=FOLDER / "language.json")
    args = parser.parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/language.py", *given]),
        "machine": describe_machine(args.threads),
        "encoders": {name: ENCODERS[name]._asdict() for name in args.encoders},
        "results": [],
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for name in args.encoders:
        for length in args.lengths:
            sequences = max(1, args.tokens // length)
            rows = measure(name, length, sequences, args.densities, args.rounds, args.threads)
            report["results"] += rows
            for row in rows:
                print(json.dumps(row), flush=True)
            write_atomically(args.output, json.dumps(report, indent=1) + "\n")
    write_atomically(args.output.with_name("LANGUAGE.md"), to_markdown(report))


if __name__ == "__main__":
    main()
