from __future__ import annotations

import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest

from sbmgraph.data import prepare
from sbmgraph.data.image import to_gray

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def batch(number: int, labels=None) -> dict:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
    labels = rng.integers(0, 10, 20).tolist() if labels is None else labels
    return {b"data": pixels, b"labels": labels, b"batch_label": b"batch"}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(pickle.dumps(batch(number), protocol=2))
    return tmp_path


def pack(root) -> None:
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(root / "cifar-10-batches-py")


@pytest.mark.parametrize("packed", [True, False])
def test_official_archive(root, packed):
    if packed:
        pack(root)
    splits = prepare("image", root)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [90, 10, 20]
    assert splits["train"].vocab_size == 256
    assert splits["train"].max_length == 1024
    expected = np.concatenate([to_gray(batch(i)[b"data"]) for i in range(5)])
    labels = sum([batch(i)[b"labels"] for i in range(5)], [])
    assert (splits["train"].tokens.reshape(90, 1024) == expected[:90]).all()
    assert (splits["val"].tokens.reshape(10, 1024) == expected[90:]).all()
    assert [*splits["train"].labels, *splits["val"].labels] == labels
    assert splits["test"].labels.tolist() == batch(5)[b"labels"]


def test_grey_levels():
    """Closed form on plain colours: floor(weight * 255.5) for the pure ones."""
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    rgb = np.repeat(colours.astype(np.uint8), 1024, axis=1)
    assert to_gray(rgb)[:, 7].tolist() == [0, 255, 76, 149, 29]


def test_grey_source_is_shuffled(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"train_x": rng.integers(0, 256, (100, 1024), dtype=np.uint8)}
    arrays["train_y"] = np.repeat(np.arange(10), 10)
    arrays["test_x"], arrays["test_y"] = arrays["train_x"][:5], arrays["train_y"][:5]
    np.savez(tmp_path / "cifar10_gray.npz", **arrays)
    splits = prepare("image", tmp_path, source="gray")
    assert len(set(splits["val"].labels.tolist())) > 2
    for i in range(90):
        pixels = splits["train"][i].tokens[0].numpy()
        (row,) = np.flatnonzero((arrays["train_x"] == pixels).all(axis=1))
        assert arrays["train_y"][row] == splits["train"].labels[i]
    (tmp_path / "cifar10_gray.npz").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"cifar10_gray\.npz: expected train_x"):
        prepare("image", tmp_path, source="gray")


def test_limits(root):
    splits = prepare("image", root, limit_train=11, limit_val=2, limit_test=3)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [11, 2, 3]


def test_label_out_of_range(root):
    path = root / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps(batch(1, labels=[10] * 20)))
    with pytest.raises(ValueError, match="labels: expected 0 to 9 in image/train, got 0 to 10"):
        prepare("image", root)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(Malicious()), "(posix|nt).system is not allowed"),
        (pickle.dumps(batch(0))[:1000], "truncated"),
        (b"", "Ran out of input"),
        (pickle.dumps({b"data": 3}), "labels"),
        (pickle.dumps({**batch(0), b"data": np.zeros((3, 3072), np.uint8)}), "expected uint8"),
    ],
)
def test_bad_batches(root, content, reason):
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(ValueError, match=rf"data_batch_3.*{reason}"):
        prepare("image", root)


def test_absent_batch(root):
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(ValueError, match="data_batch_3: expected a file of the release"):
        prepare("image", root)
    pack(root)
    with pytest.raises(ValueError, match="expected the file data_batch_3"):
        prepare("image", root)


def test_truncated_archive(root):
    pack(root)
    path = root / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz: expected a complete"):
        prepare("image", root)


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py.*cifar-10-python\.tar\.gz"):
        prepare("image", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"cifar10_gray\.npz"):
        prepare("image", tmp_path, source="gray")
    with pytest.raises(ValueError, match="source: expected"):
        prepare("image", tmp_path, source="rgb")
