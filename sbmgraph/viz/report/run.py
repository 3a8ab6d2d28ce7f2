"""Running a model on the inputs of a report: one recorded pass to show, and a vote of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sbmgraph.record import LayerSample, evaluating, record


class ReportInput(NamedTuple):
    """One input of a report.

    Attributes:
        documents: The item's token sequences, each int64 of shape :obj:`[length]`; two for a model
            of document pairs.
        label: What the page calls the item, for instance its class.
    """

    documents: Sequence[Tensor]
    label: str = ""


class Vote(NamedTuple):
    """What a classifier says of one item over several sampled graphs.

    Attributes:
        counts: How often each class had the highest score, most often first.
        shown: What it said on the graphs that the page shows.
        probability: Mean probability of the most frequent class.
    """

    counts: dict[str, int]
    shown: str
    probability: float


class Pass(NamedTuple):
    """One item's pass through the model.

    Attributes:
        samples: Each layer's first sample, with the attention weight of every edge, or nothing
            where the layer attended over more than its sampled graph.
        vote: The classifier's vote, or nothing where the model is none of whole items.
    """

    samples: list[tuple[LayerSample, Tensor | None]]
    vote: Vote | None


def run_item(model: nn.Module, item: ReportInput, number: int, seed: int, num_votes: int) -> Pass:
    """Runs a model on one item; on ``num_votes`` sampled graphs where it scores whole items.

    Raises:
        ValueError: If the item is empty or does not fit the model, or the model has no SBM layer.
    """
    if not item.documents or any(tokens.numel() == 0 for tokens in item.documents):
        raise ValueError(f"'inputs' must hold tokens, got none in input {number}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    tokens = torch.cat([t.reshape(-1) for t in item.documents]).to(device, torch.int64)
    lengths = torch.tensor([t.numel() for t in item.documents], dtype=torch.int64, device=device)
    documents = torch.arange(lengths.numel(), dtype=torch.int64, device=device)
    batch = torch.repeat_interleave(documents, lengths)

    def score(sample: int) -> Any:
        generator = torch.Generator().manual_seed(seed + number + 1_000_003 * sample)
        return model(tokens, batch=batch, generator=generator)

    with evaluating(model), torch.no_grad():
        with record(model, weights=True) as runs:
            try:
                scores = [score(0)]
            except ValueError as error:
                raise ValueError(
                    f"'inputs' must fit the model, got input {number}: {error}"
                ) from error
        if len(runs) == 0:
            raise ValueError(
                f"'model' must have an SBM layer, got a {type(model).__name__} without one"
            )
        first = [layer_runs[0] for layer_runs in runs.by_layer().values()]
        samples = [(run, _weights(run)) for run in first]
        if not _scores_one_item(scores[0]):
            return Pass(samples, None)
        scores += [score(sample) for sample in range(1, num_votes)]
    return Pass(samples, _vote(torch.cat(scores).float()))


def _scores_one_item(scores: Any) -> bool:
    return isinstance(scores, Tensor) and scores.dim() == 2 and scores.size(0) == 1


def _vote(scores: Tensor) -> Vote:
    """The vote of rows of scores, [samples, classes]."""
    says = scores.argmax(dim=1).tolist()
    counts = {label: says.count(label) for label in sorted(set(says))}
    # Of classes named equally often, the one that is likelier over all samples.
    likely = scores.softmax(dim=1).mean(dim=0)
    order = sorted(counts, key=lambda label: (-counts[label], -float(likely[label])))
    return Vote({str(c): counts[c] for c in order}, str(says[0]), float(likely[order[0]]))


def _weights(run: LayerSample) -> Tensor | None:
    """The attention weight of every sampled edge; none where the layer attended over more."""
    if len(run.attended) > 1 or not bool(run.attended[0].sampled.all()):
        return None
    return run.weights
