"""Runs beside one another: accuracy, density, time and memory over models and seeds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from sbmgraph.run import Run


def load_summaries(folders: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The summaries of all finished runs below some folders.

    Raises:
        ValueError: If there is none below one of them, or one cannot be read.
    """
    found: list[dict[str, Any]] = []
    for folder in folders:
        summaries = [
            summary for run in Run.below(folder) if isinstance(summary := run.summary(), dict)
        ]
        if not summaries:
            raise ValueError(f"{folder}: expected finished runs with a summary.json, found none")
        found += summaries
    return found


def compare_runs(summaries: list[dict[str, Any]]) -> pd.DataFrame:
    """A row a run name, model and number of steps, the most accurate first.

    Returns:
        A frame with ``name``, ``model``, ``seeds`` (their number), ``steps``, ``accuracy`` and
        ``accuracy_deviation`` (over seeds; missing for one), ``majority``, ``density`` (mean share
        of valid pairs; missing where a model weighs none), ``seconds`` and ``memory`` (bytes, the
        largest of the seeds).
    """
    rows = pd.DataFrame(summaries)
    rows["density"] = rows["mean_density"].astype("float64")
    groups = rows.groupby(["name", "model", "steps"], sort=True, dropna=False)
    table = groups.agg(
        seeds=("seed", "nunique"),
        accuracy=("accuracy", "mean"),
        accuracy_deviation=("accuracy", "std"),
        majority=("majority", "mean"),
        density=("density", "mean"),
        seconds=("seconds", "mean"),
        memory=("peak_memory_bytes", "max"),
    ).reset_index()
    return table.sort_values(["name", "accuracy"], ascending=[True, False], ignore_index=True)
