"""The density that each input is given, and what explains it: its length, its label, its operator.

The method's claim is that a head chooses its density by the input; this says by what.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np
import pandas as pd
import torch

from sbmgraph.data import collate
from sbmgraph.data.listops import VOCABULARY
from sbmgraph.record import record
from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.module import SequenceClassifier, by_layer

FEATURES = ("length", "label", "operator", "correct")
"""What may explain a density, where a task has it."""


@torch.no_grad()
def density_by_input(
    model: SequenceClassifier,
    data: SequenceDataModule,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Every input's density, expected by the SBM before sampling and so free of sampling noise.

    Args:
        model: A model with SBM layers.
        data: Its data.
        split: ``"train"``, ``"val"`` or ``"test"``.
        limit: Look at so many items of the split only, drawn with ``seed``.
        seed: Seed of that, and of the sampled graphs.

    Returns:
        A row an item: ``item``, ``length`` (tokens), ``label`` and ``correct`` (where items have a
        label), ``operator`` (ListOps: the outermost), ``density`` (the mean) and
        ``layer{l}/head{h}``.

    Raises:
        ValueError: If the split does not exist, or the model has no SBM layer.
    """
    if split not in data.datasets:
        raise ValueError(f"split: expected one of {', '.join(data.datasets)}, got {split!r}")
    dataset = data.datasets[split]
    chosen = np.arange(len(dataset))
    if limit is not None and limit < len(dataset):
        chosen = np.sort(np.random.default_rng(seed).choice(len(dataset), limit, replace=False))
    rows: list[dict[str, object]] = []
    devices = [model.device] if model.device.type == "cuda" else []
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            for part in np.array_split(chosen, max(len(chosen) // data.eval_batch_size, 1)):
                rows += _rows(model, data, dataset, part.tolist())
    finally:
        model.train(training)
    return pd.DataFrame(rows)


def _rows(
    model: SequenceClassifier, data: SequenceDataModule, dataset: object, items: Items[int]
) -> list[dict[str, object]]:
    sequences = [dataset[item] for item in items]  # type: ignore[index]
    batch = data.on_after_batch_transfer(collate(sequences).to(model.device))
    with record(model.model) as runs:
        scores = model(batch)
    if not len(runs):
        raise ValueError("model: expected one with SBM layers, got one without")
    documents = len(sequences[0].tokens)
    columns: dict[str, np.ndarray] = {}
    for layer, samples in enumerate(by_layer(runs)):
        expected = torch.cat([run.sbm.expected_density() for run in samples]).double().cpu()
        expected = expected.view(-1, len(sequences), documents, expected.size(-1)).mean((0, 2))
        for head in range(expected.size(-1)):
            columns[f"layer{layer}/head{head}"] = expected[:, head].numpy()
    rows: list[dict[str, object]] = []
    by_token = sequences[0].token_label is not None
    for place, (item, sequence) in enumerate(zip(items, sequences, strict=True)):
        row: dict[str, object] = {"item": item, "length": sum(len(d) for d in sequence.tokens)}
        if not by_token:
            row["label"] = sequence.label
            row["correct"] = bool(scores[place].argmax() == sequence.label)
        if data.task == "listops":
            row["operator"] = VOCABULARY[int(sequence.tokens[0][0])]
        values = {name: float(column[place]) for name, column in columns.items()}
        rows.append({**row, "density": float(np.mean(list(values.values()))), **values})
    return rows


def explain_density(frame: pd.DataFrame) -> pd.DataFrame:
    """How much of each head's variation over inputs one feature explains by itself.

    Args:
        frame: Of :func:`density_by_input`.

    Returns:
        A row a head (and ``density``, their mean) with ``mean``, ``deviation`` and a column a
        feature: the share of variance explained, between 0 and 1: of ``length`` by a polynomial of
        degree 2 in its logarithm, of the others between groups (eta squared); less what as many
        random groups would explain on average (the adjustment of R squared).
    """
    heads = ["density", *(name for name in frame if "/head" in str(name))]
    features = [name for name in FEATURES if name in frame]
    table = []
    for head in heads:
        values = frame[head].to_numpy(dtype=np.float64)
        row = {"head": head, "mean": values.mean(), "deviation": values.std()}
        for feature in features:
            row[feature] = _explained(values, frame[feature])
        table.append(row)
    return pd.DataFrame(table)


def _explained(values: np.ndarray, feature: pd.Series) -> float:
    """The adjusted share of variance that a feature explains, cut at 0."""
    total = float(((values - values.mean()) ** 2).sum())
    if feature.name == "length":
        x = np.log(feature.to_numpy(dtype=np.float64))
        x = (x - x.mean()) / (x.std() or 1.0)
        basis = np.stack([np.ones_like(x), x, x * x], axis=1)
    else:
        codes, groups = pd.factorize(feature)
        basis = np.eye(len(groups))[codes]
    rank = int(np.linalg.matrix_rank(basis))
    left = len(values) - rank
    if total <= 1e-18 * len(values) or left < 1:
        return 0.0
    fitted = basis @ np.linalg.lstsq(basis, values, rcond=None)[0]
    residual = float(((values - fitted) ** 2).sum())
    return max(1.0 - residual / total * (len(values) - 1) / left, 0.0)
