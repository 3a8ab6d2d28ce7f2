"""The interactive report of a trained run: one HTML page that opens without a network."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from sbmgraph.files import reading
from sbmgraph.run import Run
from sbmgraph.training.cli import told
from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.inputs import PICTURE_TASKS, decoder, read_text
from sbmgraph.training.run import load_run
from sbmgraph.training.task_cli import about
from sbmgraph.viz.report import ReportInput, density_history, write_report


def report(
    run: Path,
    out: Path | None = None,
    inputs: list[int] | None = None,
    split: str = "test",
    texts: list[str] | None = None,
    layers: list[int] | None = None,
    heads: list[int] | None = None,
    seed: int = 0,
) -> Path:
    """Writes the report of a run.

    Args:
        run: A run folder, as `lra fit` leaves it.
        out: The page (default: report.html in the run folder).
        inputs: Which items of the split to show (default: eight, from the longest to the shortest).
        split: train, val or test.
        texts: Own inputs instead: ListOps expressions, or texts for the byte tasks.
        layers: Which layers to show (default: all).
        heads: Which heads to show (default: all).
        seed: Seed of the sampled graphs.

    Raises:
        ValueError: If the run, an input, a layer or a head does not exist or does not fit.
    """
    folder = Run(run)
    classifier, data = load_run(run)
    shown = _read_texts(data.task, texts) if texts else _from_split(data, split, inputs)
    shape = _image_shape(data.task, shown)
    return write_report(
        out or folder.report_file,
        classifier.model,
        shown,
        title=f"{data.task}: what the heads learned",
        summary=_summary(folder),
        history=_history(folder),
        decode=decoder(data.task),
        image_shape=shape,
        layers=layers,
        heads=heads,
        seed=seed,
    )


def _from_split(
    data: SequenceDataModule, split: str, wanted: list[int] | None
) -> list[ReportInput]:
    if split not in data.datasets:
        raise ValueError(f"split: expected one of {', '.join(data.datasets)}, got {split!r}")
    dataset = data.datasets[split]
    if wanted is None:
        by_length = np.argsort(dataset.lengths, kind="stable")
        places = np.linspace(len(dataset) - 1, 0, min(8, len(dataset))).round().astype(int)
        wanted = by_length[places].tolist()
    shown = []
    for index in wanted:
        if not 0 <= index < len(dataset):
            raise ValueError(
                f"inputs: expected items in [0, {len(dataset)}) of the {split} split, got {index}"
            )
        item = dataset[index]
        label = "" if item.token_label is not None else f", class {item.label}"
        shown.append(ReportInput(item.tokens, f"{split} item {index}{label}"))
    return shown


def _read_texts(task: str, texts: list[str]) -> list[ReportInput]:
    return [ReportInput(read_text(task, [text]).tokens, "own input") for text in texts]


def _image_shape(task: str, shown: list[ReportInput]) -> tuple[int, int] | None:
    if task not in PICTURE_TASKS:
        return None
    side = round(shown[0].documents[0].numel() ** 0.5)
    return side, side


def _summary(run: Run) -> dict[str, str]:
    """Facts about the run for the page's head; a run that was cut off has none."""
    name = "/".join(run.path.resolve().parts[-3:])
    if not run.is_finished:
        return {"run": name, "state": "not finished"}
    facts: dict[str, Any] = run.summary()
    formats: dict[str, Callable[[Any], str]] = {
        "accuracy": "{:.1%}".format,
        "majority": "{:.1%}".format,
        "mean_density": "{:.1%}".format,
        "parameters": "{:,}".format,
        "steps": "{:,}".format,
        "seed": str,
    }
    names = {"accuracy": "test accuracy", "majority": "majority class", "mean_density": "density"}
    known = {key: show for key, show in formats.items() if facts.get(key) is not None}
    return {"run": name} | {names.get(k, k): show(facts[k]) for k, show in known.items()}


def _history(run: Run) -> Any:
    if not run.metrics_file.is_file():
        return None
    metrics = run.metrics()
    with reading(run.metrics_file, "the metrics of a run"):
        return density_history(metrics)


def main(argv: Sequence[str] | None = None, program: str = "tasks/report.py") -> int:
    """Runs the command line; returns the exit code: 0, or 2 for bad input."""
    parser = ArgumentParser(prog=program, description=about(report))
    parser.add_function_arguments(report, as_positional=True)
    given = parser.parse_args(sys.argv[1:] if argv is None else list(argv))

    def work() -> None:
        page = report(**given.as_dict())
        print(f"{page} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser")

    return told(program, work)
