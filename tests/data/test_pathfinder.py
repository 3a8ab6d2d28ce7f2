from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sbmgraph.data import pathfinder, prepare
from sbmgraph.data.pathfinder import generate, read_release, tables
from sbmgraph.data.png import read_png
from tests.data.damage import count_refusals, damaged


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
            picture = np.full((32, 32), 10 * part + i + 1, dtype=np.uint8)
            Image.fromarray(picture).save(folder / "imgs" / str(part) / f"sample_{i}.png")
            lines.append(f"imgs/{part} sample_{i}.png {i} {i % 2} 1.0 14 4 2 0.5 1 1\n")
        (folder / "metadata" / f"{part}.npy").write_text("".join(lines))
    return folder


def test_prepare_reads_the_release(tmp_path, folder):
    splits = prepare("pathfinder32", tmp_path, source="release")
    assert [len(splits[name]) for name in ("train", "val", "test")] == [16, 2, 2]
    seen = [(int(item.tokens[0][0]), item.label) for part in splits.values() for item in part]
    assert sorted(seen) == [(10 * part + i + 1, i % 2) for part in range(2) for i in range(10)]


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
    with pytest.raises(ValueError, match="expected pictures, got 20 PNG files that are all empty"):
        prepare("pathfinder32", tmp_path, source="release")
    assert list((tmp_path / "prepared").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("metadata/1.npy", b"\x93NUMPY\x01\x00v\x00", r"1\.npy, line 1: expected the text"),
        ("metadata/1.npy", b"imgs/0 sample_0.png 0\n", r"1\.npy, line 1: expected the text"),
        ("metadata/0.npy", b"imgs/0 sample_0.png 0 2 1.0\n", "expected a label 0 or 1, got '2'"),
        (
            "imgs/0/sample_5.png",
            b"not a picture",
            r"sample_5\.png: expected a PNG picture .*0\.npy, line 6",
        ),
        (
            "imgs/0/sample_5.png",
            None,
            r"sample_5\.png: expected a PNG picture .*No such file.*line 6",
        ),
        ("metadata/0.npy", b"/etc passwd 0 1\n", r"0\.npy, line 1: expected a path inside"),
        (
            "metadata/0.npy",
            b"imgs/0 sample_0.png 0 1\nimgs/0/.. ../../x.png 0 1\n",
            "0.npy, line 2: e",
        ),
        ("metadata/0.npy", b"imgs/0 /etc/passwd 0 1\n", "line 1: expected a path inside"),
        ("metadata/0.npy", b"imgs/0 a\0b.png 0 1\n", "line 1: expected a path inside"),
        ("imgs/1/sample_2.png", bytes(1_048_577), "sample_2.png: .*of at most 1,048,576 bytes"),
    ],
)
def test_damaged_release(tmp_path, folder, file, content, reason):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        prepare("pathfinder32", tmp_path, source="release")


