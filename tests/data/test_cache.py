from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from sbmgraph.data.cache import load_or_build, open_prepared
from tests.data.damage import count_refusals, damaged

INFO = {"vocab_size": 10, "num_classes": 2, "max_length": 5}


def build(open_split) -> None:
    for split, size in [("train", 4), ("val", 2), ("test", 0)]:
        with open_split(split) as writer:
            for i in range(size):
                writer.add([np.arange(i + 1)], i % 2)


def prepared(root, build=build, **parameters):
    return load_or_build(root, "toy", {"version": 1, **parameters}, build, dtype="uint8", **INFO)


def leftovers(root) -> list[str]:
    return sorted(p.name for p in root.iterdir())


def test_round_trip_and_reuse(tmp_path):
    splits = prepared(tmp_path)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [4, 2, 0]
    assert splits["train"][3].tokens[0].tolist() == [0, 1, 2, 3]
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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(tmp_path):
    def onto_full_device(open_split) -> None:
        with open_split("train") as writer:
            writer._tokens.close()
            writer._tokens = open("/dev/full", "wb")  # noqa: SIM115
            for _ in range(1 << 15):
                writer.add([np.zeros(5, int)], 0)

    with pytest.raises(ValueError, match=rf"{tmp_path}: expected .*No space left on device"):
        prepared(tmp_path, onto_full_device)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("limit", [0, 1, 10, 100, 1000])
def test_no_room_for_any_of_the_files(tmp_path, limit):
    """The system takes only so many bytes of a file: tokens, offsets or the manifest fail."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(ValueError) as error:
            prepared(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value).startswith(f"{tmp_path}: expected a folder with room")
    assert "File too large" in str(error.value)
    assert leftovers(tmp_path) == []
    assert len(prepared(tmp_path)["train"]) == 4


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

    def failing(_) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input/output error"):
        prepared(tmp_path / "cache", failing)
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("documents", "label", "reason"),
    [
        ([[]], 0, "expected a document of 1 to 5 tokens, got 0"),
        ([[1] * 6], 0, "expected a document of 1 to 5 tokens, got 6"),
        ([[1], [1]], 0, "expected 1 documents, got 2"),
        ([[3, 10]], 0, "expected tokens from 0 to 9, got 3 to 10"),
        ([[-1]], 0, "expected tokens from 0 to 9, got -1 to -1"),
        ([[256]], 0, "expected tokens from 0 to 9, got 256 to 256"),
        ([[1]], 2, "expected a label from 0 to 1, got 2"),
        ([[1]], -1, "expected a label from 0 to 1, got -1"),
    ],
)
def test_what_is_out_of_range_is_refused_with_its_source(tmp_path, documents, label, reason):
    def bad(open_split) -> None:
        with open_split("train") as writer:
            writer.add([np.array(d, dtype=np.int64) for d in documents], label, "some.tsv, line 7")

    with pytest.raises(ValueError, match=f"^some.tsv, line 7: {reason}$"):
        prepared(tmp_path, bad)
    assert leftovers(tmp_path) == []


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
        (folder / "val.labels").unlink()
    with pytest.raises(ValueError, match=r"complete prepared data set.*Delete the folder"):
        prepared(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("train.ptr", [0, 1, 0, 6, 10], "'ptr' must give each document .* got -1 to 6"),
        ("train.ptr", [0, 1, 1, 1, 10], "'ptr' must give each document .* got 0 to 9"),
        ("train.ptr", [0, 1, 3, 6, 9], "'ptr' must go from 0 to 10.*got 0 to 9"),
        ("train.labels", [0, 1, 0, 2], "'labels' must be from 0 to 1 in toy/train, got 0 to 2"),
        ("train.labels", [0, 1, 0, -1], "got -1 to 1"),
    ],
)
def test_offsets_and_labels_are_checked_on_opening(tmp_path, name, values, reason):
    prepared(tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / name).write_bytes(np.array(values, dtype=np.int64).tobytes())
    with pytest.raises(ValueError, match=rf"{folder}: expected a complete .*{reason}"):
        prepared(tmp_path)


def test_tokens_are_checked_as_items_are_read(tmp_path):
    prepared(tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "train.tokens").write_bytes(bytes([0, 0, 1, 0, 1, 99, 0, 1, 2, 3]))
    data = prepared(tmp_path)["train"]
    assert data[1].tokens[0].tolist() == [0, 1]
    with pytest.raises(
        ValueError, match=r"train\.tokens: expected tokens from 0 to 9, got 0 to 99"
    ):
        data[2]


def test_the_folder_of_other_data_is_refused(tmp_path):
    prepared(tmp_path)
    (folder,) = tmp_path.iterdir()
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="another 'parameters'"):
        prepared(tmp_path)


def test_a_damaged_folder_is_refused_or_reads_as_before(tmp_path):
    """Any byte of the manifest, the offsets or the labels may be another: no other error."""
    splits = prepared(tmp_path)
    size = sum(map(len, splits.values()))
    (folder,) = tmp_path.iterdir()
    files = [folder / name for name in ("manifest.json", "train.ptr", "val.labels", "test.ptr")]

    def read() -> int:
        return len([item for part in prepared(tmp_path).values() for item in part])

    for path in files:
        content = path.read_bytes()
        copies = damaged(content, 200)
        refused, sizes = count_refusals(read, path.write_bytes, copies, str(folder))
        path.write_bytes(content)
        assert refused > 100
        assert set(sizes) <= {size}


def test_verify_on_request(tmp_path):
    prepared(tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "val.labels").write_bytes(np.array([1, 0], dtype=np.int64).tobytes())
    options = {"dtype": "uint8", **INFO}
    load_or_build(tmp_path, "toy", {"version": 1}, build, **options)
    with pytest.raises(ValueError, match=r"val\.labels does not match its checksum"):
        load_or_build(tmp_path, "toy", {"version": 1}, build, verify=True, **options)


def test_data_are_verified_after_a_crash(tmp_path):
    """A preparation that died beside the data gives reason to look at them until they are right."""
    prepared(tmp_path)
    (folder,) = tmp_path.iterdir()
    whole = (folder / "train.tokens").read_bytes()
    (folder / "train.tokens").write_bytes(b"\1\0\1\0\1\2\0\0\0\0")
    prepared(tmp_path)
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    (tmp_path / f".{folder.name}.{socket.gethostname()}.{dead}.0.tmp").mkdir()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"train\.tokens does not match its checksum"):
            prepared(tmp_path)
    (folder / "train.tokens").write_bytes(whole)
    prepared(tmp_path)
    assert leftovers(tmp_path) == [folder.name]


def test_verify_finds_a_flipped_byte(tmp_path):
    prepared(tmp_path)
    (folder,) = tmp_path.iterdir()
    open_prepared(folder, verify=True)
    (folder / "train.tokens").write_bytes(b"\1\0\1\0\1\2\0\0\0\0")
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
        "        for _ in range(1 << 15): writer.add([np.zeros(5, int)], 0)\n"
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
