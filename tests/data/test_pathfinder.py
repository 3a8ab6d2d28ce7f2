from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sbmgraph.data import pathfinder, prepare
from sbmgraph.data.pathfinder import generate, tables


def pictures(count: int, **options) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*generate(count, **options), strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.fixture(scope="module")
def hard() -> tuple[np.ndarray, np.ndarray]:
    return pictures(1000, seed=7, workers=2)


def test_pictures_depend_on_the_seed_alone(hard):
    images, labels = pictures(1000, seed=7, workers=1)
    assert (images == hard[0]).all()
    assert (labels == hard[1]).all()
    assert (pictures(300, seed=7, workers=3)[0] == hard[0][:300]).all()
    assert (pictures(300, seed=8)[0] != hard[0][:300]).any(axis=1).all()
    assert len(np.unique(hard[0], axis=0)) == 1000


def test_statistics_of_the_original(hard):
    """Means over 2,020 pictures of the original generator (hard level), to 4 standard errors.

    Mean grey level 20.1 (deviation of a picture 2.0), share of black pixels 0.66 (0.039), labels
    balanced; the standard errors are those of 1,000 pictures and 2,020 pictures together.
    """
    images, labels = hard
    error = (1 / 1000 + 1 / 2020) ** 0.5
    assert images.mean() == pytest.approx(20.1, abs=4 * 2.0 * error)
    assert (images == 0).mean() == pytest.approx(0.66, abs=4 * 0.039 * error)
    assert labels.mean() == pytest.approx(0.5, abs=4 * 0.5 / 1000**0.5)
    assert images.max(axis=1).min() == 255
    assert images.min(axis=1).max() == 0


def test_pictures_show_two_markers(hard):
    """Ink is at most 1.2 times a marker's, so that a marker shows at 1 / 1.2 of white or more."""
    markers = np.floor(tables().marker.reshape(1024, 1024) * 255 / 1.2).astype(np.uint8)
    for image in hard[0][:100]:
        shown = np.flatnonzero((image >= markers).all(axis=1))
        y, x = np.divmod(shown, 32)
        assert max(np.ptp(y), np.ptp(x)) >= 1


def test_easier_levels_have_shorter_curves(hard):
    easy = pictures(300, level="easy")[0]
    intermediate = pictures(300, level="intermediate")[0]
    ink = [(images > 60).sum(axis=1).mean() for images in (easy, intermediate, hard[0])]
    assert ink[0] < ink[1] < ink[2]


def test_stamps():
    """A paddle of length 2 along the axis inks three pixels; its mask is one pixel wider."""
    right = tables().ink[180]
    assert np.argwhere(right > 0.1).tolist() == [[4, 4], [4, 5], [4, 6]]
    grown = tables().mask[180]
    assert (grown[3:6, 4:7] > 0.25).all()
    assert tables().ink.max() <= 0.7
    assert tables().mask.max() == 1.0
    marker = tables().marker[10, 20]
    centre = (np.indices((32, 32)) * marker).sum(axis=(1, 2)) / marker.sum()
    assert centre == pytest.approx([9.75, 19.75], abs=0.1)
    assert marker.sum() == pytest.approx(np.pi * 1.5**2, rel=0.15)


def test_steps_lie_on_the_circle_around_the_pivot():
    radius = np.hypot(*tables().step.T)
    assert radius.min() >= 2
    assert radius.max() <= 3 * 2**0.5
    assert len(np.unique(tables().step, axis=0)) == len(tables().step)


def test_prepare_generates(tmp_path):
    splits = prepare("pathfinder32", tmp_path, num_images=100, level="easy", limit_test=4)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [80, 10, 4]
    assert splits["train"].vocab_size == 256
    assert splits["train"].num_classes == 2
    assert set(splits["train"].lengths.tolist()) == {1024}
    images, labels = pictures(100, level="easy")
    known = {bytes(image): label for image, label in zip(images, labels, strict=True)}
    train = splits["train"]
    assert len({bytes(train.tokens[i * 1024 : (i + 1) * 1024]) for i in range(80)}) == 80
    for i in range(80):
        assert known[bytes(train.tokens[i * 1024 : (i + 1) * 1024])] == train.labels[i]


