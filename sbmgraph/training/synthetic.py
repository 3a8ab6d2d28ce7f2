"""The duplicates task's commands: train the models that a configuration names, draw curves."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jsonargparse import ArgumentParser
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sbmgraph.files import reading, write_atomically
from sbmgraph.nn.models import MODELS
from sbmgraph.run import Run
from sbmgraph.training.cli import main as run_command
from sbmgraph.training.cli import told
from sbmgraph.training.task_cli import TaskCLI, about


def main(argv: Sequence[str] | None = None, program: str = "tasks/synthetic.py") -> int:
    """Runs a command: ``draw``, or one of :func:`sbmgraph.training.cli.main`'s.

    Args:
        argv: The command and its arguments. (default: the program's)
        program: Name of the program in messages.

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] != ["draw"]:
        code = run_command(argv, program)
        if code or argv[:1] != ["fit"]:
            return code
        return told(program, lambda: write_results(runs_folder(argv[1:])))
    parser = ArgumentParser(prog=f"{program} draw", description=about(draw))
    parser.add_function_arguments(draw, as_positional=True)
    given = parser.parse_args(argv[1:])
    return told(program, lambda: draw(**given.as_dict()))


def runs_folder(args: list[str]) -> Path:
    """The folder of all runs of a configuration."""
    config = TaskCLI(args, build=False).config
    return Path(config.runs) / (config.name or config.data.task)


def draw(runs: Path, to: Path | None = None) -> None:
    """Gathers and draws finished runs.

    Args:
        runs: Folder of the runs, MODEL/seedN each.
        to: Folder of the results. (default: that of the runs)
    """
    write_results(Path(runs), to)


def write_results(runs: Path, to: Path | None = None) -> None:
    """Writes ``curves.csv``, ``summary.json`` and ``curves.png`` of the runs in a folder.

    Raises:
        ValueError: If there is no finished run.
    """
    summaries = load_summaries(runs)
    if not summaries:
        raise ValueError(f"{runs}: expected finished runs, found none")
    to = runs if to is None else Path(to)
    curves = load_curves(runs)
    gathered = Run(to)
    gathered.write_summary(summaries)
    write_atomically(to / "curves.csv", curves.round(5).to_csv(index=False, lineterminator="\n"))
    image = io.BytesIO()
    plot_curves(curves).savefig(image, format="png", dpi=130)
    write_atomically(to / "curves.png", image.getvalue())
    print(f"{to}: curves.csv, {gathered.summary_file.name}, curves.png")


def load_summaries(runs: Path) -> list[dict[str, Any]]:
    """The summaries of all finished runs of a folder, by model and seed."""
    summaries = [run.summary() for run in Run.all_at(runs)]
    return sorted(summaries, key=lambda run: (MODELS.index(run["model"]), run["seed"]))


def load_curves(runs: Path) -> pd.DataFrame:
    """Accuracy and density at every validation of all finished runs of a folder.

    Returns:
        A frame with the columns ``model``, ``seed``, ``step``, ``accuracy``, ``density`` (of the
        sampled graphs, or of a baseline's weights) and ``expected_density`` (of the SBM).
    """
    frames = []
    for run in load_summaries(runs):
        folder = Run.at(runs, run["model"], run["seed"])
        metrics = folder.metrics()
        with reading(folder.metrics_file, "the metrics of a run"):
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
