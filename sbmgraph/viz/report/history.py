"""Density over training, from what a run logged."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_DENSITY_COLUMN = re.compile(r"^(.+/)?density/layer(\d+)/head(\d+)$")


def density_history(metrics: pd.DataFrame) -> pd.DataFrame:
    """Sampled density over training from a run's logged metrics.

    Args:
        metrics (DataFrame): Rows of a logger: a column ``step`` and columns
            ``<stage>/density/layer<l>/head<h>``. Training's are taken where it has any.

    Returns:
        Columns ``step``, ``layer``, ``head`` and ``density``, without missing values.

    Raises:
        ValueError: If there is no column ``step``.
    """
    import pandas as pd

    if "step" not in metrics.columns:
        raise ValueError(f"'metrics' must have a column 'step', got {list(metrics.columns)}")
    found = [match for match in map(_DENSITY_COLUMN.match, metrics.columns) if match]
    stages = {match[1] for match in found}
    stage = "train/" if "train/" in stages else min(stages, default=None, key=str)
    parts = [
        pd.DataFrame(
            {
                "step": metrics["step"],
                "layer": int(match[2]),
                "head": int(match[3]),
                "density": metrics[match[0]],
            }
        )
        for match in found
        if match[1] == stage
    ]
    columns = ["step", "layer", "head", "density"]
    return pd.concat(parts).dropna()[columns] if parts else pd.DataFrame(columns=columns)


def history_lines(history: pd.DataFrame | None) -> list[dict[str, Any]]:
    """One line of the density history for each layer and head, thinned to 500 points."""
    if history is None:
        return []
    missing = {"step", "layer", "head", "density"} - set(history.columns)
    if missing:
        raise ValueError(
            "'history' must have the columns step, layer, head and density, "
            f"got {list(history.columns)}"
        )
    lines = []
    for (layer, head), part in history.groupby(["layer", "head"], sort=True):
        part = part.sort_values("step")
        part = part.iloc[thinned(len(part))]
        lines.append(
            {
                "layer": int(layer),
                "head": int(head),
                "step": part["step"].astype(float).tolist(),
                "density": part["density"].astype(float).round(6).tolist(),
            }
        )
    return lines


def thinned(size: int, most: int = 500) -> list[int]:
    """At most ``most`` of ``size`` positions, evenly, with the first and the last."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int)).tolist()
