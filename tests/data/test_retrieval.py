from __future__ import annotations

import pytest

from sbmgraph.data import prepare, retrieval
from sbmgraph.data.retrieval import FILES

ROW = b'1.0\tA\tB\tfirst "text\xff\tsecond\n'


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "lra_release" / "lra_release" / "tsv_data"
    folder.mkdir(parents=True)
    for k, name in enumerate(FILES.values()):
        rows = (b"%d.0\tX%d\tY%d\ta%s\tb\n" % (i % 2, i, i, b"x" * i) for i in range(10 + k))
        (folder / name).write_bytes(b"".join(rows))
    return folder


def decode(tokens) -> bytes:
    return bytes((tokens - 1).tolist())


def test_pairs(tmp_path, folder):
    (folder / FILES["val"]).write_bytes(ROW + b"0.0\tA\tB\tlast\tthird")
    splits = prepare("retrieval", tmp_path)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [10, 2, 12]
    data = splits["val"]
    assert data.num_documents == 2
    assert data.num_classes == 2
    assert [decode(t) for t in data[0].tokens] == [b'first "text\xff', b"second"]
    assert [decode(t) for t in data[1].tokens] == [b"last", b"third"]
    assert data.labels.tolist() == [1, 0]


def test_cut_and_limits(tmp_path, folder):
    splits = prepare("retrieval", tmp_path, max_length=4, limit_train=3)
    assert len(splits["train"]) == 3
    assert decode(splits["test"][11].tokens[0]) == b"axxx"


def test_without_the_outer_folders(tmp_path, folder):
    folder.rename(tmp_path / "tsv_data")
    assert len(prepare("retrieval", tmp_path)["train"]) == 10


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1.0\tA\ttext\n", "expected five columns, got 3"),
        (b"1.0\tA\tB\ttext\ttext\ttext\n", "expected five columns, got 6"),
        (b"2.0\tA\tB\ttext\ttext\n", r"expected a label 0\.0 or 1\.0, got b'2\.0'"),
        (b"1.0\tA\tB\t\ttext\n", "expected two texts, got an empty one"),
        (b"1.0\tA\tB\ttext\t\r\n", "expected two texts, got an empty one"),
        (b"nan\tA\tB\ttext\ttext\n", "expected a label"),
        (b"\xff\xfe\tA\tB\ttext\ttext\n", r"expected a label 0\.0 or 1\.0, got b'.xff"),
    ],
)
def test_bad_rows(tmp_path, folder, row, reason):
    (folder / FILES["test"]).write_bytes(ROW * 2 + row)
    with pytest.raises(ValueError, match=rf"new_aan_pairs\.test\.tsv, line 3: {reason}"):
        prepare("retrieval", tmp_path)
    assert list((tmp_path / "prepared").iterdir()) == []


def test_empty_and_absent_files(tmp_path, folder):
    (folder / FILES["train"]).write_bytes(b"")
    with pytest.raises(ValueError, match=r"train\.tsv, line 1: expected at least one row"):
        prepare("retrieval", tmp_path)
    (folder / FILES["train"]).unlink()
    with pytest.raises(ValueError, match=r"train\.tsv: expected a file of the release"):
        prepare("retrieval", tmp_path)


def test_a_row_without_end(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(retrieval, "_LONGEST_ROW", 1000)
    (folder / FILES["val"]).write_bytes(ROW + b"1.0\tA\tB\ttext\t" + b"x" * 1000 + b"\n")
    with pytest.raises(ValueError, match=r"eval\.tsv, line 2: expected a row below 1,000 bytes"):
        prepare("retrieval", tmp_path)


def test_replaced_sources_are_read_anew(tmp_path, folder):
    assert decode(prepare("retrieval", tmp_path)["val"][0].tokens[1]) == b"b"
    path = folder / FILES["val"]
    path.write_bytes(path.read_bytes().replace(b"\tb\n", b"\tc\n"))
    assert decode(prepare("retrieval", tmp_path)["val"][0].tokens[1]) == b"c"


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tsv_data: expected .*Fetch LRA's release"):
        prepare("retrieval", tmp_path)
