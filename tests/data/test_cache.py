from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from sbmgraph.data import cache
from sbmgraph.data.cache import load_or_build, open_prepared

INFO = {"vocab_size": 10, "num_classes": 2, "max_length": 5}


def build(open_split) -> None:
    for split, size in [("train", 4), ("val", 2), ("test", 0)]:
        with open_split(split) as writer:
            for i in range(size):
                writer.add([np.arange(i)], i % 2)


def prepared(root, build=build, **parameters):
    return load_or_build(root, "toy", {"version": 1, **parameters}, build, dtype="uint8", **INFO)


def leftovers(root) -> list[str]:
    return sorted(p.name for p in root.iterdir())


def test_round_trip_and_reuse(tmp_path):
    splits = prepared(tmp_path)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [4, 2, 0]
    assert splits["train"][3].tokens[0].tolist() == [0, 1, 2]
    assert splits["train"].labels.tolist() == [0, 1, 0, 1]
    assert isinstance(splits["train"].tokens, np.memmap)
    assert splits["train"].name == "toy/train"

    def never(_):
        raise AssertionError("built twice")

    assert prepared(tmp_path, never)["train"].vocab_size == 10
    with pytest.raises(AssertionError):
        prepared(tmp_path, never, seed=1)
    assert len(leftovers(tmp_path)) == 1


def test_a_failed_build_leaves_nothing(tmp_path):
    def broken(open_split) -> None:
        build(open_split)
        raise KeyError("half way")

    with pytest.raises(KeyError):
        prepared(tmp_path, broken)
    assert leftovers(tmp_path) == []


def test_a_forgotten_split_leaves_nothing(tmp_path):
    with pytest.raises(KeyError):
        prepared(tmp_path, lambda open_split: open_split("train").__exit__(None))
    assert leftovers(tmp_path) == []


def test_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.SplitWriter, "add", full)
    with pytest.raises(ValueError, match=rf"{tmp_path}.*No space left on device"):
        prepared(tmp_path)
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_for_real(tmp_path):
    def onto_full_device(open_split) -> None:
        with open_split("train") as writer:
            writer._tokens.close()
            writer._tokens = open("/dev/full", "wb")  # noqa: SIM115
            writer.add([np.zeros(1 << 20)], 0)

    with pytest.raises(ValueError, match="No space left on device"):
        prepared(tmp_path, onto_full_device)
    assert leftovers(tmp_path) == []


def test_unwritable_folder(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(ValueError, match=rf"{blocker}.*could not write"):
        prepared(blocker / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=rf"{tmp_path}.*Permission denied"):
        prepared(tmp_path)


def test_errors_of_the_source_are_not_blamed_on_the_cache(tmp_path):
    def unreadable(_) -> None:
        (tmp_path / "absent.tsv").read_bytes()

    with pytest.raises(FileNotFoundError, match=r"absent\.tsv"):
        prepared(tmp_path / "cache", unreadable)


@pytest.mark.parametrize("damage", ["truncate", "no manifest", "foreign manifest", "no labels"])
def test_damaged_data_are_refused(tmp_path, damage):
    prepared(tmp_path)
    (folder,) = tmp_path.iterdir()
    if damage == "truncate":
        os.truncate(folder / "train.tokens", 3)
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "foreign manifest":
        (folder / "manifest.json").write_text('{"splits": [1]}')
    else:
        (folder / "val.labels.npy").unlink()
    with pytest.raises(ValueError, match=r"complete prepared data set.*Delete the folder"):
        prepared(tmp_path)


def test_verify_finds_a_flipped_byte(tmp_path):
    prepared(tmp_path)
    (folder,) = tmp_path.iterdir()
    open_prepared(folder, verify=True)
    (folder / "train.tokens").write_bytes(b"\1\0\1\0\1\2")
    open_prepared(folder)
    with pytest.raises(ValueError, match=r"train\.tokens does not match its checksum"):
        open_prepared(folder, verify=True)


def test_two_at_once_agree(tmp_path):
    barrier = threading.Barrier(2)

    def together(open_split) -> None:
        build(open_split)
        barrier.wait(timeout=30)

    results = []
    threads = [
        threading.Thread(target=lambda: results.append(prepared(tmp_path, together)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(splits["train"]) for splits in results] == [4, 4]
    assert len(leftovers(tmp_path)) == 1


def test_a_killed_build_is_not_taken_for_data(tmp_path):
    """SIGKILL in the middle of writing: nothing is opened, and the next run clears up."""
    script = (
        "import sys, time; from pathlib import Path; import numpy as np\n"
        "from sbmgraph.data.cache import load_or_build\n"
        "def build(open_split):\n"
        "    with open_split('train') as writer:\n"
        "        writer.add([np.zeros(1 << 20)], 0)\n"
        "        print('writing', flush=True); time.sleep(60)\n"
        f"load_or_build(Path(sys.argv[1]), 'toy', {{'version': 1}}, build, dtype='uint8', **{INFO})"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "writing\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    (left,) = leftovers(tmp_path)
    assert left.startswith(".toy-")
    assert len(prepared(tmp_path)["train"]) == 4
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "manifest.json").read_text())["parameters"] == {"version": 1}
