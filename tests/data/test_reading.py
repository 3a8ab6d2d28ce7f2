from __future__ import annotations

import os

import pytest

from sbmgraph.data.archive import archive_files
from sbmgraph.data.listops import read_tsv
from sbmgraph.data.reading import bad_file, read_file, refusing
from sbmgraph.data.retrieval import read_tsv as read_pairs
from sbmgraph.files import open_regular

READERS = [
    lambda path: read_file(path, 10, "a file"),
    lambda path: list(read_tsv(path)),
    lambda path: list(read_pairs(path)),
    lambda path: list(archive_files(path, bool, 10)),
]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["absent", "folder", "pipe", "dangling", "file below a file"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, read, kind):
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "file below a file":
        path.write_text("a file")
        path = path / "below"
    with pytest.raises(ValueError, match=rf"^{path}: expected .*, got (none that can|something)"):
        read(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
@pytest.mark.parametrize("read", READERS)
def test_what_may_not_be_read(tmp_path, read):
    path = tmp_path / "file"
    path.write_text("secret")
    path.chmod(0)
    with pytest.raises(ValueError, match=rf"^{path}: .*Permission denied"):
        read(path)


def test_size(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_file(path, 10, "a file") == b"0123456789"
    with pytest.raises(
        ValueError, match=rf"^{path}: expected a file of at most 9 bytes, got a lar"
    ):
        read_file(path, 9, "a file")


@pytest.mark.parametrize(
    "error", [KeyError("x"), RecursionError(), MemoryError(), OSError(22, "no")]
)
def test_every_error_of_a_parser_names_the_file(error):
    with (
        pytest.raises(
            ValueError, match=r"^a/b: expected a picture, got none that can be read \(.+\)$"
        ),
        refusing("a/b", "a picture"),
    ):
        raise error
    assert str(bad_file("a/b", "expected c, got d", 7)) == "a/b, line 7: expected c, got d"


@pytest.mark.parametrize("kind", ["link", "second name", "pipe", "folder"])
def test_own_files_are_plain(tmp_path, kind):
    path, other = tmp_path / "own", tmp_path / "other"
    other.write_text("other")
    if kind == "link":
        path.symlink_to(other)
    elif kind == "second name":
        os.link(other, path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OSError, match=r"symbolic links|no regular file|directory|Is a dir"):
        open_regular(path)
    with open_regular(tmp_path / "other" if kind != "second name" else _new(tmp_path)) as file:
        file.write(b"+")


def _new(folder):
    path = folder / "new"
    path.write_text("")
    return path
