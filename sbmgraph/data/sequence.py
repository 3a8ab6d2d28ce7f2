"""Token sequences of unequal length, stored, indexed and batched without any padding.

Attention over sampled edges sees a batch as one disjoint union of graphs, so a batch here is
PyG-like: all tokens concatenated, with a vector saying which sequence each belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class Sequence(NamedTuple):
    """One item of a data set.

    Args:
        tokens: The item's documents, each int64 ``[length]``; one, or two for Retrieval.
        label: Class of the item, or its score (a float) where the task is a regression.
        token_label: Class of every token (int64 ``[length]``), where the task labels tokens.
    """

    tokens: list[Tensor]
    label: int | float
    token_label: Tensor | None = None


@dataclass(eq=False)  # not frozen: Lightning converts the precision of a batch field by field
class SequenceBatch:
    """A ragged batch of ``B`` items with ``D`` documents each: ``B * D`` sequences, ``T`` tokens.

    Sequences are numbered item by item (``a0, b0, a1, b1, ...`` for ``D = 2``).

    Args:
        tokens: int64 ``[T]``, all sequences concatenated.
        batch: int64 ``[T]``, the sequence of each token, ascending.
        positions: int64 ``[T]``, the position of each token in its sequence, from 0.
        label: int64 ``[B]``; float32 where the task is a regression.
        num_documents: ``D``.
        token_label: int64 ``[T]``, or :obj:`None` where the task labels whole items.
    """

    tokens: Tensor
    batch: Tensor
    positions: Tensor
    label: Tensor
    num_documents: int = 1
    token_label: Tensor | None = None

    @property
    def num_sequences(self) -> int:
        """``B * D``; known even where some sequences are empty."""
        return self.label.numel() * self.num_documents

    def __len__(self) -> int:
        return self.label.numel()

    def lengths(self) -> Tensor:
        """Tokens of every sequence, int64 ``[B * D]``."""
        return torch.bincount(self.batch, minlength=self.num_sequences)

    def to(self, *args, **kwargs) -> SequenceBatch:
        """The batch with every tensor moved as by :meth:`torch.Tensor.to`."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> SequenceBatch:
        """The batch in page-locked memory (called by :class:`torch.utils.data.DataLoader`)."""
        return self._map(Tensor.pin_memory)

    def without(self, token: int) -> SequenceBatch:
        """The batch less every occurrence of ``token``; the others keep their positions.

        ``without(0)`` on pixel tasks gives what the SBM-Transformer authors train on: their loader
        takes id 0 for padding in every task, which hides the black pixels.
        """
        keep = self.tokens != token
        labels = None if self.token_label is None else self.token_label[keep]
        return replace(
            self,
            tokens=self.tokens[keep],
            batch=self.batch[keep],
            positions=self.positions[keep],
            token_label=labels,
        )

    def _map(self, function) -> SequenceBatch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {k: function(v) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


def collate(items: Items[Sequence]) -> SequenceBatch:
    """Concatenates items into one :class:`SequenceBatch`.

    Raises:
        ValueError: If there are no items, they differ in their number of documents, or some only
            have labels for their tokens, or not one a token.
    """
    if not items:
        raise ValueError("'items' must hold at least one sequence, got none")
    counts = {len(item.tokens) for item in items}
    if len(counts) != 1:
        raise ValueError(f"'items' must have one number of documents, got {sorted(counts)}")
    documents = [document for item in items for document in item.tokens]
    lengths = torch.tensor([document.numel() for document in documents])
    tokens = torch.cat(documents)
    starts = lengths.cumsum(0) - lengths
    token_labels = [item.token_label for item in items if item.token_label is not None]
    labelled = sum(labels.numel() for labels in token_labels)
    if token_labels and (len(token_labels), labelled) != (len(items), tokens.numel()):
        raise ValueError(
            f"'items' must have a label for each of {tokens.numel()} tokens or for none, "
            f"got {labelled} labels"
        )
    return SequenceBatch(
        tokens=tokens,
        batch=torch.repeat_interleave(torch.arange(len(documents)), lengths),
        positions=torch.arange(tokens.numel()) - torch.repeat_interleave(starts, lengths),
        label=torch.tensor([item.label for item in items]),
        num_documents=counts.pop(),
        token_label=torch.cat(token_labels) if token_labels else None,
    )


class SequenceDataset(Dataset[Sequence]):
    """Sequences held in three flat arrays, usually memory-mapped.

    Offsets and labels are checked here; tokens, of which there may be gigabytes, as items are read.

    Args:
        tokens: Any integer dtype ``[T]``, all documents concatenated.
        ptr: int64 ``[N * D + 1]``; document ``k`` is ``tokens[ptr[k]:ptr[k + 1]]``, and item ``i``
            owns documents ``i * D`` to ``i * D + D - 1``.
        labels: int64 ``[N]``; float32 scores where the task is a regression.
        name: Name for messages and results, e.g. ``"listops/train"``.
        vocab_size: Number of token ids, the padding id included where the task has one.
        num_classes: Number of labels.
        max_length: Longest document the task allows, in tokens.
        num_documents: ``D``.
        source: File of the tokens, for messages. (default: ``name``)

    Raises:
        ValueError: If the arrays do not fit together, an offset or a label is out of range, or a
            document is too long; on reading an item, if a token is out of range.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        ptr: np.ndarray,
        labels: np.ndarray,
        *,
        name: str,
        vocab_size: int,
        num_classes: int,
        max_length: int,
        num_documents: int = 1,
        source: str | None = None,
    ) -> None:
        if len(ptr) != len(labels) * num_documents + 1:
            raise ValueError(
                f"'ptr' must have {len(labels)} * {num_documents} + 1 entries, got {len(ptr)}"
            )
        if ptr[0] != 0 or ptr[-1] != len(tokens):
            raise ValueError(
                f"'ptr' must go from 0 to {len(tokens)}, the number of tokens, "
                f"got {ptr[0]} to {ptr[-1]}"
            )
        lengths = np.diff(ptr)
        if lengths.size and not (lengths.min() >= 0 and lengths.max() <= max_length):
            raise ValueError(
                f"'ptr' must give each document of {name} from 0 to {max_length} tokens, "
                f"got {lengths.min()} to {lengths.max()}"
            )
        classes = np.issubdtype(labels.dtype, np.integer)
        if classes and len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
            raise ValueError(
                f"'labels' must be from 0 to {num_classes - 1} in {name}, "
                f"got {labels.min()} to {labels.max()}"
            )
        self.tokens, self.ptr, self.labels = tokens, ptr, labels
        self.name = name
        self.source = source or name
        self.vocab_size = vocab_size
        self.num_classes = num_classes
        self.max_length = max_length
        self.num_documents = num_documents

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every item, its documents added up, int64 ``[N]``."""
        return np.diff(self.ptr[:: self.num_documents])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sequence:
        item = range(len(self))[index]
        first = item * self.num_documents
        bounds = self.ptr[first : first + self.num_documents + 1]
        found = self.tokens[bounds[0] : bounds[-1]]
        if found.size and not (found.min() >= 0 and found.max() < self.vocab_size):
            raise ValueError(
                f"{self.source}: expected tokens from 0 to {self.vocab_size - 1}, "
                f"got {found.min()} to {found.max()} in item {item}"
            )
        tokens = [
            torch.from_numpy(self.tokens[start:stop].astype(np.int64))
            for start, stop in pairwise(bounds)
        ]
        return Sequence(tokens, self.labels[item].item())

    def majority(self) -> float:
        """Share of the commonest label: what a constant answer scores."""
        _, counts = np.unique(self.labels, return_counts=True)
        return float(counts.max() / len(self)) if len(self) else 0.0

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {len(self)}, tokens={len(self.tokens)}, "
            f"vocab_size={self.vocab_size}, num_classes={self.num_classes})"
        )
