"""Gathers the summaries of runs and writes them as tables to ``RESULTS.md``.

``RESULTS/<name>.json`` lists the summaries of the runs called ``<name>``, as
:func:`sbmgraph.training.summarize` makes them. The folder is kept with the code, so that the tables
can be made again from it alone.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from sbmgraph.files import write_atomically, write_json
from sbmgraph.nn.models import MODELS
from sbmgraph.run import Run
from sbmgraph.training.cli import told
from sbmgraph.training.task_cli import PRESETS

TASKS = ("listops", "text", "retrieval", "image", "pathfinder32")

#: Test accuracy in percent (and density) that Cho et al. (NeurIPS 2022), Table 2, report.
REPORTED: dict[str, tuple[str, ...]] = {
    "full": ("37.22", "64.93", "79.55", "40.38", "74.26"),
    "linear": ("37.46", "64.90", "81.10", "38.48", "74.61"),
    "reformer": ("22.92", "64.76", "78.64", "43.72", "66.40"),
    "performer": ("18.25", "65.00", "79.01", "39.80", "70.79"),
    "linformer": ("38.44", "56.28", "78.09", "39.53", "67.62"),
    "nystromformer": ("37.22", "65.46", "79.35", "43.07", "71.97"),
    "sbm": ("37.45 (20.09 %)", "65.79 (26.10 %)", "80.00 (29.46 %)", "41.31 (20.49 %)",
            "75.12 (18.56 %)"),
}  # fmt: skip
NOT_RUN = "not run"
NEEDED = (
    *("name", "task", "model", "seed", "accuracy", "majority", "mean_density", "parameters"),
    *("steps", "batch_size", "seconds", "peak_memory_bytes", "command"),
)
"""What the tables need of a summary."""

INTRODUCTION = """# Results

