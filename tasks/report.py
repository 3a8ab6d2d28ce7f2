"""Writes the interactive report of a trained run: one HTML page that opens without a network.

Usage::

    python tasks/report.py runs/listops_quick/sbm/seed1
    python tasks/report.py RUN --inputs [3,14,15] --split val --layers [0] --out report.html
    python tasks/report.py RUN --texts '["[MAX 2 9 [MIN 4 7 ] 0 ]"]'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import CLI

from sbmgraph.data.listops import VOCABULARY
from sbmgraph.training import SequenceDataModule, load_run
from sbmgraph.viz.report import ReportInput, density_history, write_report

PROGRAM = "tasks/report.py"
IMAGE_TASKS = ("image", "pathfinder32")
BYTE_TASKS = ("text", "retrieval")


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
        run: A run folder, as `tasks/lra.py fit` leaves it.
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
    classifier, data = load_run(run)
    shown = _read_texts(data.task, texts) if texts else _from_split(data, split, inputs)
    shape = _image_shape(data.task, shown)
    return write_report(
        out or run / "report.html",
        classifier.model,
        shown,
        title=f"{data.task}: what the heads learned",
        summary=_summary(run),
        history=_history(run),
        decode=decoder(data.task),
        image_shape=shape,
        layers=layers,
        heads=heads,
        seed=seed,
    )


def decoder(task: str) -> Callable[[int], str]:
    """The text of a task's token numbers."""
    if task == "listops":
        return lambda token: VOCABULARY[token] if token < len(VOCABULARY) else f"id {token}"
    if task in BYTE_TASKS:
        return lambda token: chr(token - 1) if token else ""
    return str


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
    if task == "listops":
        known = {word: number for number, word in enumerate(VOCABULARY)}
        return [ReportInput([_look_up(text.split(), known)], "own input") for text in texts]
    if task == "text":
        encoded = [torch.tensor([byte + 1 for byte in text.encode()]) for text in texts]
        return [ReportInput([tokens], "own input") for tokens in encoded]
    raise ValueError(f"texts: expected none for the task {task}, got {len(texts)}")


def _look_up(words: list[str], known: dict[str, int]) -> torch.Tensor:
    unknown = sorted(set(words) - set(known))
    if unknown:
        raise ValueError(f"texts: expected ListOps tokens with spaces between, got {unknown[0]!r}")
    return torch.tensor([known[word] for word in words], dtype=torch.int64)


def _image_shape(task: str, shown: list[ReportInput]) -> tuple[int, int] | None:
    if task not in IMAGE_TASKS:
        return None
    side = round(shown[0].documents[0].numel() ** 0.5)
    return side, side


def _summary(run: Path) -> dict[str, str]:
    """Facts about the run for the page's head; a run that was cut off has none."""
    path = run / "summary.json"
    name = "/".join(run.resolve().parts[-3:])
    if not path.is_file():
        return {"run": name, "state": "not finished"}
    facts: dict[str, Any] = json.loads(path.read_text())
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


def _history(run: Path) -> Any:
    import pandas as pd

    path = run / "metrics.csv"
    return density_history(pd.read_csv(path)) if path.is_file() else None


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; the exit code is 2 for bad input."""
    try:
        page = CLI(report, args=argv, as_positional=True)
    except (ValueError, FileNotFoundError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    print(f"{page} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
