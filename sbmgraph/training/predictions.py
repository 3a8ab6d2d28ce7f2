"""What a trained model says of one input, over several sampled graphs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sbmgraph.checks import check_positive_int
from sbmgraph.data import Sequence, SequenceBatch, collate
from sbmgraph.record import record
from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.module import SequenceClassifier


@dataclass(frozen=True)
class Prediction:
    """The answer to one input (where tokens are labelled, to each of its tokens).

    Attributes:
        probability: Of every class, the mean over sampled graphs, ``[C]`` or ``[T, C]``.
        deviation: Its standard deviation over them, of the same shape.
        votes: How often each class was the likeliest, of the same shape.
        density: Mean density of the sampled graphs; :obj:`None` without SBM layers.
        samples: The number of sampled graphs.
    """

    probability: Tensor
    deviation: Tensor
    votes: Tensor
    density: float | None
    samples: int

    @property
    def label(self) -> Tensor:
        """The likeliest class by the mean probability, ``[]`` or ``[T]``."""
        return self.probability.argmax(dim=-1)


@torch.no_grad()
def predict_item(
    model: SequenceClassifier,
    data: SequenceDataModule,
    item: Sequence,
    samples: int = 8,
    seed: int = 0,
) -> Prediction:
    """Classifies one item with several sampled graphs; the paper's claim of expressiveness is one
    about their mean (Section 3.4).

    Args:
        model: The model, on any device.
        data: Its data, which say what is hidden of an input.
        item: The item.
        samples: The number of sampled graphs.
        seed: Seed of the samples.

    Raises:
        ValueError: If the item does not fit the model.
    """
    check_positive_int("samples", samples)
    batch = to_batch(model, data, item)
    training = model.training
    model.eval()
    probabilities, densities = [], []
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            for _ in range(samples):
                with record(model.model) as runs:
                    probabilities.append(model(batch).double().softmax(dim=-1).cpu())
                densities += [float(run.graph.density().mean()) for run in runs]
    finally:
        model.train(training)
    stacked = torch.stack(probabilities)
    if item.token_label is None and not model.hparams["token_labels"]:
        stacked = stacked.squeeze(1)
    votes = torch.nn.functional.one_hot(stacked.argmax(dim=-1), stacked.size(-1)).sum(0)
    return Prediction(
        stacked.mean(0),
        stacked.std(0, correction=0),
        votes,
        sum(densities) / len(densities) if densities else None,
        samples,
    )


def to_batch(model: SequenceClassifier, data: SequenceDataModule, item: Sequence) -> SequenceBatch:
    """A batch of one item, as the model takes it.

    Raises:
        ValueError: If a token or the length is out of the model's range.
    """
    for document in item.tokens:
        top = model.hparams["vocab_size"]
        if document.numel() and not 0 <= int(document.min()) <= int(document.max()) < top:
            raise ValueError(
                f"text: expected token numbers from 0 to {top - 1}, got "
                f"{int(document.min())} to {int(document.max())}"
            )
        if document.numel() > model.hparams["max_length"]:
            raise ValueError(
                f"text: expected at most {model.hparams['max_length']} tokens, "
                f"got {document.numel()}"
            )
    return data.on_after_batch_transfer(collate([item]).to(model.device))
