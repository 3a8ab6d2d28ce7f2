"""Finished runs side by side on one page: models and seeds, accuracy and density."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sbmgraph.files import write_atomically
from sbmgraph.run import Run
from sbmgraph.viz.report.history import thinned
from sbmgraph.viz.report.html import render

CURVES = {
    "validation accuracy": "val/accuracy",
    "validation score": "val/score",
    "mean density": "train/density/",
}
"""Curves of training: the column of ``metrics.csv``, or the start of the columns to average."""

KIND = ("task", "model", "name", "pretrained", "steps", "batch_size", "options")
"""What runs of one row of the page share."""


class RunSummary(NamedTuple):
    """A finished run.

    Attributes:
        folder: Its folder.
        values: What its ``summary.json`` holds; ``task``, ``model`` and ``accuracy`` at least.
    """

    folder: Path
    values: Mapping[str, Any]

    @property
    def task(self) -> str:
        """Its task; GLUE's are tasks of their own."""
        part = self.values.get("glue_task")
        return f"{self.values['task']} {part}" if part else str(self.values["task"])

    @property
    def score(self) -> Any:
        """Its test accuracy, or GLUE's score of its task."""
        scores = self.values.get("scores")
        return scores.get("score") if scores else self.values["accuracy"]

    @property
    def kind(self) -> tuple[str, ...]:
        """What runs of one row of the page share: everything but the seed."""
        values = {**self.values, "task": self.task}
        return tuple(json.dumps(values.get(name), sort_keys=True) for name in KIND)


def write_comparison(
    path: str | Path, folders: Iterable[str | Path], *, title: str = "Runs side by side"
) -> Path:
    """Writes a page that compares finished runs: accuracy, density, training time and memory of
    every model, mean and standard deviation over its seeds, accuracy against density, the density
    of each head, and training curves. Pictures can be saved as PNG and as SVG.

    Models without SBM layers, for instance full attention, stand beside the others. A row's runs
    share all but the seed: task, model, name, steps, batch size and options of the data. For tasks
    of GLUE their score stands in the place of accuracy.

    Args:
        path (str or Path): The HTML file; it appears once it is complete.
        folders (iterable of str or Path): Run folders, or folders above some; see
            :func:`find_runs`.
        title (str, optional): Title of the page. (default: :obj:`"Runs side by side"`)

    Returns:
        The file.

    Raises:
        ValueError: If a folder holds no finished run, a ``summary.json`` cannot be read, or the
            file cannot be written.
    """
    write_atomically(path, comparison_html(find_runs(folders), title=title))
    return Path(path)


def comparison_html(runs: Iterable[RunSummary], *, title: str = "Runs side by side") -> str:
    """The page of :func:`write_comparison` as text."""
    runs = list(runs)
    if not runs:
        raise ValueError("'runs' must hold at least one finished run, got none")
    kinds: dict[tuple[str, ...], list[RunSummary]] = {}
    for run in runs:
        kinds.setdefault(run.kind, []).append(run)
    groups: list[dict[str, Any]] = [
        {
            "task": members[0].task,
            "name": name,
            "measure": "score" if members[0].values.get("scores") else "accuracy",
            "runs": [_run(run) for run in members],
        }
        for name, members in zip(_names(kinds), kinds.values(), strict=True)
    ]
    drawn = {name for group in groups for run in group["runs"] for name in run["curves"]}
    index = {"groups": groups, "curves": [name for name in CURVES if name in drawn]}
    return render("comparison.html", ("comparison.js",), title, index)


def find_runs(folders: Iterable[str | Path]) -> list[RunSummary]:
    """The finished runs in some folders: those that hold a ``summary.json`` themselves, or below
    them at any depth, each once, in the order of their paths. A ``summary.json`` that lists the
    runs below it, as the duplicates task leaves it, is no run.

    Raises:
        ValueError: If a folder does not exist or holds no finished run, or a ``summary.json`` is
            not one.
    """
    if isinstance(folders, str | Path):
        folders = [folders]
    found: dict[Path, RunSummary] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"{folder}: expected a folder of runs, found none")
        own = Run(folder)
        runs = _runs_of([own]) if own.is_finished else []
        runs = runs or _runs_of(Run.below(folder))
        if not runs:
            raise ValueError(
                f"{folder}: expected a finished run or folders of them, "
                f"found no {own.summary_file.name}"
            )
        for run in runs:
            found.setdefault(run.folder.resolve(), run)
    return list(found.values())


