"""The results of the graph tasks as a table."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from sbmgraph.training.graphs.models import MODELS
from sbmgraph.training.graphs.tasks import TASKS


def load(path: Path) -> dict[str, Any]:
    """Reads the results.

    Raises:
        ValueError: If the file is not one that :func:`save` wrote.
    """
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' must be a JSON file of results, got {error}") from None
    for key in ("runs", "commands"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"'{path}' must hold a list of '{key}', got another JSON")
    return content


REMARKS = """\
*partners*: the class of a node is a bit that a few nodes of a far community show. *tree-d*: the
root of a binary tree of depth d finds the one leaf with its key (Alon & Yahav, ICLR 2021). Budgets
are of minutes on two busy cores: that a model is at chance here says that it did not learn in so
few steps, not that it cannot.

SBM attention solves *partners* with a small part of the pairs, since what a node must look at is a
block; with softmax memberships its heads find the planted ones."""


def section(path: Path) -> str:
    """The results as a section of Markdown: mean ± standard deviation over seeds."""
    content = load(path)
    lines = [
        "## Long-range node classification on generated graphs",
        "",
        REMARKS,
        "",
        "Accuracy is the test set's, mean ± standard deviation over seeds; density that of the "
        f"global attention; CPU threads: {content['threads']}. *Blocks* is σ₂/σ₁ of the heads' "
        "probability matrices (below 0.05 rank one, from 0.2 clear blocks), *agreement* the "
        "adjusted mutual information of blocks and planted communities: medians over heads and "
        "seeds, – where not measured. Each command adds to what is there:",
        "",
        *(f"- `{command}`" for command in content["commands"]),
        "",
        "| task | model | accuracy (%) | seeds | density (%) | blocks | agreement | steps "
        "| seconds | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        own = [run for run in content["runs"] if run["task"] == task]
        if not own:
            lines.append(f"| {task} | all | not run | | | | | | | |")
            continue
        majority = statistics.mean(run["majority"] for run in own)
        lines.append(f"| {task} | majority class | {100 * majority:.1f} | | | | | | | |")
        variants = [run["model"] for run in own if run["model"] not in MODELS]
        for model in dict.fromkeys([*MODELS, *variants]):
            runs = [run for run in own if run["model"] == model]
            lines.append(f"| {task} | {model} | {_cells(runs)} |")
    return "\n".join(lines) + "\n"


def _cells(runs: list[dict[str, Any]]) -> str:
    if not runs:
        return "not run | | | | | | | "
    accuracy = _spread([100 * run["accuracy"] for run in runs])
    density = [run["density"] for run in runs if run["density"] is not None]
    peak = [run["peak_mib"] for run in runs if run["peak_mib"] is not None]
    cells = [
        accuracy,
        str(len(runs)),
        _spread([100 * value for value in density]) if density else "–",
        _median(runs, "block_strength"),
        _median(runs, "block_agreement"),
        str(max(run["steps"] for run in runs)),
        f"{statistics.mean(run['seconds'] for run in runs):.0f}",
        f"{max(peak):.0f}" if peak else "–",
    ]
    return " | ".join(cells)


def _median(runs: list[dict[str, Any]], key: str) -> str:
    values = [run[key] for run in runs if run.get(key) is not None]
    return f"{statistics.median(values):.2f}" if values else "–"


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
