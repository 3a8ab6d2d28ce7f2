from __future__ import annotations

import pytest
import torch

from sbmgraph.data import collate, prepare
from sbmgraph.data.duplicates import DuplicatesDataset


def test_labels_against_the_definition():
    data = DuplicatesDataset(20, length=30, vocab_size=40)
    for item in data:
        values = item.tokens[0].tolist()
        assert item.token_label.tolist() == [int(values.count(v) > 1) for v in values]


def test_labels_are_balanced():
    """The expected share is 1 - (367/368)^255 = 0.50; 4 deviations over 200 sequences."""
    data = DuplicatesDataset(200)
    shares = torch.stack([item.token_label.float().mean() for item in data])
    expected = 1 - (1 - 1 / 368) ** 255
    assert expected == pytest.approx(0.5, abs=0.001)
    assert shares.mean().item() == pytest.approx(expected, abs=4 * shares.std().item() / 200**0.5)


def test_items_are_a_function_of_seed_and_index():
    state = torch.get_rng_state()
    one, two, other = (DuplicatesDataset(9, seed=s) for s in (3, 3, 4))
    assert one[5].tokens[0].equal(two[5].tokens[0])
    assert one[-4].tokens[0].equal(two[5].tokens[0])
    assert not one[5].tokens[0].equal(other[5].tokens[0])
    assert not one[5].tokens[0].equal(one[6].tokens[0])
    assert state.equal(torch.get_rng_state())


def test_splits_differ_and_batch(tmp_path):
    splits = prepare("duplicates", tmp_path, num_train=50, length=16, vocab_size=20)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [50, 1024, 4096]
    assert not splits["train"][0].tokens[0].equal(splits["val"][0].tokens[0])
    batch = collate([splits["train"][i] for i in range(4)])
    assert batch.token_label.shape == batch.tokens.shape == (64,)
    assert list(tmp_path.iterdir()) == []


def test_bad_sizes():
    with pytest.raises(ValueError, match="'vocab_size' must be an integer >= 1, got 0"):
        DuplicatesDataset(3, vocab_size=0)