def test_grey_levels_are_bands_of_the_same_pictures(tmp_path):
    fine = prepare("pathfinder32", tmp_path, num_images=20, level="easy")
    coarse = prepare("pathfinder32", tmp_path, num_images=20, level="easy", grey_levels=32)
    assert coarse["train"].vocab_size == 32
    for name in fine:
        assert (coarse[name].tokens == fine[name].tokens // 8).all()
        assert (coarse[name].labels == fine[name].labels).all()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "lra_release" / "lra_release" / "pathfinder32" / "curv_contour_length_14"
    (folder / "metadata").mkdir(parents=True)
    for part in range(2):
        (folder / "imgs" / str(part)).mkdir(parents=True)
        lines = []
        for i in range(10):
            picture = np.full((32, 32), 10 * part + i, dtype=np.uint8)
            Image.fromarray(picture).save(folder / "imgs" / str(part) / f"sample_{i}.png")
            lines.append(f"imgs/{part} sample_{i}.png {i} {i % 2} 1.0 14 4 2 0.5 1 1\n")
        (folder / "metadata" / f"{part}.npy").write_text("".join(lines))
    return folder


def test_prepare_reads_the_release(tmp_path, folder):
    splits = prepare("pathfinder32", tmp_path, source="release")
    assert [len(splits[name]) for name in ("train", "val", "test")] == [16, 2, 2]
    seen = [(int(item.tokens[0][0]), item.label) for part in splits.values() for item in part]
    assert sorted(seen) == [(10 * part + i, i % 2) for part in range(2) for i in range(10)]


def test_empty_pictures_are_left_out_with_one_warning(tmp_path, folder):
    for i in (3, 4):
        (folder / "imgs" / "0" / f"sample_{i}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out 2 of 20 pictures.*sample_3\.png") as warned:
        splits = prepare("pathfinder32", tmp_path, source="release")
    assert len(warned) == 1
    assert sum(map(len, splits.values())) == 18


def test_only_empty_pictures(tmp_path, folder):
    for path in folder.glob("imgs/*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="all 20 PNG files are empty"):
        prepare("pathfinder32", tmp_path, source="release")
    assert list((tmp_path / "prepared").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("metadata/1.npy", b"\x93NUMPY\x01\x00v\x00", r"1\.npy, line 1: expected the text"),
        ("metadata/1.npy", b"imgs/0 sample_0.png 0\n", r"1\.npy, line 1: expected the text"),
        ("metadata/0.npy", b"imgs/0 sample_0.png 0 2 1.0\n", "expected a label 0 or 1, got '2'"),
        ("imgs/0/sample_5.png", b"not a picture", r"sample_5\.png: expected a PNG picture"),
        ("imgs/0/sample_5.png", None, r"sample_5\.png: expected a PNG picture .*No such file"),
    ],
)
def test_damaged_release(tmp_path, folder, file, content, reason):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        prepare("pathfinder32", tmp_path, source="release")


def test_truncated_and_oversized_pictures(tmp_path, folder):
    path = folder / "imgs" / "1" / "sample_2.png"
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(ValueError, match=r"sample_2\.png: expected a PNG picture"):
        prepare("pathfinder32", tmp_path, source="release")
    Image.new("L", (64, 64)).save(path)
    with pytest.raises(ValueError, match=r"sample_2\.png: expected 32 x 32 pixels"):
        prepare("pathfinder32", tmp_path, source="release")


def test_missing_release(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"curv_contour_length_9.*source: generate") as e:
        prepare("pathfinder32", tmp_path, source="release", level="intermediate")
    assert "tasks/configs/pathfinder32.yaml" in str(e.value)
    folder = tmp_path / "pathfinder32" / pathfinder.LEVELS["easy"][0]
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="expected metadata files"):
        prepare("pathfinder32", tmp_path, source="release", level="easy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "14"}, "level: expected one of hard, intermediate, easy, got '14'"),
        ({"source": "png"}, "source: expected"),
        ({"num_images": 9}, "num_images: expected 10 or more"),
        ({"grey_levels": 24}, "grey_levels: expected one of 2, 4, .*, got 24"),
        ({"workers": 0}, "workers: expected a positive integer"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare("pathfinder32", tmp_path, **options)
