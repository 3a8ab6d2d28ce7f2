from __future__ import annotations

import os
import pickle
import shutil
import struct
import tarfile

import numpy as np
import pytest

from sbmgraph.data import image, prepare
from sbmgraph.data.cifar import read_batch
from sbmgraph.data.image import to_gray
from tests.data.damage import count_refusals, damaged

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def batch(number: int, labels=None) -> dict:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
    labels = rng.integers(0, 10, 20).tolist() if labels is None else labels
    return {b"data": pixels, b"labels": labels, b"batch_label": b"batch"}


def python_2(number: int) -> bytes:
    """A batch as Python 2 wrote the official ones: bytes are its strings."""

    def string(text: bytes) -> bytes:
        if len(text) < 256:
            return b"U" + bytes([len(text)]) + text
        return b"T" + struct.pack("<i", len(text)) + text

    content = batch(number)
    pixels = content[b"data"]
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        + string(b"b") + b"\x87Rq\x05(K\x01" + b"K\x14M\x00\x0c\x86" + b"cnumpy\ndtype\n"
        + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + string(pixels.tobytes()) + b"tb"
    )  # fmt: skip
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in content[b"labels"]) + b"e"
    pairs = string(b"data") + array + string(b"labels") + labels
    return b"\x80\x02}q\x01(" + pairs + string(b"batch_label") + string(b"x") + b"u."


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


@pytest.mark.parametrize(
    "write",
    [
        python_2,
        *(
            lambda number, protocol=protocol: pickle.dumps(batch(number), protocol)
            for protocol in (2, 3, 4)
        ),
    ],
)
def test_batches_of_every_python(write):
    """NumPy's own unpickling is the truth."""
    for number in range(3):
        content = write(number)
        truth = pickle.loads(content, encoding="bytes")
        pixels, labels = read_batch(content, "batch")
        assert (pixels == truth[b"data"]).all()
        assert labels.tolist() == truth[b"labels"]


def test_every_damaged_batch_is_refused_or_a_batch(root):
    path = root / "cifar-10-batches-py" / "data_batch_1"
    small = {b"data": batch(0)[b"data"][:1], b"labels": [3], b"filenames": [b"a.png"]}
    header = dumps(small)
    for content, count in ((header, 700), (python_2(0), 400), (header[:300], 400)):
        copies = damaged(content, count)
        refused, results = count_refusals(
            lambda: read_batch(path.read_bytes(), str(path)), path.write_bytes, copies, str(path)
        )
        assert refused > 100
        for pixels, labels in results:
            assert pixels.dtype == np.uint8
            assert pixels.shape == (len(labels), 3072)
            assert set(labels.tolist()) <= set(range(10))


def test_every_damaged_archive_is_refused_or_undamaged(root):
    pack(root)
    path = root / "cifar-10-python.tar.gz"
    content = path.read_bytes()
    splits = prepare("image", root)
    whole = [(item.tokens[0].tolist(), item.label) for item in splits["test"]]

    def read():
        (train, test) = image._read_batches(path)
        assert len(train.labels) == 100
        return [(p.tolist(), label) for p, label in zip(test.pixels, test.labels, strict=True)]

    refused, results = count_refusals(read, path.write_bytes, damaged(content, 30), str(path))
    assert refused > 20
    assert all(result == whole for result in results)


def test_every_damaged_grey_archive_is_refused_or_undamaged(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{s}_x": rng.integers(0, 256, (2, 1024), dtype=np.uint8) for s in ("train", "test")}
    arrays |= {"train_y": np.array([3, 4]), "test_y": np.array([5, 6], dtype=np.uint8)}
    path = tmp_path / "cifar10_gray.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        content = path.read_bytes()

        def read():
            return [(images.pixels.tolist(), images.labels.tolist()) for images in
                    image._read_gray(path, 0)]  # fmt: skip

        whole = read()
        refused, results = count_refusals(read, path.write_bytes, damaged(content, 500), str(path))
        assert refused > 200
        assert all(result == whole for result in results)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train_y": np.full(10, 10)}, "image . of train_x: expected a label from 0 to 9, got 10"),
        ({"test_y": np.full(5, -1)}, "image 0 of test_x: expected a label from 0 to 9, got -1"),
        (
            {"train_x": np.zeros((10, 1024))},
            "expected train_x to be an array of int.*got float64",
        ),
        ({"train_x": np.zeros((10, 1024), int)}, "expected train_x to be uint8"),
        (
            {"train_x": np.zeros((9, 1024), np.uint8)},
            r"of shape \[10, 1024\], got uint8 \[9, 1024\]",
        ),
        (
            {"test_y": np.zeros(6, object)},
            "expected test_y to be an array of int.*got object",
        ),
        ({"test_y": None}, "test_y"),
    ],
)
def test_bad_grey_archives(tmp_path, changes, reason):
    arrays = {"train_x": np.zeros((10, 1024), np.uint8), "train_y": np.zeros(10, int)}
    arrays |= {"test_x": arrays["train_x"][:5], "test_y": arrays["train_y"][:5], **changes}
    path = tmp_path / "cifar10_gray.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=rf"^{path}[:,].*{reason}"):
        prepare("image", tmp_path, source="gray")


