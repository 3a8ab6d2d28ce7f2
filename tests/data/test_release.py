from __future__ import annotations

import hashlib
import io
import re
import shlex
import tarfile
import threading

import numpy as np
import pytest

from sbmgraph.data import download as downloading
from sbmgraph.data import image, listops, prepare, text
from sbmgraph.data.release import missing, signature
from tests.data.test_download import Server


def command(error: Exception) -> str:
    """The code that the message's command hands to Python."""
    (line,) = re.findall(r"this command does: (.*)$", str(error))
    program, option, code = shlex.split(line)
    assert (program, option) == ("python", "-c")
    return code


def test_the_command_that_generates_works_as_printed(tmp_path, monkeypatch):
    root = tmp_path / "it's a folder"
    with pytest.raises(FileNotFoundError) as error:
        prepare("listops", root, source="release")
    few = listops.prepare_listops.__kwdefaults__ | {
        "num_train": 5, "num_val": 5, "num_test": 5, "min_length": 5, "max_length": 40
    }  # fmt: skip
    monkeypatch.setattr(listops.prepare_listops, "__kwdefaults__", few)
    exec(command(error.value), {})
    assert list((root / "prepared").glob("listops-*/train.tokens"))


@pytest.mark.filterwarnings("ignore:.*official data have:UserWarning")
def test_the_command_that_downloads_works_as_printed(tmp_path, monkeypatch):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in (f"aclImdb/{s}/{c}/1_1.txt" for s in ("train", "test") for c in ("pos", "neg")):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"good"))
    content = file.getvalue()
    checksum = "md5:" + hashlib.md5(content).hexdigest()
    published = text.IMDB._replace(checksum=checksum, size=len(content))
    monkeypatch.setattr(text, "IMDB", published)
    with pytest.raises(FileNotFoundError) as error:
        prepare("text", tmp_path)
    with Server() as server:
        server.content = content
        server.name = published.name
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv(downloading.MIRROR_VARIABLE, server.url(""))
        exec(command(error.value), {})
        server.shutdown()
        thread.join()
    assert (tmp_path / published.name).read_bytes() == content
    assert list((tmp_path / "prepared").glob("text-*/train.tokens"))


@pytest.mark.parametrize("task", ["text", "image", "listops", "pathfinder32", "retrieval"])
def test_messages_say_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    options = {"source": "release"} if task in ("listops", "pathfinder32") else {}
    with pytest.raises(FileNotFoundError) as error:
        prepare(task, "data", **options)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'data'}/")
    assert "https://" in message
    assert f"unpack it in {tmp_path / 'data'}" in message
    assert ("python -c" in message) == (task != "retrieval")


def test_what_a_message_names_is_what_is_read(tmp_path):
    """Unpacked where the message says, the official archive is found."""
    with pytest.raises(FileNotFoundError) as error:
        prepare("image", tmp_path)
    (place,) = re.findall(r"unpack it in (\S+),", str(error.value))
    from tests.data.test_image import NAMES, batch, dumps

    folder = tmp_path / place / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(dumps(batch(number)))
    assert len(prepare("image", tmp_path)["train"]) == 90
    assert image.CIFAR10.name in str(missing("image", tmp_path, folder.name))


def test_signature(tmp_path):
    names = ["a", "b"]
    for name in names:
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(10))
    paths = [tmp_path / name for name in names]
    before = signature(paths)
    assert before == signature(paths)
    assert before[:2] == [2, 20]
    assert signature(paths[:1]) != before
    (tmp_path / "b").rename(tmp_path / "c")
    assert signature([tmp_path / "a", tmp_path / "c"]) != before
    with pytest.raises(
        ValueError, match=rf"^{tmp_path}/b: expected a file of the release, got noth"
    ):
        signature(paths)
    with pytest.raises(ValueError, match=rf"^{tmp_path}: expected a file of the release, got some"):
        signature([tmp_path])