Made by `python tasks/results.py` from the summaries in `tasks/results`. Accuracy is that of the
test split, by the checkpoint with the best validation accuracy, mean ± standard deviation over the
seeds in brackets; *majority* is what always answering the commonest label scores. Density is the
mean over layers and heads of the share of pairs that are attended to, in evaluation. Time is that
of training and validation by the clock, on two cores that other jobs shared and that paused some
runs for minutes, or on the GPU that stands beside it, where several runs shared it: an upper bound,
not for comparisons. Memory is the process's or the GPU's peak. The column
*reported* is Table 2 of Cho et al. (NeurIPS 2022), with their density. Every row's command follows
its table.
"""

OTHER_NOTE = """Finished runs with a name of their own; their commands say what they are.
"""

PAPER_NOTE = """A run that stopped before the paper's number of steps says so in the column *steps*:
its figures are not to be compared with the reported ones. Text is validated on a held-out tenth of
train unless its row says *validated on test*, which is what the original does.
"""

QUICK_NOTE = """Smaller inputs and fewer steps, chosen so that two CPU cores show learning within
minutes. They say that the training works, and nothing about the ranking of the models at the
paper's setting. Their times were taken while other jobs shared the cores: upper bounds.
"""


def write_results(runs: Sequence[Path], results: Path, output: Path) -> list[str]:
    """Writes the tables.

    Args:
        runs: Folders below which finished runs are taken in first.
        results: Folder of the gathered summaries.
        output: The Markdown file.

    Returns:
        What was left out, and why: a line a run.

    Raises:
        ValueError: If there is no finished run below a folder.
    """
    left_out = collect(runs, results)
    write_atomically(output, document(load(results), results))
    return left_out


def collect(runs: Iterable[Path], results: Path) -> list[str]:
    """Takes the summaries of finished runs into the files of ``results``.

    Of two runs with one name, model and seed that with more steps stays, of as many the newer.

    Returns:
        What was left out, and why: a line a run.

    Raises:
        ValueError: If there is no finished run below a folder.
    """
    left_out: list[str] = []
    found: dict[str, list[tuple[dict[str, Any], str]]] = {}
    for folder in runs:
        taken = 0
        # The curves' summary.json of the duplicates task lists runs that have their own.
        for path in sorted(
            (run.summary_file for run in Run.below(folder)), key=lambda path: path.stat().st_mtime
        ):
            summary = _read(path)
            if isinstance(summary, list):
                continue
            fault = _fault(summary)
            if fault is not None:
                left_out.append(f"{path}: {fault}")
                continue
            taken += 1
            if not summary["name"].startswith("graphs_"):  # those are in graphs.json already
                summary.pop("folder", None)
                found.setdefault(summary["name"], []).append((summary, str(path)))
        if not taken:
            raise ValueError(f"{folder}: expected a finished run with a summary.json, found none")
    for name, new in found.items():
        path = results / f"{name}.json"
        merged = {_key(run): run for run in (json.loads(path.read_text()) if path.exists() else [])}
        for run, source in new:
            older = merged.get(_key(run))
            if older is not None and older["steps"] > run["steps"]:
                left_out.append(
                    f"{source}: {run['steps']:,} steps of {name}, {run['model']}, seed "
                    f"{run['seed']}, of which a run of {older['steps']:,} steps is there"
                )
                continue
            merged[_key(run)] = run
        write_json(path, [merged[key] for key in sorted(merged)])
    return left_out


def _key(run: dict[str, Any]) -> tuple[str, int]:
    return run["model"], run["seed"]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _fault(summary: Any) -> str | None:
    if not isinstance(summary, dict):
        return "not the JSON of a finished run"
    missing = [key for key in NEEDED if key not in summary]
    if missing:
        return f"without {', '.join(missing)}"
    if not re.fullmatch(r"[^/\\\0]+", str(summary["name"])) or str(summary["name"]) in (".", ".."):
        return f"with the name {summary['name']!r}, which is not one folder's"
    return None


def load(results: Path) -> dict[str, list[dict[str, Any]]]:
    """The gathered summaries, by the name of the runs."""
    named = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    named |= {
        run.path.name: run.summary() for run in Run.below(results) if run.path.parent == results
    }
    return {name: runs for name, runs in named.items() if isinstance(runs, list)}


def document(named: dict[str, list[dict[str, Any]]], results: Path) -> str:
    """All tables."""
    paper, quick = ("", "_authors"), ("_quick", "_sparse")
    shown = [f"{task}{suffix}" for task in TASKS for suffix in (*paper, *quick)]
    parts = [INTRODUCTION, "## Long Range Arena, the paper's setting\n", PAPER_NOTE]
    parts += _sections(named, paper)
    parts += ["## Long Range Arena, quick presets\n", QUICK_NOTE]
    parts += _sections(named, quick)
    parts += ["## Duplicates\n"]
    duplicates = [name for name in named if name.startswith("duplicates")]
    parts += [task_section(name, None, named[name]) for name in duplicates] or [f"{NOT_RUN}\n"]
    parts += [extra for extra in [graph_section(results)] if extra]
    others = [
        name
        for name, runs in named.items()
        if name not in shown and name not in duplicates and not any(map(_fault, runs))
    ]
    if others:
        parts += ["## Other runs\n", OTHER_NOTE]
        parts += [task_section(name, None, named[name], only_run=True) for name in others]
    return "\n".join(parts)


def _sections(named: dict[str, list[dict[str, Any]]], suffixes: Sequence[str]) -> list[str]:
    """The tasks with a run, of every variant, and one sentence for the others; of the first variant
    also which models are missing."""
    parts, missing = [], []
    for task in TASKS:
        for suffix in suffixes:
            name, first = task + suffix, suffix == suffixes[0]
            if named.get(name):
                parts.append(task_section(name, task, named[name], only_run=True))
                left = [model for model in MODELS if model not in _models(named[name])]
                if left and first:
                    parts.append(f"Not run: {', '.join(left)}.\n")
            elif first:
                missing.append(task)
    if missing:
        config = f"tasks/configs/TASK{suffixes[0]}.yaml"
        command = f"`python tasks/lra.py fit --config {config} --model.name MODEL`"
        parts.append(f"Of {', '.join(missing)} nothing was run in this setting: {command}.\n")
    return parts


def _models(runs: list[dict[str, Any]]) -> set[str]:
    return {run["model"] for run in runs}


def task_section(
    name: str, task: str | None, runs: list[dict[str, Any]], only_run: bool = False
) -> str:
    """The table of one task: a row a model and number of steps, then the commands.

    Args:
        name: The runs' name.
        task: The task, where the runs are a preset's.
        runs: Their summaries.
        only_run: Whether to leave out the models that were not run.
    """
    columns = ["model", "accuracy", "majority", "density", "parameters", "steps", "time", "memory"]
    paper = task is not None and name in (task, f"{task}_authors")
    if paper:
        columns.append("reported")
    lines = [
        f"### {name}\n",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    present = _models(runs)
    names = [model for model in MODELS if model in present or not only_run]
    for model in [*names, *sorted(present - set(MODELS))]:
        own = [run for run in runs if run["model"] == model]
        # Runs of other lengths are other experiments: never one mean.
        lengths = sorted({run["steps"] for run in own}, reverse=True) or [None]
        for steps in lengths:
            cells = _cells([run for run in own if run["steps"] == steps], _paper_steps(name))
            if paper and task is not None:
                reported = REPORTED.get(model)
                cells.append(reported[TASKS.index(task)] if reported else "–")
            lines.append(f"| {model} | " + " | ".join(cells) + " |")
    lines += ["", *_commands(name, runs, task), ""]
    return "\n".join(lines)


def graph_section(results: Path) -> str | None:
    """The table of the graph tasks, made by ``tasks/graphs.py``."""
    path = results / "graphs.json"
    if not path.exists():
        return None
    from sbmgraph.training.graphs.table import section

    return section(path)


def _cells(runs: list[dict[str, Any]], steps: int | None) -> list[str]:
    if not runs:
        return [NOT_RUN, *["–"] * 6]
    densities = [run["mean_density"] for run in runs if run["mean_density"] is not None]
    return [
        _accuracy(runs),
        f"{100 * runs[0]['majority']:.1f} %",
        f"{100 * statistics.mean(densities):.1f} %" if densities else "–",
        f"{runs[0]['parameters']:,}",
        _steps(runs, steps),
        _time(statistics.mean(run["seconds"] for run in runs)) + _device(runs),
        f"{max(run['peak_memory_bytes'] for run in runs) / 2**30:.1f} GiB",
    ]


def _accuracy(runs: list[dict[str, Any]]) -> str:
    values = [100 * run["accuracy"] for run in runs]
    mean = f"{statistics.mean(values):.2f}"
    if len(values) > 1:
        mean += f" ± {statistics.stdev(values):.2f}"
    on_test = any(run.get("options", {}).get("validation") == "test" for run in runs)
    return f"{mean} ({len(values)})" + (", validated on test" if on_test else "")


def _steps(runs: list[dict[str, Any]], paper: int | None) -> str:
    steps = sorted({run["steps"] for run in runs})
    text = " to ".join(f"{value:,}" for value in {steps[0]: 0, steps[-1]: 0})
    text += f" × {runs[0]['batch_size']}"
    return f"{text} of {paper:,}" if paper and steps[0] < paper else text


def _device(runs: list[dict[str, Any]]) -> str:
    """The accelerators that runs were made on."""
    names = {run.get("device", "") for run in runs}
    return "".join(f", {name}" for name in sorted(names) if name.startswith("NVIDIA"))


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _commands(name: str, runs: list[dict[str, Any]], task: str | None) -> list[str]:
    if not runs:
        command = f"`python tasks/lra.py fit --config tasks/configs/{name}.yaml --model.name MODEL`"
        return [command] if task else []
    commands: dict[str, list[str]] = {}
    for run in runs:
        label = f"{run['model']} {run['seed']}"
        commands.setdefault(run["command"], []).append(label)
    return [f"- {', '.join(labels)}: `{command}`" for command, labels in commands.items()]


def _paper_steps(name: str) -> int | None:
    path = PRESETS / f"{name}.yaml"
    if name.removesuffix("_authors") not in TASKS or not path.exists():
        return None
    return yaml.safe_load(path.read_text())["trainer"]["max_steps"]


def main(
    argv: Sequence[str] | None = None,
    program: str = "tasks/results.py",
    results: Path = Path("tasks/results"),
    output: Path = Path("RESULTS.md"),
) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input.

    Args:
        argv: The arguments. (default: the program's)
        program: Name of the program in messages.
        results: Where the gathered summaries are unless the arguments say otherwise.
        output: The Markdown file, likewise.
    """
    parser = ArgumentParser(description="Writes the tables of all gathered runs.", prog=program)
    parser.add_argument("runs", nargs="*", type=Path, help="Folders with finished runs to take in")
    parser.add_argument("--results", type=Path, default=results, help="Gathered summaries")
    parser.add_argument("--output", type=Path, default=output, help="The Markdown file")
    given = parser.parse_args(sys.argv[1:] if argv is None else list(argv))

    def work() -> None:
        for line in write_results(given.runs or (), given.results, given.output):
            print(f"left out: {line}", file=sys.stderr)
        print(given.output)

    return told(program, work)
