"""Batches of similar length, in an order that a killed run can take up again exactly.

The order of an epoch is a pure function of ``(seed, epoch)``, and does not depend on the number of
processes: ``R`` ranks with batches of ``b`` items walk through the very batches that one process
with batches of ``R * b`` would see. The loader counts the batches it has *delivered*, so its state
is right whatever its workers have fetched ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sbmgraph.checks import check_positive_int
from sbmgraph.data.sequence import collate


class BucketBatchSampler(Sampler[list[int]]):
    """Batches of item numbers with similar lengths.

    Items are shuffled, sorted by length inside windows of ``window`` batches, cut into batches, and
    the batches shuffled again: padding (for models that need it) stays small and the order random.
    Without ``shuffle`` the same is done to the items in their stored order, always alike.

    Args:
        lengths: Tokens of every item, ``[N]``.
        batch_size: Items in a batch of one rank.
        shuffle: Whether every epoch has its own random order.
        seed: Seed of the order.
        num_replicas: Number of ranks ``R``.
        rank: This process's rank.
        drop_last: Drop the last batch where it is not full; all steps then weigh every item alike.
            Otherwise the rest is divided among the ranks as evenly as it goes; should there be
            fewer items than ranks, the last one is repeated so that no rank is left without.
        window: Batches that are sorted by length together.

    Raises:
        ValueError: On sizes that are not positive, a rank outside ``0 .. R - 1``, or where
            ``drop_last`` leaves no batch at all.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        drop_last: bool = False,
        window: int = 50,
    ) -> None:
        for name, value in [
            ("batch_size", batch_size),
            ("num_replicas", num_replicas),
            ("window", window),
        ]:
            check_positive_int(name, value)
        if not 0 <= rank < num_replicas:
            raise ValueError(f"'rank' must be from 0 to {num_replicas - 1}, got {rank}")
        if drop_last and len(lengths) < batch_size * num_replicas:
            raise ValueError(
                f"'batch_size' must be at most {len(lengths) // num_replicas}, for a full batch of "
                f"{len(lengths)} items over {num_replicas} rank(s) with 'drop_last', "
                f"got {batch_size}"
            )
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        # Private, or Lightning's predict takes this for torch's BatchSampler and makes it anew.
        self._drop_last = drop_last
        self.window = window
        self.epoch = 0
        self.start = 0

    @property
    def sampler(self) -> BucketBatchSampler:
        """The sampler itself, since Lightning looks for ``batch_sampler.sampler.set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration; a place taken up inside it is kept."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and the number of its batches that the next iteration skips."""
        return {"epoch": self.epoch, "batch": self.start, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the place of :meth:`state_dict`.

        Raises:
            ValueError: If the state is of other data, or of another seed or global batch size.
        """
        mine = self._identity()
        theirs = {key: state.get(key) for key in mine}
        if theirs != mine:
            raise ValueError(f"'state' must be of the batches of {mine}, got one of {theirs}")
        self.epoch, self.start = state["epoch"], state["batch"]

    def __len__(self) -> int:
        size = self.batch_size * self.num_replicas
        return len(self.lengths) // size if self._drop_last else -(-len(self.lengths) // size)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, so that an iterator which is never used (a DataLoader with workers makes two)
        # does not use up the place to start from.
        start, self.start = self.start, 0
        for batch in self._batches()[start:]:
            yield self._share(batch).tolist()

    def _batches(self) -> list[np.ndarray]:
        """The global batches of the epoch; one that is not full comes last."""
        rng = np.random.default_rng([self.seed, self.epoch if self.shuffle else 0])
        total = len(self.lengths)
        order = rng.permutation(total) if self.shuffle else np.arange(total)
        size = self.batch_size * self.num_replicas
        full = total // size * size
        span = size * self.window
        batches: list[np.ndarray] = []
        for begin in range(0, full, span):
            items = order[begin : min(begin + span, full)]
            items = items[np.argsort(self.lengths[items], kind="stable")]
            batches += list(items.reshape(-1, size))
        batches = [batches[i] for i in rng.permutation(len(batches))]
        if full < total and not self._drop_last:
            batches.append(order[full:])
        return batches

    def _share(self, batch: np.ndarray) -> np.ndarray:
        missing = self.num_replicas - len(batch)
        if missing > 0:
            batch = np.append(batch, np.repeat(batch[-1], missing))
        return batch[self.rank :: self.num_replicas]

    def _identity(self) -> dict[str, Any]:
        return {
            "items": len(self.lengths),
            "global_batch_size": self.batch_size * self.num_replicas,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }


class ResumableDataLoader(DataLoader):
    """A data loader over :class:`BucketBatchSampler` whose place can be saved and restored.

    ``state_dict`` counts delivered batches, so it is exact with any number of workers. Lightning
    (2.5 or newer) saves and restores the state of such loaders inside its checkpoints. Each rank
    is given its own sampler, so pass ``use_distributed_sampler=False`` to the trainer.

    Args:
        dataset: Items as :func:`sbmgraph.data.collate` takes them, or any with its own
            ``collate_fn``.
        batch_sampler: The order.
        **kwargs: Of :class:`torch.utils.data.DataLoader`, e.g. ``num_workers``, ``pin_memory``.
    """

    batch_sampler: BucketBatchSampler  # type: ignore[assignment]

    def __init__(self, dataset: Dataset, batch_sampler: BucketBatchSampler, **kwargs: Any) -> None:
        kwargs.setdefault("collate_fn", collate)
        # Without one of its own, every new iterator draws from torch's global generator, and a
        # resumed run, which makes its iterator at another moment, would go another way.
        kwargs.setdefault("generator", torch.Generator().manual_seed(batch_sampler.seed))
        super().__init__(dataset, batch_sampler=batch_sampler, **kwargs)
        self._delivered: tuple[int, int] | None = None

    def __iter__(self):
        return self._iterate()

    def _iterate(self):
        # A generator: nothing is fetched before the first `next`, because Lightning makes the
        # iterator first and calls `set_epoch` afterwards.
        sampler = self.batch_sampler
        epoch, batch = sampler.epoch, sampler.start
        self._delivered = (epoch, batch)
        for items in super().__iter__():
            batch += 1
            self._delivered = (epoch, batch)
            yield items

    def state_dict(self) -> dict[str, Any]:
        """Epoch and number of batches delivered of it."""
        state = self.batch_sampler.state_dict()
        if self._delivered is not None:
            state["epoch"], state["batch"] = self._delivered
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration continue after the batches that the state counts."""
        self.batch_sampler.load_state_dict(state)
        self._delivered = None
