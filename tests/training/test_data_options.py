"""The data module's options: what is validated, tested, hidden and verified."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sbmgraph.data import Sequence, SequenceDataset, collate
from sbmgraph.training.data import SequenceDataModule

LENGTHS = np.random.default_rng(0).integers(1, 20, 23)


def dataset(**options) -> SequenceDataset:
    info = {"name": "toy", "vocab_size": 3, "num_classes": 23, "max_length": 20, **options}
    tokens = np.random.default_rng(1).integers(0, 3, LENGTHS.sum())
    return SequenceDataset(tokens, np.cumsum([0, *LENGTHS]), np.arange(23), **info)


def module(**options) -> SequenceDataModule:
    data = SequenceDataModule("text", eval_batch_size=5, batch_size=4, **options)
    data._datasets = dict.fromkeys(("train", "val", "test"), dataset())
    return data


@pytest.mark.parametrize("drop", [False, True])
def test_the_last_incomplete_test_batch(drop):
    """Only of the test set, and only the items that are left over in the stored order."""
    data = module(drop_last_test=drop)
    test = [batch.label.tolist() for batch in data.test_dataloader()]
    assert sorted(sum(test, [])) == list(range(20 if drop else 23))
    assert sorted(map(len, test)) == ([5] * 4 if drop else [3, 5, 5, 5, 5])
    assert sorted(sum((batch.label.tolist() for batch in data.val_dataloader()), [])) == [
        *range(23)
    ]


def test_dropping_needs_a_full_batch():
    data = SequenceDataModule("text", eval_batch_size=24, drop_last_test=True)
    data._datasets = {"test": dataset()}
    with pytest.raises(ValueError, match="'batch_size' must be at most 23"):
        data.test_dataloader()


@pytest.fixture
def reviews(tmp_path):
    for split in ("train", "test"):
        for label in ("pos", "neg"):
            folder = tmp_path / "aclImdb" / split / label
            folder.mkdir(parents=True)
            for i in range(20):
                (folder / f"{i}_7.txt").write_text(f"{split} {label} {i}")
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*official data have:UserWarning")
def test_text_is_validated_on_the_test_set_on_request(reviews):
    def sizes(**options) -> list[int]:
        data = SequenceDataModule("text", str(reviews), **options)
        return [len(data.datasets[split]) for split in ("train", "val", "test")]

    assert sizes() == [36, 4, 40]
    assert sizes(validate_on_test=True) == [40, 40, 40]
    data = SequenceDataModule("text", str(reviews), validate_on_test=True).datasets
    assert (data["val"].tokens == data["test"].tokens).all()
    with pytest.raises(ValueError, match="False where 'options' have validation: 'held-out', got"):
        sizes(validate_on_test=True, options={"validation": "held-out"})
    with pytest.raises(ValueError, match="'validate_on_test' must be False for task 'listops'"):
        SequenceDataModule("listops", validate_on_test=True)


@pytest.mark.filterwarnings("ignore:.*official data have:UserWarning")
def test_verify(reviews):
    data = SequenceDataModule("text", str(reviews)).datasets["train"]
    with open(data.source, "r+b") as file:
        file.write(b"\1\0")
    SequenceDataModule("text", str(reviews)).datasets  # noqa: B018
    with pytest.raises(ValueError, match=r"train\.tokens does not match its checksum"):
        SequenceDataModule("text", str(reviews), verify=True).datasets  # noqa: B018
    assert len(SequenceDataModule("duplicates", verify=True).datasets["test"]) == 4096


def test_the_root_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = SequenceDataModule("text", "some/data")
    monkeypatch.chdir("/")
    assert data.root == tmp_path / "some" / "data"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SequenceDataModule("text", "~/data").root == tmp_path / "data"


@pytest.mark.parametrize("kind", ["one document", "two documents", "token labels"])
def test_zeros_are_hidden_in_every_kind_of_task(kind):
    """Also where an item has nothing else: it keeps its place in the batch."""
    tokens = [torch.tensor(values) for values in ([0, 1, 2], [0, 0], [2, 0])]
    if kind == "two documents":
        items = [Sequence([values, values.flip(0)], k) for k, values in enumerate(tokens)]
    elif kind == "token labels":
        items = [Sequence([values], 0, values + 5) for values in tokens]
    else:
        items = [Sequence([values], k) for k, values in enumerate(tokens)]
    batch = collate(items)
    hidden = module(hide_zeros=True).on_after_batch_transfer(batch)
    assert module().on_after_batch_transfer(batch) is batch
    assert 0 not in hidden.tokens.tolist()
    each = 2 if kind == "two documents" else 1
    assert hidden.num_sequences == 3 * each
    assert hidden.lengths().tolist() == sum(([int(t.count_nonzero())] * each for t in tokens), [])
    assert hidden.label.equal(batch.label)
    if kind == "token labels":
        assert (hidden.token_label == hidden.tokens + 5).all()
    if kind == "two documents":
        assert hidden.positions.tolist() == [1, 2, 0, 1, 0, 1]
    else:
        assert hidden.positions.tolist() == [1, 2, 0]
