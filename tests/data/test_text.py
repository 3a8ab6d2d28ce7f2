from __future__ import annotations

import io
import os
import shutil
import tarfile

import numpy as np
import pytest

from sbmgraph.data import prepare

pytestmark = pytest.mark.filterwarnings("ignore:.*official data have:UserWarning")


def review(split: str, label: str, i: int) -> bytes:
    return f"{split} {label} {i} ".encode() * (i + 1) + b"caf\xe9 \xff\x00"


@pytest.fixture
def root(tmp_path):
    for split in ("train", "test"):
        for label in ("pos", "neg"):
            folder = tmp_path / "aclImdb" / split / label
            folder.mkdir(parents=True)
            for i in range(20):
                (folder / f"{i}_7.txt").write_bytes(review(split, label, i))
    (tmp_path / "aclImdb" / "train" / "unsup").mkdir()
    (tmp_path / "aclImdb" / "train" / "unsup" / "0_0.txt").write_text("unlabelled")
    return tmp_path


def texts(data) -> dict[bytes, int]:
    return {bytes((item.tokens[0] - 1).to(int).numpy().astype("u1")): item.label for item in data}


def test_held_out_tenth(root):
    splits = prepare("text", root, seed=1)
    train, val, test = (texts(splits[name]) for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (36, 4, 40)
    assert not set(train) & set(val)
    everything = {review("train", c, i): int(c == "pos") for c in ("pos", "neg") for i in range(20)}
    assert train | val == everything
    assert sorted(val.values()) == [0, 0, 1, 1]
    assert test == {
        review("test", c, i): int(c == "pos") for c in ("pos", "neg") for i in range(20)
    }
    assert splits["train"].vocab_size == 257


def test_split_depends_on_the_seed_alone(root):
    def val(seed: int, cache: str) -> set[bytes]:
        return set(texts(prepare("text", root, root / cache, seed=seed)["val"]))

    assert val(1, "a") == val(1, "b") != val(2, "a")


def test_validation_on_the_test_set_as_lra_does(root):
    splits = prepare("text", root, validation="test")
    assert len(splits["train"]) == 40
    assert texts(splits["val"]) == texts(splits["test"])
    with pytest.raises(
        ValueError, match="'validation' must be one of 'held-out', 'test', got 'dev'"
    ):
        prepare("text", root, validation="dev")


def test_stored_order_mixes_the_classes(root):
    labels = prepare("text", root)["test"].labels
    assert 0 < np.abs(np.diff(labels)).sum() > 5


def test_cut_and_limits(root):
    splits = prepare("text", root, max_length=30, limit_train=7, limit_test=5)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [7, 4, 5]
    assert max(len(item.tokens[0]) for item in splits["val"]) <= 30
    with pytest.raises(ValueError, match="'limit_val' must be an integer >= 1, got 0"):
        prepare("text", root, limit_val=0)
    with pytest.raises(ValueError, match="'max_length' must be an integer >= 1, got 0"):
        prepare("text", root, max_length=0)


def pack(root) -> None:
    with tarfile.open(root / "aclImdb_v1.tar.gz", "w:gz") as archive:
        archive.add(root / "aclImdb", "aclImdb")
    shutil.rmtree(root / "aclImdb")


def test_the_archive_reads_like_the_folder(root):
    unpacked = texts(prepare("text", root)["train"])
    pack(root)
    assert texts(prepare("text", root)["train"]) == unpacked


@pytest.mark.parametrize("packed", [True, False])
def test_an_empty_review_is_refused(root, packed):
    (root / "aclImdb" / "test" / "pos" / "3_7.txt").write_bytes(b"")
    if packed:
        pack(root)
    with pytest.raises(ValueError, match=r"test/pos/3_7\.txt: expected a document of 1 to 3000"):
        prepare("text", root)


@pytest.mark.parametrize("change", ["replace", "rewrite", "add", "rename", "remove"])
def test_changed_reviews_are_read_anew(root, change):
    folder = root / "aclImdb" / "train" / "pos"
    before = texts(prepare("text", root)["train"]) | texts(prepare("text", root)["val"])
    old = folder / "3_7.txt"
    text = old.read_bytes()
    if change == "replace":
        os.replace(shutil.copy(folder / "4_7.txt", root / "other"), old)
    elif change == "rewrite":  # as many bytes, and others
        old.write_bytes(text[::-1])
    elif change == "add":
        (folder / "99_7.txt").write_bytes(b"another")
    elif change == "rename":
        old.rename(folder / "98_7.txt")
    else:
        old.unlink()
    splits = prepare("text", root)
    after = texts(splits["train"]) | texts(splits["val"])
    assert (after == before) == (change == "rename")
    assert (text in after) == (change in ("add", "rename"))
    assert len(list((root / "prepared").iterdir())) == 2


def test_a_replaced_archive_is_read_anew(root):
    pack(root)
    archive = root / "aclImdb_v1.tar.gz"
    prepare("text", root)
    status = archive.stat()
    content = archive.read_bytes()
    archive.write_bytes(content)
    os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    prepare("text", root)
    assert len(list((root / "prepared").iterdir())) == 2


def test_only_regular_reviews(root):
    path = root / "aclImdb" / "train" / "neg" / "0_7.txt"
    path.unlink()
    path.symlink_to("/etc/hostname")
    pack(root)
    with pytest.raises(ValueError, match=r"0_7\.txt' to be a regular file, got another kind"):
        prepare("text", root)


def test_a_huge_review(root):
    (root / "aclImdb" / "train" / "neg" / "0_7.txt").write_bytes(bytes(1_048_577))
    with pytest.raises(ValueError, match=r"0_7\.txt: expected a review of at most 1,048,576 bytes"):
        prepare("text", root)
    pack(root)
    with pytest.raises(ValueError, match=r"0_7\.txt' to have at most 1,048,576 bytes, got 1,048,5"):
        prepare("text", root)


def test_an_archive_that_is_not_the_published_one(root):
    pack(root)
    assert len(prepare("text", root)["train"]) == 36
    shutil.rmtree(root / "prepared")
    with pytest.raises(ValueError, match=r"aclImdb_v1\.tar\.gz: expected the published archive"):
        prepare("text", root, download=True)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.999])
def test_truncated_archive(root, share):
    pack(root)
    path = root / "aclImdb_v1.tar.gz"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"aclImdb_v1\.tar\.gz: expected a complete"):
        prepare("text", root)
    assert list((root / "prepared").iterdir()) == []


def test_foreign_archive(root):
    shutil.rmtree(root / "aclImdb")
    (root / "aclImdb_v1.tar.gz").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ValueError, match=r"aclImdb_v1\.tar\.gz: expected a complete"):
        prepare("text", root)


def test_archive_of_something_else(root):
    shutil.rmtree(root / "aclImdb")
    with tarfile.open(root / "aclImdb_v1.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("README"), io.BytesIO())
    with pytest.raises(ValueError, match=r"aclImdb_v1\.tar\.gz: .*train/neg, got none"):
        prepare("text", root)


def test_incomplete_folders(root):
    with pytest.warns(UserWarning, match=r"12500 reviews in train/neg, these have 20"):
        prepare("text", root)
    shutil.rmtree(root / "aclImdb" / "test" / "pos")
    with pytest.raises(ValueError, match="expected reviews in test/pos, got none"):
        prepare("text", root)


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        prepare("text", tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'aclImdb'}: expected the data of task 'text'")
    assert "aclImdb_v1.tar.gz" in message
    assert f"unpack it in {tmp_path}" in message
    assert "download: true" in message
