"""Duplicates: does a token's value occur elsewhere in its sequence? (Cho et al., 2022, Section 5.1)

The synthetic task that separates heads which can attend to everything from those which cannot:
to solve it, one head must compare every token with every other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from sbmgraph.checks import check_positive_int
from sbmgraph.data.sequence import Sequence


class DuplicatesDataset(Dataset[Sequence]):
    """Random sequences, made when asked for; item ``i`` is a pure function of ``(seed, i)``.

    Args:
        num_items: Number of sequences; make it at least ``steps * batch_size`` for data that
            never recur.
        length: Tokens of a sequence.
        vocab_size: Number of values. A token is unique with probability
            ``(1 - 1 / vocab_size) ** (length - 1)``: one half for 368 values and 256 tokens.
        seed: Seed of all sequences; any sequence of integers that NumPy takes.
        name: Name for messages and results.

    Raises:
        ValueError: If a size is not positive.
    """

    num_classes = 2
    num_documents = 1

    def __init__(
        self,
        num_items: int,
        length: int = 256,
        vocab_size: int = 368,
        seed: int | tuple[int, ...] = 0,
        name: str = "duplicates",
    ) -> None:
        sizes = {"num_items": num_items, "length": length, "vocab_size": vocab_size}
        for argument, value in sizes.items():
            check_positive_int(argument, value)
        self.num_items = num_items
        self.max_length = length
        self.vocab_size = vocab_size
        self.seed = seed
        self.name = name

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every item, int64 ``[N]``."""
        return np.full(self.num_items, self.max_length)

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> Sequence:
        rng = np.random.default_rng([*np.atleast_1d(self.seed), range(self.num_items)[index]])
        tokens = rng.integers(0, self.vocab_size, size=self.max_length)
        repeated = np.bincount(tokens, minlength=self.vocab_size)[tokens] > 1
        token_label = torch.from_numpy(repeated.astype(np.int64))
        return Sequence([torch.from_numpy(tokens)], 0, token_label)


def prepare_duplicates(
    root: Path,
    cache_root: Path,
    *,
    length: int = 256,
    vocab_size: int = 368,
    num_train: int = 512_000,
    num_val: int = 1_024,
    num_test: int = 4_096,
    seed: int = 0,
) -> dict[str, DuplicatesDataset]:
    """The duplicates task; nothing is read or written.

    Args:
        root: Unused.
        cache_root: Unused.
        length: Tokens of a sequence.
        vocab_size: Number of values.
        num_train: Training sequences; the default is the paper's 2,000 steps of 256, all new.
        num_val: Sequences for validation.
        num_test: Sequences for testing.
        seed: Seed of all of them.
    """
    sizes = {"train": num_train, "val": num_val, "test": num_test}
    return {
        split: DuplicatesDataset(size, length, vocab_size, (seed, number), f"duplicates/{split}")
        for number, (split, size) in enumerate(sizes.items())
    }
