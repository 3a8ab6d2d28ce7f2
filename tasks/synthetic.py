"""The duplicates task: does a token's value occur elsewhere in its sequence?

One head has to compare every token with every other, so a head that can choose its density should
choose a high one (Cho et al., NeurIPS 2022, Section 5.1).

Usage::

    python tasks/synthetic.py fit --config tasks/configs/duplicates_quick.yaml --seeds [1,2,3]
    python tasks/synthetic.py draw runs/duplicates_quick

``fit`` trains every model that the configuration names, then does what ``draw`` does with the runs
of a folder: ``curves.csv`` (accuracy and density at every validation), ``summary.json`` (one entry
a run) and ``curves.png``. The other commands and all keys are those of ``tasks/lra.py``.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Read when torch loads OpenMP: threads that wait by spinning slow a busy machine down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pandas as pd
from jsonargparse import ArgumentParser
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sbmgraph.nn.models import MODELS
from sbmgraph.training.cli import TaskCLI
from sbmgraph.training.cli import main as run_command
from sbmgraph.training.run import write_atomically, write_json

PROGRAM = "tasks/synthetic.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The command and its arguments. (default: the program's)

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] != ["draw"]:
        code = run_command(argv, PROGRAM)
        if code or argv[:1] != ["fit"]:
            return code
        return write_results(runs_folder(argv[1:]))
    parser = ArgumentParser(prog=f"{PROGRAM} draw", description=draw.__doc__)
    parser.add_function_arguments(draw, as_positional=True)
    arguments = parser.parse_args(argv[1:])
    return draw(**arguments.as_dict())


def runs_folder(args: list[str]) -> Path:
    """The folder of all runs of a configuration."""
    config = TaskCLI(args, build=False).config
    return Path(config.runs) / (config.name or config.data.task)


def draw(runs: Path, to: Path | None = None) -> int:
    """Gathers and draws finished runs.

    Args:
        runs: Folder of the runs, ``<model>/seed<k>`` each.
        to: Folder of the results. (default: ``runs``)
    """
    return write_results(Path(runs), to)


def write_results(runs: Path, to: Path | None = None) -> int:
    """Writes ``curves.csv``, ``summary.json`` and ``curves.png`` of the runs in a folder.

    Returns:
        The exit code: 0, or 2 if there is no finished run.
    """
    summaries = load_summaries(runs)
    if not summaries:
        print(f"{PROGRAM}: error: {runs}: expected finished runs, found none", file=sys.stderr)
        return 2
    to = runs if to is None else Path(to)
    curves = load_curves(runs)
    write_json(to / "summary.json", summaries)
    write_atomically(to / "curves.csv", curves.round(5).to_csv(index=False, lineterminator="\n"))
    image = io.BytesIO()
    plot_curves(curves).savefig(image, format="png", dpi=130)
    write_atomically(to / "curves.png", image.getvalue())
    print(f"{to}: curves.csv, summary.json, curves.png")
    return 0


def load_summaries(runs: Path) -> list[dict[str, Any]]:
    """The summaries of all finished runs of a folder, by model and seed."""
    summaries = [json.loads(path.read_text()) for path in runs.glob("*/seed*/summary.json")]
    return sorted(summaries, key=lambda run: (MODELS.index(run["model"]), run["seed"]))


def load_curves(runs: Path) -> pd.DataFrame:
    """Accuracy and density at every validation of all finished runs of a folder.

    Returns:
        A frame with the columns ``model``, ``seed``, ``step``, ``accuracy``, ``density`` (of the
        sampled graphs, or of a baseline's weights) and ``expected_density`` (of the SBM).
    """
    frames = []
    for run in load_summaries(runs):
        metrics = pd.read_csv(runs / run["model"] / f"seed{run['seed']}" / "metrics.csv")
        metrics = metrics[metrics["val/accuracy"].notna()]
        expected = metrics.filter(regex="^val/expected_density/")
        missing = pd.Series(float("nan"), index=metrics.index)
        frame = pd.DataFrame(
            {
                "model": run["model"],
                "seed": run["seed"],
                "step": metrics["step"] + 1,
                "accuracy": metrics["val/accuracy"],
                "density": metrics.get("val/density", missing),
                "expected_density": expected.mean(axis=1) if expected.size else missing,
            }
        )
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def plot_curves(curves: pd.DataFrame) -> Figure:
    """Draws accuracy and density over training, the mean over seeds with their range."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    accuracy, density = figure.subplots(1, 2)
    _plot(accuracy, curves, "accuracy")
    accuracy.set(xlabel="optimizer steps", ylabel="validation accuracy", ylim=(0.45, 1.02))
    _plot(density, curves.dropna(subset="density"), "density")
    density.set(xlabel="optimizer steps", ylabel="attention density", ylim=(0, 1.05))
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside right center")
    return figure


def _plot(ax: Axes, curves: pd.DataFrame, column: str) -> None:
    for model, runs in curves.groupby("model"):
        number = MODELS.index(str(model))
        bands = runs.groupby("step")[column].agg(["mean", "min", "max"])
        style: dict[str, Any] = {"color": f"C{number}", "zorder": 30 - number}
        ax.plot(bands.index, bands["mean"], label=model, lw=2.2 if number == 0 else 1.3, **style)
        ax.fill_between(bands.index, bands["min"], bands["max"], alpha=0.2, lw=0, **style)
    ax.grid(alpha=0.3)


if __name__ == "__main__":
    sys.exit(main())
