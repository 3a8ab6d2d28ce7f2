"""Sparsifies a pretrained encoder: score against density on a task of GLUE.

``ENCODER`` is the folder of a local encoder of Transformers (BERT, RoBERTa, …) with its tokenizer.
Full attention is fine-tuned first; then, for every target, the same encoder with SBM heads and the
same budget, while its density falls to the target. Finished runs are kept and not made again.
Writes ``sparsify.json``, ``sparsify.md`` and ``sparsify.png`` into ``RUNS/sparsify/TASK``.

Any key of the preset ``sparsify`` can be added, as in ``--trainer.max_epochs 5``.
"""

from __future__ import annotations

import argparse
import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from sbmgraph.checks import check_choice, check_range
from sbmgraph.data import GLUE_TASKS
from sbmgraph.files import write_atomically, write_json
from sbmgraph.hf.finetuning import EncoderFinetuneCLI
from sbmgraph.run import Run
from sbmgraph.training.cli import be_quiet, command_of, told
from sbmgraph.training.language_cli import finetune_one, task_arguments
from sbmgraph.training.task_cli import PRESETS, plain

CONFIG = PRESETS / "sparsify.yaml"


def main(argv: Sequence[str] | None = None, program: str = "tasks/sparsify.py") -> int:
    """The command line.

    Args:
        argv: Its arguments. (default: the program's)
        program: Name of the program in messages.

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog=program,
        description=plain(__doc__ or ""),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--encoder", help="folder of the encoder")
    parser.add_argument("--task", default="sst2", help="task of GLUE")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 0.25, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--runs", default="runs", help="folder of all runs")
    parser.add_argument("--draw", metavar="FOLDER", help="only gather the finished runs there")
    known, others = parser.parse_known_args(argv)
    be_quiet()
    if known.draw is not None:
        return told(program, lambda: gather(Path(known.draw)))
    command = shlex.join([*command_of(program).split(), *argv])
    return told(program, lambda: sparsify(known, others, command))


def sparsify(known: Any, others: list[str], command: str) -> None:
    """Makes every run that is not there yet, and gathers all.

    Raises:
        ValueError: If an argument is out of range.
        FileNotFoundError: If there is no encoder.
    """
    check_choice("task", known.task, GLUE_TASKS)
    for target in known.targets:
        check_range("targets", target, 0.0, 1.0, low_open=True, high_open=True)
    encoder = Path(known.encoder or "")
    if known.encoder is None or not (encoder / "config.json").is_file():
        raise FileNotFoundError(
            f"encoder: expected a folder with a config.json, got {known.encoder!r}"
        )
    place = Path(known.runs) / "sparsify" / known.task
    for seed in known.seeds:
        for target in (None, *known.targets):
            variant = "full" if target is None else f"target{target:g}"
            if Run.at(place / variant / known.task, model_of(target), seed).is_finished:
                continue
            arguments = ["--config", str(CONFIG), f"--model.encoder={encoder}", "--compare=[]"]
            arguments += [f"--data.options.tokenizer={encoder}", f"--runs={place}"]
            arguments += [f"--name={variant}", "--overwrite=true", *others]
            if target is not None:
                arguments.append(f"--model.density.target={target}")
            arguments = task_arguments(arguments, known.task, EncoderFinetuneCLI)
            model = model_of(target)
            finetune_one(arguments, known.task, model, seed, command, EncoderFinetuneCLI)
            gather(place)


def model_of(target: float | None) -> str:
    """The name of the attention."""
    return "full" if target is None else "sbm"


def gather(place: Path) -> None:
    """Writes the table and the picture of the finished runs in a folder.

    Raises:
        ValueError: If there is none.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in Run.below(place):
        variant = run.path.relative_to(place).parts[0]
        rows.setdefault(variant, []).append(run.summary())
    if not rows:
        raise ValueError(f"{place}: expected finished runs, found none")
    order = sorted(rows, key=lambda variant: -(_target(variant) or 1.0))
    points = [point(variant, rows[variant]) for variant in order]
    write_json(place / "sparsify.json", points)
    write_atomically(place / "sparsify.md", table(points))
    image = io.BytesIO()
    draw(points, place.name).savefig(image, format="png", dpi=130)
    write_atomically(place / "sparsify.png", image.getvalue())
    print(table(points))


def point(variant: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores and densities of one target, in percent, over its seeds."""
    densities = [100 * run["mean_density"] if run["model"] == "sbm" else 100.0 for run in runs]
    return {
        "target": _target(variant),
        "seeds": [run["seed"] for run in runs],
        "scores": [100 * run["scores"]["score"] for run in runs],
        "densities": densities,
        "steps": runs[0]["steps"],
        "seconds": mean(run["seconds"] for run in runs),
        "command": runs[0]["command"],
    }


def table(points: list[dict[str, Any]]) -> str:
    """The points as Markdown."""
    lines = ["| attention | score | density | seeds | steps | time |", "|---|---|---|---|---|---|"]
    for p in points:
        name = "full" if p["target"] is None else f"sbm, target {100 * p['target']:g} %"
        spread = (
            f" ({min(p['scores']):.1f} to {max(p['scores']):.1f})" if len(p["seeds"]) > 1 else ""
        )
        lines.append(
            f"| {name} | {mean(p['scores']):.1f}{spread} | {mean(p['densities']):.1f} % | "
            f"{len(p['seeds'])} | {p['steps']:,} | {p['seconds'] / 60:.0f} min |"
        )
    return "\n".join([*lines, ""])


def draw(points: list[dict[str, Any]], task: str) -> Figure:
    """Draws scores against densities, a dot a run."""
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    ax = figure.subplots()
    for p in points:
        label = "full attention" if p["target"] is None else f"target {100 * p['target']:g} %"
        ax.plot(p["densities"], p["scores"], "o", label=label)
    ax.plot([mean(p["densities"]) for p in points], [mean(p["scores"]) for p in points], "-",
            color="0.6", zorder=0)  # fmt: skip
    ax.set(xlabel="density of the sampled graphs, percent", ylabel="development score", title=task)
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return figure


def _target(variant: str) -> float | None:
    return None if variant == "full" else float(variant.removeprefix("target"))
