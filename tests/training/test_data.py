"""Rounds of an endless stream, and what the data determine of a model."""

import numpy as np
import pytest

from sbmgraph.data import BucketBatchSampler, ResumableDataLoader, Sequence, collate
from sbmgraph.training import Rounds, SequenceDataModule


class Numbers:
    """Items that are their own number."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        import torch

        return Sequence([torch.tensor([index])], 0)


def rounds(batches: int) -> Rounds:
    sampler = BucketBatchSampler(np.ones(10), batch_size=3, seed=5, drop_last=True)
    return Rounds(ResumableDataLoader(Numbers(), sampler, collate_fn=collate), batches)


def take(stream: Rounds, number: int) -> list[list[int]]:
    return [batch.tokens.tolist() for _ in range(number) for batch in stream]


def test_rounds_cut_the_stream_of_epochs_without_a_gap():
    epochs = []
    sampler = BucketBatchSampler(np.ones(10), batch_size=3, seed=5, drop_last=True)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        epochs += list(sampler)
    assert len(epochs) == 12
    assert take(rounds(4), 3) == epochs
    assert take(rounds(2), 6) == epochs
    assert len(rounds(4)) == 4


@pytest.mark.parametrize("done", range(5))
def test_rounds_go_on_from_their_state(done):
    whole = take(rounds(4), 6)
    stream = rounds(4)
    assert take(stream, done) == whole[: 4 * done]
    restored = rounds(4)
    restored.load_state_dict(stream.state_dict())
    assert take(restored, 6 - done) == whole[4 * done :]


def test_an_iterator_that_is_made_but_not_used_takes_nothing():
    stream = rounds(4)
    iter(stream)
    assert take(stream, 1) == take(rounds(4), 1)


def test_rounds_need_a_batch():
    with pytest.raises(ValueError, match="'batches' must be an integer >= 1, got 0"):
        rounds(0)


def test_model_arguments_come_from_the_data(data, root):
    assert data.model_arguments == {
        "task": "listops",
        "vocab_size": 16,
        "num_classes": 10,
        "max_length": 40,
        "num_documents": 1,
        "token_labels": False,
    }
    options = {"num_train": 4, "num_val": 4, "num_test": 64}
    duplicates = SequenceDataModule("duplicates", str(root), options=options)
    assert duplicates.model_arguments["token_labels"]
    test = duplicates.datasets["test"]
    ones = np.mean([test[i].token_label.float().mean().item() for i in range(64)])
    assert duplicates.majority("test") == pytest.approx(max(ones, 1 - ones))


def test_majority_is_the_share_of_the_commonest_label(data):
    labels = list(data.datasets["test"].labels)
    assert data.majority("test") == max(labels.count(label) for label in labels) / 20


def test_hide_zeros_leaves_positions_alone(root):
    data = SequenceDataModule(
        "duplicates",
        str(root),
        hide_zeros=True,
        batch_size=4,
        options={"vocab_size": 2, "num_train": 4, "num_val": 4},
    )
    batch = next(iter(data.val_dataloader()))
    kept = data.on_after_batch_transfer(batch)
    assert kept.tokens.tolist() == [1] * int(batch.tokens.sum())
    assert kept.positions.tolist() == batch.positions[batch.tokens == 1].tolist()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 0}, "'batch_size' must be an integer >= 1, got 0"),
        ({"round_steps": 0}, "'round_steps' must be an integer >= 1, got 0"),
        ({"num_workers": -1}, "'num_workers' must be an integer >= 0, got -1"),
    ],
)
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        SequenceDataModule("listops", **options)


def test_unknown_option_of_a_task(root):
    data = SequenceDataModule("listops", str(root), options={"lenght": 3})
    with pytest.raises(ValueError, match="lenght"):
        _ = data.datasets
