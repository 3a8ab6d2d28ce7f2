"""Prepared data on disk: written once, whole or not at all, and opened as memory maps.

A data set lives in ``<root>/<task>-<fingerprint>/``, the fingerprint being that of everything that
determines its content. It is written into a temporary sibling folder, which is renamed once it is
complete; whatever kills the preparation leaves nothing that can be taken for a data set.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sbmgraph.data.sequence import SequenceDataset

FORMAT = 1
SPLITS = ("train", "val", "test")


class SplitWriter:
    """Streams the sequences of one split into ``<folder>/<split>.*``.

    Args:
        folder: Where the arrays go.
        split: ``"train"``, ``"val"`` or ``"test"``.
        dtype: Dtype of the token ids on disk.
        **info: ``vocab_size``, ``num_classes``, ``max_length`` and ``num_documents`` of
            :class:`SequenceDataset`.
    """

    def __init__(self, folder: Path, split: str, dtype: str, **info: int) -> None:
        self.folder, self.split, self.dtype, self.info = folder, split, np.dtype(dtype), info
        self._tokens = open(folder / f"{split}.tokens", "wb")  # noqa: SIM115 - closed by __exit__
        self._hash = hashlib.sha256()
        self._ptr = [0]
        self._labels: list[int] = []

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._tokens.close()
        if kind is None:
            self._finish()

    def add(self, documents: list[np.ndarray], label: int) -> None:
        """Appends one item."""
        for tokens in documents:
            data = np.ascontiguousarray(tokens, dtype=self.dtype).tobytes()
            self._tokens.write(data)
            self._hash.update(data)
            self._ptr.append(self._ptr[-1] + len(tokens))
        self._labels.append(label)

    def _finish(self) -> None:
        np.save(self.folder / f"{self.split}.ptr.npy", np.array(self._ptr, dtype=np.int64))
        np.save(self.folder / f"{self.split}.labels.npy", np.array(self._labels, dtype=np.int64))
        names = [f"{self.split}.{part}" for part in ("tokens", "ptr.npy", "labels.npy")]
        self.summary = {
            "items": len(self._labels),
            "tokens": self._ptr[-1],
            "dtype": self.dtype.name,
            "tokens_sha256": self._hash.hexdigest(),
            "bytes": {name: (self.folder / name).stat().st_size for name in names},
            **self.info,
        }


#: Writes the three splits into a folder: ``build(open_split)``, where ``open_split(name)`` gives
#: the :class:`SplitWriter` of a split.
Build = Callable[[Callable[[str], SplitWriter]], None]


def load_or_build(
    root: Path,
    task: str,
    parameters: Mapping[str, Any],
    build: Build,
    *,
    dtype: str,
    **info: int,
) -> dict[str, SequenceDataset]:
    """Opens the data that ``parameters`` determine, after building them where they are missing.

    Several processes may do this at once: each builds a copy of its own, the first to finish
    wins, and the others use the winner's.

    Args:
        root: Folder of all prepared data; made if need be.
        task: Name of the task.
        parameters: JSON values that determine the content.
        build: Writes the splits.
        dtype: Dtype of the token ids on disk.
        **info: Of :class:`SplitWriter`.

    Returns:
        A data set for each of ``train``, ``val`` and ``test``.

    Raises:
        ValueError: If the folder cannot be written, the disk is full, or the data there are
            damaged.
    """
    recipe = {"format": FORMAT, "task": task, "parameters": dict(parameters)}
    text = json.dumps(recipe, sort_keys=True)
    folder = Path(root) / f"{task}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not folder.exists():
        _build(folder, recipe, build, dtype, info)
    return open_prepared(folder)


def open_prepared(folder: Path, verify: bool = False) -> dict[str, SequenceDataset]:
    """Opens a folder of prepared data as memory maps.

    Args:
        folder: As written by :func:`load_or_build`.
        verify: Whether to compare the tokens with their SHA-256 too, not sizes alone.

    Raises:
        ValueError: If the folder is no such data set, or not whole.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        splits, task = manifest["splits"], manifest["task"]
        if verify:
            _verify(folder, splits)
        return {name: _open_split(folder, task, name, splits[name]) for name in SPLITS}
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise _damaged(folder, repr(error)) from error


def _verify(folder: Path, splits: dict[str, Any]) -> None:
    for name, summary in splits.items():
        digest = hashlib.sha256()
        with open(folder / f"{name}.tokens", "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != summary["tokens_sha256"]:
            raise _damaged(folder, f"{name}.tokens does not match its checksum")


def _open_split(folder: Path, task: str, split: str, summary: dict[str, Any]) -> SequenceDataset:
    for name, size in summary["bytes"].items():
        found = (folder / name).stat().st_size
        if found != size:
            raise _damaged(folder, f"{name} has {found} bytes instead of {size}")
    dtype = np.dtype(summary["dtype"])
    path = folder / f"{split}.tokens"
    tokens = np.memmap(path, dtype, "r") if summary["tokens"] else np.empty(0, dtype)
    return SequenceDataset(
        tokens,
        np.load(folder / f"{split}.ptr.npy", mmap_mode="r"),
        np.load(folder / f"{split}.labels.npy", mmap_mode="r"),
        name=f"{task}/{split}",
        **{k: summary[k] for k in ("vocab_size", "num_classes", "max_length", "num_documents")},
    )


def _damaged(folder: Path, reason: str) -> ValueError:
    return ValueError(
        f"{folder}: expected a complete prepared data set, but {reason}. "
        "Delete the folder and prepare the task again."
    )


def _build(
    folder: Path, recipe: dict[str, Any], build: Build, dtype: str, info: dict[str, int]
) -> None:
    info = {"num_documents": 1, **info}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        prefix = f".{folder.name}.{socket.gethostname()}.{os.getpid()}."
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise _cannot_write(folder.parent, error) from error
    writers: dict[str, SplitWriter] = {}

    def open_split(split: str) -> SplitWriter:
        writers[split] = SplitWriter(temporary, split, dtype, **info)
        return writers[split]

    try:
        build(open_split)
        recipe = {**recipe, "splits": {name: writers[name].summary for name in SPLITS}}
        (temporary / "manifest.json").write_text(json.dumps(recipe, indent=2) + "\n")
        _rename(temporary, folder)
    except OSError as error:
        if error.filename is not None and not _inside(error.filename, temporary):
            raise
        raise _cannot_write(folder.parent, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, folder: Path) -> None:
    for path in temporary.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    os.chmod(temporary, 0o755)
    try:
        os.rename(temporary, folder)
    except OSError:
        if not folder.exists():
            raise


def _inside(name: Any, folder: Path) -> bool:
    return str(name).startswith(str(folder))


def _cannot_write(root: Path, error: OSError) -> ValueError:
    return ValueError(
        f"{root}: expected a folder with room for the prepared data, but could not write to it "
        f"({error.strerror or error}). Free some space, or name another folder."
    )


def _remove_abandoned(folder: Path) -> None:
    """Removes what killed preparations of the same data left behind on this machine."""
    prefix = f".{folder.name}.{socket.gethostname()}."
    for path in folder.parent.glob(f"{prefix}*.tmp"):
        pid = path.name[len(prefix) :].split(".")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
