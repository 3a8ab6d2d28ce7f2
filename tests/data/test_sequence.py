from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from sbmgraph.data import Sequence, SequenceBatch, SequenceDataset, collate


def dataset(lengths: list[int], num_documents: int = 1, **options) -> SequenceDataset:
    ptr = np.cumsum([0, *lengths])
    info = {"name": "toy", "vocab_size": 100, "num_classes": 3, "max_length": 50, **options}
    labels = np.arange(len(lengths) // num_documents) % 3
    tokens = np.arange(ptr[-1], dtype=np.uint16)
    return SequenceDataset(tokens, ptr, labels, num_documents=num_documents, **info)


def test_items_are_slices_of_the_flat_array():
    data = dataset([3, 0, 2])
    assert len(data) == 3
    assert [item.tokens[0].tolist() for item in data] == [[0, 1, 2], [], [3, 4]]
    assert [item.label for item in data] == [0, 1, 2]
    assert data[-1].tokens[0].dtype == torch.int64
    assert data.lengths.tolist() == [3, 0, 2]
    with pytest.raises(IndexError):
        data[3]


def test_two_documents_an_item():
    data = dataset([3, 1, 2, 4], num_documents=2)
    assert len(data) == 2
    assert [t.tolist() for t in data[1].tokens] == [[4, 5], [6, 7, 8, 9]]
    assert data.lengths.tolist() == [4, 6]


def test_collate_is_a_ragged_union():
    batch = collate([dataset([3, 0, 2])[i] for i in (2, 1, 0)])
    assert batch.tokens.tolist() == [3, 4, 0, 1, 2]
    assert batch.batch.tolist() == [0, 0, 2, 2, 2]
    assert batch.positions.tolist() == [0, 1, 0, 1, 2]
    assert batch.label.tolist() == [2, 1, 0]
    assert batch.lengths().tolist() == [2, 0, 3]
    assert batch.num_sequences == len(batch) == 3


def test_collate_orders_documents_item_by_item():
    data = dataset([3, 1, 2, 4], num_documents=2)
    batch = collate([data[1], data[0]])
    assert batch.num_sequences == 4
    assert len(batch) == 2
    assert batch.lengths().tolist() == [2, 4, 3, 1]
    assert batch.tokens.tolist() == [4, 5, 6, 7, 8, 9, 0, 1, 2, 3]


def test_collate_token_labels():
    items = [Sequence([torch.arange(2)], 0, torch.tensor([1, 0]))] * 2
    assert collate(items).token_label.tolist() == [1, 0, 1, 0]


def test_to_and_without():
    items = [Sequence([torch.tensor([0, 7, 0, 9])], 1, torch.tensor([1, 2, 3, 4]))]
    batch = collate(items * 2).without(0)
    assert batch.tokens.tolist() == [7, 9, 7, 9]
    assert batch.positions.tolist() == [1, 3, 1, 3]
    assert batch.token_label.tolist() == [2, 4, 2, 4]
    moved = batch.to("meta")
    assert moved.tokens.is_meta
    assert moved.label.is_meta
    assert moved.num_documents == 1
    assert collate([Sequence([torch.zeros(3).long()], 1)]).without(0).num_sequences == 1


def test_an_item_without_a_token_does_not_shift_the_others():
    """Its place in the batch is kept, first, in the middle or last; so are labels and documents."""
    zeros, ones = torch.zeros(2).long(), torch.ones(3).long()
    for items in ([zeros, ones, ones], [ones, zeros, ones], [ones, ones, zeros]):
        batch = collate([Sequence([tokens], k) for k, tokens in enumerate(items)]).without(0)
        assert batch.num_sequences == len(batch) == 3
        assert batch.lengths().tolist() == [3 * int(tokens.any()) for tokens in items]
        assert batch.label.tolist() == [0, 1, 2]
    pairs = collate([Sequence([zeros, ones], 0), Sequence([ones, zeros], 1)]).without(0)
    assert pairs.num_sequences == 4
    assert pairs.lengths().tolist() == [0, 3, 3, 0]
    assert pairs.batch.tolist() == [1, 1, 1, 2, 2, 2]


def test_batches_pickle():
    batch = collate([dataset([3])[0]])
    copy = pickle.loads(pickle.dumps(batch))
    assert isinstance(copy, SequenceBatch)
    assert copy.tokens.equal(batch.tokens)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "at least one"),
        (
            [Sequence([torch.zeros(1)], 0), Sequence([torch.zeros(1)] * 2, 0)],
            "one number of documents",
        ),
        (
            [Sequence([torch.zeros(1)], 0, torch.zeros(1)), Sequence([torch.zeros(1)], 0)],
            "a label for each of 2 tokens or for none, got 1 labels",
        ),
        ([Sequence([torch.zeros(2)], 0, torch.zeros(1))], "each of 2 tokens or for none"),
    ],
)
def test_collate_rejects(items, message):
    with pytest.raises(ValueError, match=message):
        collate(items)


def test_arrays_must_fit():
    with pytest.raises(ValueError, match=r"'labels' must be from 0 to 1 in toy, got 0 to 2"):
        dataset([1, 1, 1], num_classes=2)
    info = {"name": "toy", "vocab_size": 9, "num_classes": 2, "max_length": 9}
    with pytest.raises(ValueError, match=r"'ptr' must have 2 \* 1 \+ 1 entries, got 2"):
        SequenceDataset(np.zeros(3), np.array([0, 3]), np.array([0, 1]), **info)
    with pytest.raises(ValueError, match="number of tokens"):
        SequenceDataset(np.zeros(3), np.array([0, 4]), np.array([0]), **info)
    with pytest.raises(ValueError, match="each document of toy from 0 to 9 tokens, got -1 to 3"):
        SequenceDataset(np.zeros(3), np.array([0, 1, 0, 3]), np.zeros(3, int), **info)
    with pytest.raises(ValueError, match="each document of toy from 0 to 9 tokens, got 10 to 10"):
        SequenceDataset(np.zeros(10), np.array([0, 10]), np.zeros(1, int), **info)


@pytest.mark.parametrize("token", [-1, 9, 300])
def test_tokens_out_of_range_are_refused_as_they_are_read(token):
    info = {"name": "toy", "vocab_size": 9, "num_classes": 2, "max_length": 9}
    tokens = np.array([0, 8, token], dtype=np.int16)
    data = SequenceDataset(tokens, np.array([0, 2, 3]), np.array([0, 1]), source="a.tokens", **info)
    assert data[0].tokens[0].tolist() == [0, 8]
    with pytest.raises(
        ValueError, match=rf"a\.tokens: expected tokens from 0 to 8, got {token} to"
    ):
        data[1]


def test_majority():
    info = {"name": "toy", "vocab_size": 9, "num_classes": 3, "max_length": 9}
    data = SequenceDataset(np.zeros(0), np.zeros(5, int), np.array([2, 0, 2, 2]), **info)
    assert data.majority() == 0.75
