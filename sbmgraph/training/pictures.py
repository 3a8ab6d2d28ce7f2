"""The two pictures of a run folder, and what its heads look at in a sentence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from sbmgraph.analysis import describe_mixing
from sbmgraph.data import SequenceBatch, collate
from sbmgraph.files import write_atomically
from sbmgraph.record import LayerSample, evaluating, record
from sbmgraph.run import Run
from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.inputs import token_kind
from sbmgraph.training.module import SequenceClassifier
from sbmgraph.viz.adjacency import plot_sampled


def draw_density(run: Run) -> None:
    """Draws every head's density over training to ``density.png``, where there is any: lines as
    expected, dots as sampled."""
    metrics = run.metrics()
    prefix = "train/expected_density/"
    heads = [column.removeprefix(prefix) for column in metrics if column.startswith(prefix)]
    if not heads:
        return
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    ax = figure.subplots()
    for number, head in enumerate(heads):
        rows = metrics[metrics[prefix + head].notna()]
        label, color = head.replace("/", ", "), f"C{number % 10}"
        ax.plot(rows["step"] + 1, rows[prefix + head], color=color, label=label)
        ax.plot(rows["step"] + 1, rows[f"train/density/{head}"], ".", ms=2, color=color, alpha=0.4)
    ax.set(xlabel="optimizer steps", ylabel="density: expected (line), sampled (dots)")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize="small")
    _save(figure, run.density_picture)


def draw_graph(model: SequenceClassifier, data: SequenceDataModule, run: Run) -> None:
    """Draws the graph that one head samples on the longest test input to ``graph.png``, tokens
    sorted by block; the head is the one whose density is the nearest to a quarter, which shows
    most."""
    dataset = data.datasets["test"]
    batch = collate([dataset[int(np.argmax(dataset.lengths))]])
    batch = data.on_after_batch_transfer(batch)
    samples = _sampled(model.cpu(), batch)
    if not samples:
        return
    sample, head = _clearest(samples)
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    ax = figure.subplots()
    plot_sampled(sample.graph, sample.sbm, head=head, ax=ax)
    figure.suptitle(f"{sample.name}, head {head}", fontsize="small")
    _save(figure, run.graph_picture)


def describe_structure(
    model: SequenceClassifier, data: SequenceDataModule, limit: int = 100
) -> str | None:
    """What the clearest head attends to on the first test items, by kinds of tokens
    (:func:`~sbmgraph.analysis.describe_mixing`).

    Args:
        model: The model; it is evaluated on the CPU.
        data: Its data.
        limit: How many test items.

    Returns:
        A sentence; :obj:`None` without heads that sample, or where tokens have no kinds.
    """
    kind = token_kind(data.task)
    if kind is None:
        return None
    dataset = data.datasets["test"]
    batch = collate([dataset[item] for item in range(min(limit, len(dataset)))])
    batch = data.on_after_batch_transfer(batch)
    samples = _sampled(model.cpu(), batch)
    if not samples:
        return None
    return describe_mixing(samples, [kind(token) for token in batch.tokens.tolist()])


@torch.no_grad()
def _sampled(model: SequenceClassifier, batch: SequenceBatch, seed: int = 0) -> list[LayerSample]:
    """What every layer samples on a batch, in evaluation; the model's mode is left as it was."""
    with evaluating(model), torch.random.fork_rng(devices=[]), record(model.model) as samples:
        torch.manual_seed(seed)
        model(batch)
    return list(samples)


def draw_input(
    model: SequenceClassifier, batch: SequenceBatch, folder: Path, seed: int = 0
) -> list[Path]:
    """Draws every head's sampled graph on one input, tokens sorted by block, a file a head.

    Args:
        model: The model; its mode is left as it was.
        batch: One item.
        folder: Where to.
        seed: Seed of the sampled graphs.

    Returns:
        The files; none for a model without SBM layers.
    """
    samples = _sampled(model, batch, seed)
    paths = []
    for number, sample in enumerate(samples):
        for head in range(sample.graph.heads):
            figure = Figure(figsize=(5.4, 4.6), layout="constrained")
            plot_sampled(sample.graph, sample.sbm, head=head, ax=figure.subplots())
            figure.suptitle(f"layer {number}, head {head}", fontsize="small")
            paths.append(folder / f"layer{number}_head{head}.png")
            _save(figure, paths[-1])
    return paths


def _clearest(samples: list[LayerSample]) -> tuple[LayerSample, int]:
    heads = [(sample, head) for sample in samples for head in range(sample.graph.heads)]
    return min(heads, key=lambda item: abs(float(item[0].graph.density()[0, item[1]]) - 0.25))


def _save(figure: Figure, path: Path) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=130)
    write_atomically(path, image.getvalue())