def _runs_of(runs: Iterable[Run]) -> list[RunSummary]:
    """Some runs with their results, less folders that list the summaries of others."""
    read = [(run.path, _read(run.summary_file)) for run in runs]
    return [RunSummary(folder, values) for folder, values in read if values is not None]


def _read(path: Path) -> dict[str, Any] | None:
    """A run's summary; nothing where the file lists those of several runs."""
    expected = "expected the JSON object of a finished run with task, model and accuracy"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {expected}, but could not read it ({error})") from error
    if isinstance(values, list) and values and not any(map(_missing, values)):
        return None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: {expected}, got {type(values).__name__}")
    if _missing(values):
        raise ValueError(f"{path}: {expected}, got one without {', '.join(_missing(values))}")
    return values


def _missing(values: Any) -> list[str]:
    """What a run's summary must have and this one has not."""
    needed = ("task", "model", "accuracy")
    return [name for name in needed if not isinstance(values, dict) or name not in values]


def _names(kinds: Mapping[tuple[str, ...], list[RunSummary]]) -> list[str]:
    """A short name of each kind: its model, and what else tells it from another of its task."""
    labels = {
        "name": "{}",
        "pretrained": "from {}",
        "steps": "{} steps",
        "batch_size": "{} a batch",
    }
    out = []
    for kind, (first, *_) in kinds.items():
        twins = [k for k in kinds if k[:2] == kind[:2] and k != kind]
        parts = [str(first.values["model"])]
        for place, key in enumerate(KIND):
            if key in labels and any(twin[place] != kind[place] for twin in twins):
                parts.append(labels[key].format(first.values.get(key)))
        if any(twin[-1] != kind[-1] for twin in twins):
            parts.append(_differences(first, [kinds[twin][0] for twin in twins]))
        out.append(", ".join(filter(None, parts)))
    return out


def _differences(run: RunSummary, twins: list[RunSummary]) -> str:
    """The options of a run that some twin has otherwise."""
    mine = run.values.get("options") or {}
    others = [twin.values.get("options") or {} for twin in twins]
    differing = [name for name in mine if any(other.get(name) != mine[name] for other in others)]
    return ", ".join(f"{name} {mine[name]}" for name in differing)


def _run(run: RunSummary) -> dict[str, Any]:
    """A run as the page reads it."""
    values = run.values
    return {
        "folder": str(run.folder),
        "seed": str(values.get("seed", "–")),
        "accuracy": _number(run.score),
        "majority": _number(values.get("majority")),
        # A converted encoder's full attention measures none.
        "density": 1.0 if values["model"] == "full" else _number(values.get("mean_density")),
        "heads": _matrix(values.get("density")),
        "strength": _mean(_matrix(values.get("block_strength"))),
        "parameters": _number(values.get("parameters")),
        "steps": _number(values.get("steps")),
        "seconds": _number(values.get("seconds")),
        "memory": _number(values.get("peak_memory_bytes")),
        "device": str(values.get("device", "–")),
        "curves": _curves(Run(run.folder).metrics_file),
    }


def _number(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


def _matrix(value: Any) -> list[list[float]] | None:
    """Numbers by layer and head; nothing where there are none."""
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        return None
    rows = [[number for number in map(_number, row) if number is not None] for row in value]
    return rows if any(rows) else None


def _mean(rows: list[list[float]] | None) -> float | None:
    values = [value for row in rows or [] for value in row]
    return sum(values) / len(values) if values else None


def _curves(path: Path) -> dict[str, dict[str, list[float]]]:
    """The curves that a run's ``metrics.csv`` has, thinned."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    out = {}
    for name, column in CURVES.items():
        points = []
        for row in rows:
            texts = [text for key, text in row.items() if key and _belongs(key, column)]
            values = [value for value in map(_parsed, texts) if value is not None]
            step = _parsed(row.get("step"))
            if values and step is not None:
                points.append((step, sum(values) / len(values)))
        if points:
            kept = [points[i] for i in thinned(len(points))]
            out[name] = {"step": [p[0] for p in kept], "value": [round(p[1], 6) for p in kept]}
    return out


def _belongs(key: str, column: str) -> bool:
    return key.startswith(column) if column.endswith("/") else key == column


def _parsed(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
