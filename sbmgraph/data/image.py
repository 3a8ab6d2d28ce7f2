"""Image: CIFAR-10 (Krizhevsky, 2009) in grey, one token a pixel, row by row.

As in LRA, token ids are the grey levels 0 to 255 themselves; there is no padding.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from sbmgraph.checks import check_choice
from sbmgraph.data.archive import archive_files
from sbmgraph.data.cache import load_or_build
from sbmgraph.data.cifar import LARGEST_BATCH, NUM_CLASSES, PIXELS, read_batch
from sbmgraph.data.download import CIFAR10, check_published, fetch
from sbmgraph.data.reading import UnexpectedError, bad_file, read_file, refusing
from sbmgraph.data.release import missing, signature, take
from sbmgraph.data.sequence import SequenceDataset

VERSION = 2
_BATCH = re.compile(r"(?:^|/)(data_batch_[1-5]|test_batch)$")
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_GRAY = "cifar10_gray.npz"
_GRAY_RELEASE = "the grey images, uint8 'train_x' [N, 1024] and 'test_x' with 'train_y', 'test_y',"
_ARRAYS = ("train_x", "train_y", "test_x", "test_y")
_LARGEST_ARRAY = 1 << 27


class Images(NamedTuple):
    """Grey pixels, uint8 ``[N, 1024]``, their classes, int64 ``[N]``, and where each is from."""

    pixels: np.ndarray
    labels: np.ndarray
    sources: list[str]

    def part(self, places: slice) -> Images:
        """Some of them."""
        return Images(self.pixels[places], self.labels[places], self.sources[places])


def prepare_image(
    root: Path,
    cache_root: Path,
    *,
    source: Literal["archive", "gray"] = "archive",
    seed: int = 0,
    download: bool = False,
    mirror: str | None = None,
    limit_train: int | None = None,
    limit_val: int | None = None,
    limit_test: int | None = None,
    verify: bool = False,
) -> dict[str, SequenceDataset]:
    """CIFAR-10 from its Python archive, unpacked or not; the last tenth of train validates.

    Args:
        root: Data folder, holding ``cifar-10-batches-py/`` or ``cifar-10-python.tar.gz``.
        cache_root: Folder of prepared data.
        source: ``"archive"``; or ``"gray"`` for images that are grey already, in
            ``cifar10_gray.npz`` (``train_x`` uint8 ``[50000, 1024]``, ``train_y``, ``test_x``,
            ``test_y``), which are shuffled first.
        seed: Seed of that shuffle, and of the limits.
        download: Whether to download the archive if it is not there; one that is there must then
            be the published one.
        mirror: Base address of a mirror.
        limit_train: Use only so many training images, drawn at random.
        limit_val: As ``limit_train``, for validation.
        limit_test: As ``limit_train``, for testing.
        verify: Whether to compare prepared data with their checksums.

    Raises:
        ValueError: On bad options or a damaged archive.
        FileNotFoundError: If the images are not there.
    """
    check_choice("source", source, ("archive", "gray"))
    if source == "archive":
        path = _find(Path(root), download, mirror)
        files = [path] if path.is_file() else [path / name for name in _BATCHES]
    else:
        path = Path(root) / _GRAY
        files = [path]
        if not path.exists():
            raise missing("image", root, _GRAY, release=_GRAY_RELEASE)
    limits = {"train": limit_train, "val": limit_val, "test": limit_test}
    parameters = {
        "version": VERSION,
        "source": signature(files),
        "limits": limits,
        "seed": seed,
    }

    def build(open_split) -> None:
        if download and path.is_file() and source == "archive":
            check_published(path, CIFAR10)
        train, test = _read_gray(path, seed) if source == "gray" else _read_batches(path)
        cut = len(train.labels) - len(train.labels) // 10
        splits = {
            "train": train.part(slice(None, cut)),
            "val": train.part(slice(cut, None)),
            "test": test,
        }
        for split, images in splits.items():
            with open_split(split) as writer:
                for i in take(len(images.labels), limits[split], seed):
                    writer.add([images.pixels[i]], int(images.labels[i]), images.sources[i])

    return load_or_build(
        cache_root,
        "image",
        parameters,
        build,
        dtype="uint8",
        vocab_size=256,
        num_classes=NUM_CLASSES,
        verify=verify,
        max_length=PIXELS,
    )


def to_gray(rgb: np.ndarray) -> np.ndarray:
    """LRA's grey levels.

    Args:
        rgb: uint8 ``[N, 3072]``, the red, green and blue planes of every image in turn.

    Returns:
        uint8 ``[N, 1024]``.
    """
    planes = rgb.reshape(len(rgb), 3, PIXELS).astype(np.float32)
    weights = np.array([0.2989, 0.587, 0.114], dtype=np.float32)
    gray = np.einsum("ncp,c->np", planes / np.float32(255), weights)
    return np.floor(gray * np.float32(255.5)).astype(np.uint8)


def _find(root: Path, download: bool, mirror: str | None) -> Path:
    folder, archive = root / "cifar-10-batches-py", root / CIFAR10.name
    if folder.is_dir():
        return folder
    if not archive.exists() and not download:
        raise missing("image", root, folder.name)
    return fetch(CIFAR10, root, mirror)


def _read_batches(path: Path) -> tuple[Images, Images]:
    found = {name: _batch(content, path, name) for name, content in _batch_files(path)}
    absent = [name for name in _BATCHES if name not in found]
    if absent:
        raise bad_file(path, f"expected the file {absent[0]}, got an archive without it")
    train = [found[name] for name in _BATCHES[:5]]
    joined = Images(
        np.concatenate([images.pixels for images in train]),
        np.concatenate([images.labels for images in train]),
        [source for images in train for source in images.sources],
    )
    return joined, found["test_batch"]


def _batch_files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for name in _BATCHES:
            yield name, read_file(path / name, LARGEST_BATCH, "a batch of CIFAR-10 images")
        return
    wanted = lambda name: _BATCH.search(name) is not None  # noqa: E731
    for name, content in archive_files(path, wanted, LARGEST_BATCH):
        yield name.rsplit("/", 1)[-1], content


def _batch(content: bytes, path: Path, name: str) -> Images:
    where = str(path / name) if path.is_dir() else f"{path}: {name}"
    rgb, labels = read_batch(content, where)
    return Images(to_gray(rgb), labels, [f"{where}, image {i}" for i in range(len(labels))])


def _read_gray(path: Path, seed: int) -> tuple[Images, Images]:
    with refusing(path, "the arrays " + ", ".join(_ARRAYS)), zipfile.ZipFile(path) as file:
        arrays = {name: _read_array(file, name) for name in _ARRAYS}
    splits = []
    for split in ("train", "test"):
        pixels, labels = arrays[f"{split}_x"], arrays[f"{split}_y"]
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), PIXELS) or labels.ndim != 1:
            raise bad_file(
                path,
                f"expected {split}_x to be uint8 of shape [{len(labels)}, {PIXELS}], "
                f"got {pixels.dtype} {list(pixels.shape)}",
            )
        sources = [f"{path}, image {i} of {split}_x" for i in range(len(labels))]
        splits.append(Images(pixels, labels.astype(np.int64), sources))
    train, test = splits
    order = np.random.default_rng([seed, 2]).permutation(len(train.labels))
    sources = [train.sources[i] for i in order]
    return Images(train.pixels[order], train.labels[order], sources), test


def _read_array(file: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of numbers of at most :data:`_LARGEST_ARRAY` bytes; its checksum is compared."""
    with file.open(f"{name}.npy") as array:
        version = np.lib.format.read_magic(array)
        if version != (1, 0):
            raise UnexpectedError(f"expected {name} in format (1, 0) of NumPy, got {version}")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(array)
        if dtype.kind not in "iu" or by_column or not shape:
            order = "column by column" if by_column else "row by row"
            raise UnexpectedError(
                f"expected {name} to be an array of integers, row by row, got {dtype} "
                f"{list(shape)}, {order}"
            )
        size = math.prod(shape) * dtype.itemsize
        if not 0 <= size <= _LARGEST_ARRAY:
            raise UnexpectedError(
                f"expected {name} to have at most {_LARGEST_ARRAY:,} bytes, got more"
            )
        data = array.read(size)
        if len(data) != size or array.read(1):
            raise UnexpectedError(
                f"expected {size:,} bytes of {name}, as its shape says, got "
                f"{'more' if len(data) == size else format(len(data), ',')}"
            )
    return np.frombuffer(data, dtype).reshape(shape)
