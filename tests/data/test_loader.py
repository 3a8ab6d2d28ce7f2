from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from sbmgraph.data import BucketBatchSampler, ResumableDataLoader

LENGTHS = np.random.default_rng(0).integers(1, 500, size=203)


class Numbers(Dataset):
    """Item i is i, so that a batch shows which items it holds."""

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, index: int) -> int:
        return index


def loader(num_workers: int = 0, **options) -> ResumableDataLoader:
    sampler = BucketBatchSampler(LENGTHS, 8, **{"seed": 1, **options})
    return ResumableDataLoader(Numbers(), sampler, collate_fn=torch.tensor, num_workers=num_workers)


def epochs(data: ResumableDataLoader, first: int, last: int) -> list[list[int]]:
    batches = []
    for epoch in range(first, last):
        data.batch_sampler.set_epoch(epoch)
        batches += [batch.tolist() for batch in data]
    return batches


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_has_every_item_once(shuffle, drop_last):
    sampler = BucketBatchSampler(LENGTHS, 8, shuffle=shuffle, drop_last=drop_last)
    batches = list(sampler)
    assert len(batches) == len(sampler) == (25 if drop_last else 26)
    assert all(len(batch) == 8 for batch in batches[:25])
    items = list(chain(*batches))
    assert len(items) == len(set(items)) == (200 if drop_last else 203)


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = BucketBatchSampler(LENGTHS, 8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)
    state = torch.get_rng_state()
    order(0, 0)
    assert state.equal(torch.get_rng_state())


def test_without_shuffle_all_epochs_are_alike():
    assert epochs(loader(shuffle=False), 0, 1) == epochs(loader(shuffle=False), 5, 6)


def test_batches_are_of_similar_length():
    lengths = np.random.default_rng(1).integers(1, 2000, size=4000)

    def padding(window: int) -> float:
        batches = list(BucketBatchSampler(lengths, 16, window=window))
        padded = sum(len(batch) * lengths[batch].max() for batch in batches)
        return padded / lengths.sum() - 1

    assert padding(window=1) > 0.5
    assert padding(window=50) < 0.05


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("replicas", [2, 3])
def test_ranks_share_the_batches_of_one_process(replicas, drop_last):
    options = {"seed": 5, "drop_last": drop_last}
    one = list(BucketBatchSampler(LENGTHS, 4 * replicas, **options))
    ranks = [
        list(BucketBatchSampler(LENGTHS, 4, num_replicas=replicas, rank=rank, **options))
        for rank in range(replicas)
    ]
    assert {len(batches) for batches in ranks} == {len(one)}
    for whole, *parts in zip(one, *ranks, strict=True):
        assert set(whole) == set(chain(*parts))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_no_rank_is_left_without_a_batch():
    ranks = [list(BucketBatchSampler(LENGTHS[:7], 3, num_replicas=2, rank=rank)) for rank in (0, 1)]
    assert [len(batch) for batch in ranks[0]] == [len(batch) for batch in ranks[1]] == [3, 1]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 25, 26, 27, 51])
def test_resume_continues_where_batches_were_delivered(num_workers, stop):
    whole = epochs(loader(), 0, 3)
    first = loader(num_workers)
    taken = []
    state = first.state_dict()
    for epoch in range(3):
        first.batch_sampler.set_epoch(epoch)
        for batch in first:
            if len(taken) == stop:
                break
            taken.append(batch.tolist())
            state = first.state_dict()
        if len(taken) == stop:
            break
    second = loader(num_workers)
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert taken + epochs(second, state["epoch"], 3) == whole


def test_iterating_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    list(loader())
    assert state.equal(torch.get_rng_state())


def test_state_of_other_data_is_refused():
    state = loader(seed=2).state_dict()
    with pytest.raises(
        ValueError, match=r"'state' must be of the batches of .*'seed': 1, .*got one of .*'seed': 2"
    ):
        loader().load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "'batch_size' must be an integer >= 1, got 0"),
        ({"batch_size": 4, "num_replicas": 2, "rank": 2}, "'rank' must be from 0 to 1, got 2"),
        ({"batch_size": 300, "drop_last": True}, "'batch_size' must be at most 203"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        BucketBatchSampler(LENGTHS, **options)


def test_lightning_resumes_in_the_middle_of_an_epoch(tmp_path):
    """A run stopped after any step, and resumed, sees the very batches of one never stopped."""
    lightning = pytest.importorskip("lightning.pytorch")

    class Recorder(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seen: list[list[int]] = []

        def training_step(self, batch, _):
            self.seen.append(batch.tolist())
            return self.layer(batch.float().unsqueeze(1)).mean()

        def validation_step(self, batch, _):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-6)

    def fit(steps: int, folder, resume=None, every: int | None = None) -> list[list[int]]:
        model = Recorder()
        saving = lightning.callbacks.ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)
        trainer = lightning.Trainer(
            max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, callbacks=[saving],
            enable_progress_bar=False, enable_model_summary=False, val_check_interval=every,
            check_val_every_n_epoch=None if every else 1, num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(model, loader(), loader(shuffle=False), ckpt_path=resume)
        return model.seen

    for every in (None, 10):
        folder = tmp_path / str(every)
        whole = fit(60, folder, every=every)
        assert whole == epochs(loader(), 0, 3)[:60]
        for step in (1, 10, 25, 26, 27, 40, 52, 53):
            (saved,) = folder.glob(f"*step={step}.ckpt")
            assert fit(60, tmp_path / "again", saved, every) == whole[step:], (every, step)
