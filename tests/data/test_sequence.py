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
    ],
)
def test_collate_rejects(items, message):
    with pytest.raises(ValueError, match=message):
        collate(items)


def test_arrays_must_fit():
    with pytest.raises(ValueError, match=r"labels: expected 0 to 1 in toy, got 0 to 2"):
        dataset([1, 1, 1], num_classes=2)
    info = {"name": "toy", "vocab_size": 9, "num_classes": 2, "max_length": 9}
    with pytest.raises(ValueError, match="ptr: expected 2"):
        SequenceDataset(np.zeros(3), np.array([0, 3]), np.array([0, 1]), **info)
    with pytest.raises(ValueError, match="number of tokens"):
        SequenceDataset(np.zeros(3), np.array([0, 4]), np.array([0]), **info)


def test_majority():
    info = {"name": "toy", "vocab_size": 9, "num_classes": 3, "max_length": 9}
    data = SequenceDataset(np.zeros(0), np.zeros(5, int), np.array([2, 0, 2, 2]), **info)
    assert data.majority() == 0.75
