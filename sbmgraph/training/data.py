"""A task's data as Lightning takes them, in rounds of equally many steps.

Lightning validates and saves between its epochs; an epoch here is a *round*, some number of batches
of an endless stream that runs through the data again and again. So how often a run is validated
and saved does not depend on how much data there are, and a run is always resumed where a round
begins: nothing is ever half done.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from sbmgraph.checks import check_positive_int
from sbmgraph.data import (
    BucketBatchSampler,
    ResumableDataLoader,
    SequenceBatch,
    collate,
    prepare,
)


class Rounds:
    """The endless stream of a loader's batches, cut into rounds.

    Args:
        loader: Its epochs follow one another without a break.
        batches: Batches of a round.
    """

    def __init__(self, loader: ResumableDataLoader, batches: int) -> None:
        check_positive_int("batches", batches)
        self.loader = loader
        self.batches = batches
        self._stream: Iterator[SequenceBatch] | None = None

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[SequenceBatch]:
        for _ in range(self.batches):
            yield self._next()

    def _next(self) -> SequenceBatch:
        if self._stream is None:
            self._stream = self._endless()
        return next(self._stream)

    def _endless(self) -> Iterator[SequenceBatch]:
        sampler = self.loader.batch_sampler
        while True:
            yield from self.loader
            sampler.set_epoch(sampler.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Where the next round begins."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state of :meth:`state_dict`."""
        self.loader.load_state_dict(state)
        self._stream = None


class SequenceDataModule(L.LightningDataModule):
    """The data of one task.

    Args:
        task: One of :data:`sbmgraph.data.TASKS`.
        root: Data folder; see :func:`sbmgraph.data.prepare`. It is kept as an absolute path.
        batch_size: Items of an optimizer step on one device (of a micro-batch, where gradients are
            accumulated).
        eval_batch_size: Items of a batch in validation and test. (default: ``batch_size``)
        round_steps: Optimizer steps between two saved checkpoints.
        options: Options of the task's preparation.
        num_workers: Processes that load batches.
        seed: Seed of the order of the training items.
        pin_memory: Whether batches lie in page-locked memory.
        hide_zeros: Whether to leave out tokens with number 0, as the SBM-Transformer authors'
            loader does in every task. No task here pads; in pixel tasks 0 is black.
        validate_on_test: Whether the reviews of Text are validated on the test set, and none are
            held out of the training set for it, as LRA does. The best checkpoint is then chosen by
            the test score. The other tasks have a validation set of their own.
        drop_last_test: Whether the last test batch is left out where it is not full, as the
            SBM-Transformer authors' loader does. The accuracy is then that of fewer items.
        verify: Whether to compare prepared data with their checksums before they are used.

    Raises:
        ValueError: If an argument is out of range, or 'validate_on_test' is asked of another task
            than Text or of one that 'options' say to validate otherwise.
    """

    def __init__(
        self,
        task: str,
        root: str = "data",
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        round_steps: int = 100,
        options: dict[str, Any] | None = None,
        num_workers: int = 0,
        seed: int = 0,
        pin_memory: bool = False,
        hide_zeros: bool = False,
        validate_on_test: bool = False,
        drop_last_test: bool = False,
        verify: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int("batch_size", batch_size)
        check_positive_int("round_steps", round_steps)
        check_positive_int("num_workers", num_workers, 0)
        self.task = task
        self.root = Path(root).expanduser().resolve()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.round_steps = round_steps
        self.options = dict(options or {})
        if validate_on_test:
            _check_validation(task, self.options)
            self.options["validation"] = "test"
        self.num_workers = num_workers
        self.seed = seed
        self.pin_memory = pin_memory
        self.hide_zeros = hide_zeros
        self.drop_last_test = drop_last_test
        self.verify = verify
        self._datasets: dict[str, Any] | None = None

    @property
    def datasets(self) -> dict[str, Any]:
        """``train``, ``val`` and ``test``, prepared on first use."""
        if self._datasets is None:
            options = {"verify": self.verify, **self.options}
            self._datasets = prepare(self.task, self.root, **options)
        return self._datasets

    @property
    def model_arguments(self) -> dict[str, Any]:
        """What the data determine of :class:`~sbmgraph.training.SequenceClassifier`."""
        train = self.datasets["train"]
        return {
            "task": self.task,
            "vocab_size": train.vocab_size,
            "num_classes": train.num_classes,
            "max_length": train.max_length,
            "num_documents": train.num_documents,
            "token_labels": len(train) > 0 and train[0].token_label is not None,
        }

    def majority(self, split: str = "test") -> float:
        """Accuracy of always answering the commonest label of ``split``."""
        dataset = self.datasets[split]
        if hasattr(dataset, "majority"):
            return dataset.majority()
        labels = np.concatenate([dataset[i].token_label.numpy() for i in range(len(dataset))])
        return float(np.bincount(labels).max() / len(labels))

    def train_dataloader(self) -> Rounds:
        """The endless stream of training batches, a round an epoch."""
        sampler = BucketBatchSampler(
            self.datasets["train"].lengths,
            self.batch_size,
            seed=self.seed,
            drop_last=True,
            **self._ranks(),
        )
        accumulated = self.trainer.accumulate_grad_batches if self.trainer else 1
        loader = ResumableDataLoader(self.datasets["train"], sampler, **self._loading())
        return Rounds(loader, self.round_steps * accumulated)

    def val_dataloader(self) -> DataLoader[SequenceBatch]:
        """The validation set."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[SequenceBatch]:
        """The test set."""
        return self._eval_loader("test", drop_last=self.drop_last_test)

    def predict_dataloader(self) -> DataLoader[SequenceBatch]:
        """The whole test set in its stored order, so that answers can be told apart."""
        dataset, size = self.datasets["test"], self.eval_batch_size
        return DataLoader(dataset, batch_size=size, collate_fn=collate, **self._loading())

    def on_after_batch_transfer(
        self, batch: SequenceBatch, dataloader_idx: int = 0
    ) -> SequenceBatch:
        """Leaves out zeros where asked to."""
        return batch.without(0) if self.hide_zeros else batch

    def _eval_loader(self, split: str, drop_last: bool = False) -> DataLoader[SequenceBatch]:
        dataset = self.datasets[split]
        sampler = BucketBatchSampler(
            dataset.lengths,
            self.eval_batch_size,
            shuffle=False,
            drop_last=drop_last,
            **self._ranks(),
        )
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, **self._loading())

    def _loading(self) -> dict[str, Any]:
        return {"num_workers": self.num_workers, "pin_memory": self.pin_memory}

    def _ranks(self) -> dict[str, Any]:
        if self.trainer is None:
            return {}
        return {"num_replicas": self.trainer.world_size, "rank": self.trainer.global_rank}


def _check_validation(task: str, options: dict[str, Any]) -> None:
    if task != "text":
        raise ValueError(
            f"'validate_on_test' must be False for task {task!r}, which has a validation set of "
            "its own, got True"
        )
    if options.get("validation", "test") != "test":
        raise ValueError(
            "'validate_on_test' must be False where 'options' have validation: "
            f"{options['validation']!r}, got True"
        )