@pytest.mark.parametrize("packed", [True, False])
def test_replaced_batches_are_read_anew(root, packed):
    def labels() -> list[int]:
        return prepare("image", root)["test"].labels.tolist()

    before = labels()
    other = pickle.dumps(batch(5, labels=before[::-1]), protocol=2)
    path = root / "cifar-10-batches-py" / "test_batch"
    assert len(other) == path.stat().st_size
    path.write_bytes(other)
    if packed:
        pack(root)
    assert labels() == before[::-1] != before


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
    with pytest.raises(
        ValueError,
        match=r"cifar10_gray\.npz: expected the arrays train_x, .* got none that can",
    ):
        prepare("image", tmp_path, source="gray")


def test_limits(root):
    splits = prepare("image", root, limit_train=11, limit_val=2, limit_test=3)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [11, 2, 3]


def test_label_out_of_range(root):
    path = root / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps(batch(1, labels=[10] * 20)))
    with pytest.raises(
        ValueError, match="data_batch_2, image 0: expected a label from 0 to 9, got 10"
    ):
        prepare("image", root)


def dumps(value) -> bytes:
    return pickle.dumps(value, protocol=2)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            pickle.dumps(Malicious()),
            "expected no call but .*, got '(posix|nt) system'",
        ),
        (
            pickle.dumps(batch(0))[:1000],
            "expected a batch of CIFAR-10 images, got none that can be read",
        ),
        (b"", "expected a batch of CIFAR-10 images"),
        (dumps({b"data": 3}), "expected 'data' and 'labels' in it, got no 'labels'"),
        (
            dumps({**batch(0), b"data": np.zeros((3, 3072), np.uint8)}),
            "expected 3 labels, .* got 20",
        ),
        (
            dumps({**batch(0), b"data": np.zeros((20, 3073), np.uint8)}),
            r"shape \[images, 3072\]",
        ),
        (
            dumps({**batch(0), b"data": np.zeros((20, 3072), np.int8)}),
            "'data' of uint8, got",
        ),
        (dumps({**batch(0), b"data": np.zeros((20, 3072), "u1", order="F")}), "column by column"),
        (dumps({**batch(0), b"labels": [0.5] * 20}), "expected values, .* got BINFLOAT"),
        (
            dumps({**batch(0), b"labels": [None] * 20}),
            "expected a label .* got None",
        ),
        (b"\x80\x02" + b"}" * 40_000_000, "of at most 33,554,432 bytes"),
        # A place in the memo that makes an unpickler allocate 32 GiB.
        (b"\x80\x02}r\xff\xff\xff\x7f.", "got no 'data'"),
    ],
)
def test_bad_batches(root, content, reason):
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(ValueError, match=rf"data_batch_3.*{reason}"):
        prepare("image", root)


def test_absent_batch(root):
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(
        ValueError, match="data_batch_3: expected a file of the release, got nothing"
    ):
        prepare("image", root)
    pack(root)
    with pytest.raises(ValueError, match=r"tar\.gz: expected the file data_batch_3"):
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
    with pytest.raises(
        FileNotFoundError, match=r"cifar10_gray\.npz: .*Put the grey images, .* there"
    ):
        prepare("image", tmp_path, source="gray")
    with pytest.raises(ValueError, match="'source' must be one of 'archive', 'gray', got 'rgb'"):
        prepare("image", tmp_path, source="rgb")
