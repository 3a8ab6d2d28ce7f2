"""The metrics of GLUE, by scikit-learn and scipy."""

from __future__ import annotations

import warnings

import numpy as np

from sbmgraph.checks import check_choice
from sbmgraph.data.glue import GLUE_TASKS


def glue_scores(task: str, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The scores of a task (Wang et al., ICLR 2019, Table 1).

    Where the predictions are all alike, Matthews' coefficient is 0, and so is F1 of a class that
    was never predicted, as scikit-learn has it; a correlation, which scipy leaves undefined (NaN),
    counts as 0, with a warning.

    Args:
        task: One of :data:`sbmgraph.data.GLUE_TASKS`.
        predictions: Class numbers, or scores of a regression, ``[N]``.
        labels: The same, as they should be.

    Returns:
        Each of the task's metrics, and ``"score"``, their mean: the task's share in GLUE's own
        average.

    Raises:
        ValueError: If there is nothing to score, the two differ in length, or a prediction is not
            finite.
    """
    check_choice("task", task, GLUE_TASKS)
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.ndim != 1 or predictions.shape != labels.shape or not len(labels):
        raise ValueError(
            f"'predictions' must be a vector as long as 'labels' and not empty, got shapes "
            f"{predictions.shape} and {labels.shape}"
        )
    for name, values in (("predictions", predictions), ("labels", labels)):
        if not np.isfinite(values).all():
            raise ValueError(f"'{name}' must be finite, got NaN or infinite entries")
    scores = {name: _METRICS[name](predictions, labels) for name in GLUE_TASKS[task].metrics}
    return scores | {"score": float(np.mean(list(scores.values())))}


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def _f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, zero_division=0.0))


def _matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def _pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    from scipy.stats import pearsonr

    if _is_constant("pearson", predictions, labels):
        return 0.0
    return float(pearsonr(predictions.astype(np.float64), labels.astype(np.float64)).statistic)


def _spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if _is_constant("spearman", predictions, labels):
        return 0.0
    return float(spearmanr(predictions, labels).statistic)


def _is_constant(metric: str, predictions: np.ndarray, labels: np.ndarray) -> bool:
    for name, values in (("predictions", predictions), ("labels", labels)):
        if (values == values[0]).all():
            warnings.warn(
                f"{metric}: all {name} are {values[0]:g}; the correlation is undefined and counts "
                "as 0",
                stacklevel=4,
            )
            return True
    return False


_METRICS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
