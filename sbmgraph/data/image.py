"""Image: CIFAR-10 (Krizhevsky, 2009) in grey, one token a pixel, row by row.

As in LRA, token ids are the grey levels 0 to 255 themselves; there is no padding.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sbmgraph.data.cache import load_or_build
from sbmgraph.data.download import CIFAR10, fetch
from sbmgraph.data.release import archive_files, missing, signature, take
from sbmgraph.data.sequence import SequenceDataset

VERSION = 1
PIXELS = 1024
_BATCH = re.compile(r"(?:^|/)(data_batch_[1-5]|test_batch)$")
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_GRAY = "cifar10_gray.npz"

Images = tuple[np.ndarray, np.ndarray]


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
) -> dict[str, SequenceDataset]:
    """CIFAR-10 from its Python archive, unpacked or not; the last tenth of train validates.

    Args:
        root: Data folder, holding ``cifar-10-batches-py/`` or ``cifar-10-python.tar.gz``.
        cache_root: Folder of prepared data.
        source: ``"archive"``; or ``"gray"`` for images that are grey already, in
            ``cifar10_gray.npz`` (``train_x`` uint8 ``[50000, 1024]``, ``train_y``, ``test_x``,
            ``test_y``), which are shuffled first.
        seed: Seed of that shuffle, and of the limits.
        download: Whether to download the archive if it is not there.
        mirror: Base address of a mirror.
        limit_train: Use only so many training images, drawn at random.
        limit_val: As ``limit_train``, for validation.
        limit_test: As ``limit_train``, for testing.

    Raises:
        ValueError: On bad options or a damaged archive.
        FileNotFoundError: If the images are not there.
    """
    if source == "archive":
        path = _find(Path(root), download, mirror)
        files = [path] if path.is_file() else [path / name for name in _BATCHES]
    elif source == "gray":
        path = Path(root) / _GRAY
        files = [path]
        if not path.exists():
            raise missing("image", root, _GRAY)
    else:
        raise ValueError(f"source: expected 'archive' or 'gray', got {source!r}")
    limits = {"train": limit_train, "val": limit_val, "test": limit_test}
    parameters = {
        "version": VERSION,
        "source": signature(files),
        "limits": limits,
        "seed": seed,
    }

    def build(open_split) -> None:
        train, test = _read_gray(path, seed) if source == "gray" else _read_batches(path)
        cut = len(train[1]) - len(train[1]) // 10
        splits = {
            "train": (train[0][:cut], train[1][:cut]),
            "val": (train[0][cut:], train[1][cut:]),
            "test": test,
        }
        for split, (pixels, labels) in splits.items():
            with open_split(split) as writer:
                for i in take(len(labels), limits[split], seed):
                    writer.add([pixels[i]], int(labels[i]))

    return load_or_build(
        cache_root,
        "image",
        parameters,
        build,
        dtype="uint8",
        vocab_size=256,
        num_classes=10,
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
    files = dict(_batch_files(path))
    absent = [name for name in _BATCHES if name not in files]
    if absent:
        raise ValueError(f"{path}: expected the file {absent[0]}, which it does not hold")
    batches = [_batch(files[name], f"{path}: {name}") for name in _BATCHES]
    pixels, labels = zip(*batches[:5], strict=True)
    return (np.concatenate(pixels), np.concatenate(labels)), batches[5]


def _batch_files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        yield from ((name, (path / name).read_bytes()) for name in _BATCHES)
        return
    for name, content in archive_files(path, lambda name: _BATCH.search(name) is not None):
        yield name.rsplit("/", 1)[-1], content


def _batch(content: bytes, where: str) -> Images:
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        rgb, labels = batch[b"data"], np.asarray(batch[b"labels"], dtype=np.int64)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{where}: expected a batch of CIFAR-10 images ({error!r})") from error
    if rgb.dtype != np.uint8 or rgb.shape != (len(labels), 3 * PIXELS):
        raise ValueError(
            f"{where}: expected uint8 pixels of shape ({len(labels)}, {3 * PIXELS}), "
            f"got {rgb.dtype} {rgb.shape}"
        )
    return to_gray(rgb), labels


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays and plain Python values, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        reconstruct = np.ndarray.__reduce__(np.empty(0))[0]
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in an array file")
        return allowed[module, name]


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


def _read_gray(path: Path, seed: int) -> tuple[Images, Images]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("train_x", "train_y", "test_x", "test_y")}
    except (KeyError, ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: expected train_x, train_y, test_x, test_y ({error})") from error
    order = np.random.default_rng([seed, 2]).permutation(len(arrays["train_y"]))
    train = arrays["train_x"][order], arrays["train_y"][order].astype(np.int64)
    return train, (arrays["test_x"], arrays["test_y"].astype(np.int64))