def encoded(picture, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def piece(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


WHOLE = encoded(Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)))
HEADER = piece(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0))
HUGE = piece(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(Image.new("L", (32, 32), 9), "JPEG"), "expected a PNG picture by its signature"),
        (encoded(Image.new("L", (32, 32), 9), "GIF"), "expected a PNG picture by its signature"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "expected a PNG picture by its signature"),
        (WHOLE.replace(HEADER, HUGE), "got 50000 x 50000"),
        (WHOLE.replace(HEADER, HEADER + HUGE), "expected one IHDR, first"),
        (WHOLE + b"more", "expected one IHDR, first"),
        (encoded(Image.new("I;16", (32, 32), 900)), "at most 8 bits a channel, got 16"),
        (encoded(Image.new("L", (31, 32), 9)), "expected a PNG picture of 32 x 32 .*got 31 x 32"),
        (encoded(Image.new("L", (32, 32))), "with a pixel of at least 1, got 0"),
    ],
)
def test_refused_pictures(tmp_path, folder, content, reason):
    (folder / "imgs" / "1" / "sample_3.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"imgs/1/sample_3\.png: .*{reason}.*1\.npy, line 4"):
        prepare("pathfinder32", tmp_path, source="release")


def test_a_picture_that_grey_bands_hide(tmp_path, folder):
    assert prepare("pathfinder32", tmp_path, source="release", grey_levels=256)
    with pytest.raises(
        ValueError, match=r"sample_0\.png: .*a pixel of at least 8, got 1 \(.*line 1"
    ):
        prepare("pathfinder32", tmp_path, source="release", grey_levels=32)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_links_out_of_the_folder(tmp_path, folder, kind):
    path = folder / "imgs" / "1" / "sample_3.png"
    if kind == "file":
        os.replace(path, tmp_path / "outside.png")
        path.symlink_to(tmp_path / "outside.png")
    else:
        os.replace(path.parent, tmp_path / "outside")
        path.parent.symlink_to(tmp_path / "outside")
    with pytest.raises(
        ValueError, match=r"1\.npy, line \d: expected a picture inside .*imgs/1/sample"
    ):
        prepare("pathfinder32", tmp_path, source="release")


def test_a_linked_data_folder_is_fine(tmp_path, folder):
    (tmp_path / "elsewhere").symlink_to(tmp_path / "lra_release")
    root = tmp_path / "root"
    root.mkdir()
    (root / "lra_release").symlink_to(tmp_path / "lra_release")
    assert len(prepare("pathfinder32", root, source="release")["train"]) == 16


def test_every_damaged_picture_is_refused_or_undamaged(tmp_path):
    path = tmp_path / "sample.png"
    truth = np.arange(1024, dtype=np.uint8).reshape(32, 32)
    refused, results = count_refusals(
        lambda: read_png(path, 32, 32, "here"), path.write_bytes, damaged(WHOLE, 1000), str(path)
    )
    assert refused > 700
    assert all(result is None or (result == truth).all() for result in results)


def test_every_damaged_picture_with_right_checksums(tmp_path):
    """Whoever damages on purpose mends the checksums: still no other error."""
    path = tmp_path / "sample.png"
    data = zlib.compress(b"".join(b"\0" + bytes(range(32)) for _ in range(32)))
    end = piece(b"IEND", b"")
    rng = np.random.default_rng(0)
    extra = [
        b"zTXt",
        b"iCCP",
        b"PLTE",
        b"tRNS",
        b"gAMA",
        b"acTL",
        b"fcTL",
        b"eXIf",
        b"pHYs",
        b"IDAT",
    ]

    def copies():
        for header in damaged(HEADER[8:-4], 300):
            yield b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", data) + end
        for content in damaged(data, 700):
            yield b"\x89PNG\r\n\x1a\n" + HEADER + piece(b"IDAT", content) + end
        for _ in range(700):
            more = piece(rng.choice(extra), rng.bytes(rng.integers(40)))
            yield b"\x89PNG\r\n\x1a\n" + HEADER + more + piece(b"IDAT", data) + end
        bomb = b"a\0\0" + zlib.compress(bytes(1 << 26))
        yield b"\x89PNG\r\n\x1a\n" + HEADER + piece(b"zTXt", bomb) + piece(b"IDAT", data) + end

    refused, results = count_refusals(
        lambda: read_png(path, 32, 32, "here"), path.write_bytes, copies(), str(path)
    )
    assert refused > 500
    assert {result.shape for result in results} == {(32, 32)}


def test_every_damaged_metadata_file_is_refused_or_of_whole_rows(folder):
    path = folder / "metadata" / "0.npy"
    content = path.read_bytes()
    refused, _ = count_refusals(
        lambda: list(read_release(folder)), path.write_bytes, damaged(content, 300), str(folder)
    )
    assert refused > 100


@pytest.mark.parametrize("change", ["rewrite", "replace", "label"])
def test_changed_pictures_are_read_anew(tmp_path, folder, change):
    def items() -> list:
        splits = prepare("pathfinder32", tmp_path, source="release")
        return sorted((int(i.tokens[0][0]), i.label) for part in splits.values() for i in part)

    before = items()
    path = folder / "imgs" / "0" / "sample_3.png"
    new = encoded(Image.fromarray(np.full((32, 32), 99, dtype=np.uint8)))
    if change == "rewrite":
        path.write_bytes(new)
    elif change == "replace":
        (tmp_path / "new").write_bytes(new)
        os.replace(tmp_path / "new", path)
    else:
        file = folder / "metadata" / "0.npy"
        file.write_text(file.read_text().replace("sample_3.png 3 1", "sample_3.png 3 0"))
    old, new_item = (4, 1), (4, 0) if change == "label" else (99, 1)
    assert items() == sorted([new_item if item == old else item for item in before]) != before


def test_truncated_and_oversized_pictures(tmp_path, folder):
    path = folder / "imgs" / "1" / "sample_2.png"
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(ValueError, match=r"sample_2\.png: expected a PNG picture"):
        prepare("pathfinder32", tmp_path, source="release")
    Image.new("L", (64, 64)).save(path)
    with pytest.raises(
        ValueError, match=r"sample_2\.png: expected a PNG picture of 32 x 32 pixels, got 64 x 64"
    ):
        prepare("pathfinder32", tmp_path, source="release")


def test_missing_release(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'curv_contour_length_9.*source: "generate"') as e:
        prepare("pathfinder32", tmp_path, source="release", level="intermediate")
    assert "github.com/google-research/long-range-arena" in str(e.value)
    folder = tmp_path / "pathfinder32" / pathfinder.LEVELS["easy"][0]
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="expected metadata files"):
        prepare("pathfinder32", tmp_path, source="release", level="easy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "14"}, "'level' must be one of 'hard', 'intermediate', 'easy', got '14'"),
        ({"source": "png"}, "'source' must be one of 'generate', 'release', got 'png'"),
        ({"num_images": 9}, "'num_images' must be an integer >= 10, got 9"),
        ({"grey_levels": 24}, "'grey_levels' must be one of 2, 4, .*, got 24"),
        ({"workers": 0}, "'workers' must be an integer >= 1, got 0"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare("pathfinder32", tmp_path, **options)
