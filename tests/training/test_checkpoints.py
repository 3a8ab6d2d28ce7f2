"""Damaged and hostile checkpoints: refused, named, and passed over for the next whole one."""

import pickle
import zipfile

import numpy as np
import pytest
import torch

from sbmgraph.run import Run
from sbmgraph.run.archive import find_damage
from sbmgraph.training.checkpoints import AtomicCheckpointIO, load_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of several entries, its path and its content."""
    generator = torch.Generator().manual_seed(0)
    content = {
        "state_dict": {
            f"layer{i}.weight": torch.rand(8, 3 + i, generator=generator) for i in range(6)
        },
        "hyper_parameters": {"task": "listops", "options": {"sbm": {"num_clusters": 4}}},
        "loops": {"rows": 6, "name": "ünïcode"},
    }
    path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path, content


def same(a, b) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def damages(size: int, number: int):
    """``number`` ways to change a file, drawn with a fixed seed."""
    rng = np.random.default_rng(7)

    def flip(data, place):
        data[place] ^= 1 << rng.integers(8)

    def zero(data, place):
        data[place : place + 512] = bytes(len(data[place : place + 512]))

    def cut(data, place):
        del data[place:]

    for _ in range(number):
        kind = rng.choice([flip, flip, zero, cut])
        yield kind, int(rng.integers(size))


@pytest.mark.parametrize("number", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damage_is_found_or_without_effect(checkpoint, tmp_path, number):
    path, content = checkpoint
    whole = path.read_bytes()
    target = tmp_path / "damaged.ckpt"
    refused = 0
    for change, place in damages(len(whole), number):
        data = bytearray(whole)
        change(data, place)
        target.write_bytes(data)
        try:
            loaded = load_checkpoint(target)
        except ValueError as error:
            named = str(target) in str(error)
            refused += named and find_damage(target) is not None
        else:
            assert same(loaded, content), (change, place)
    assert refused > 0.4 * number


def test_every_byte_of_an_entry_counts(checkpoint, tmp_path):
    path, _ = checkpoint
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("data/0"))
    start = whole.index(b"data/0", entry.header_offset) + len("data/0")
    body = whole.index(torch.load(path, weights_only=True)["state_dict"]["layer0.weight"].numpy()
                       .tobytes(), start)  # fmt: skip
    target = tmp_path / "damaged.ckpt"
    for place in range(body, body + entry.file_size):
        data = bytearray(whole)
        data[place] ^= 16
        target.write_bytes(data)
        assert "differs from its checksum" in find_damage(target)


class Executes:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    mark = tmp_path / "executed"
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"state_dict": {}, "x": Executes(mark)}, folder / "best.ckpt")
    (folder / "last.ckpt").write_bytes(pickle.dumps(Executes(mark)))
    with pytest.warns(UserWarning, match=r"last\.ckpt is not a whole checkpoint"):
        path = Run(tmp_path / "run").newest_checkpoint()
    with pytest.raises(ValueError, match=r"best\.ckpt: expected a checkpoint of tensors and plain"):
        load_checkpoint(path)
    assert not mark.exists()


def test_an_entry_cannot_claim_more_than_the_file(checkpoint, tmp_path):
    target = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    assert target.stat().st_size < 100_000
    with pytest.raises(ValueError, match="is not stored as torch stores entries"):
        load_checkpoint(target)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"not a checkpoint"])
def test_no_checkpoint_at_all(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.ckpt: expected a whole checkpoint"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path / "none.ckpt")
