"""Prepared data on disk: written once, whole or not at all, and opened as memory maps.

A data set lives in ``<root>/<task>-<fingerprint>/``, the fingerprint being that of everything that
determines its content. Whatever kills the preparation leaves nothing that can be taken for a data
set (:func:`sbmgraph.files.making_folder`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sbmgraph.data.reading import bad_file, read_file
from sbmgraph.data.sequence import SequenceDataset
from sbmgraph.data.writer import INTEGER, PARTS, PREPARED, SplitWriter
from sbmgraph.files import abandoned, making_folder, writing

FORMAT = 2
SPLITS = ("train", "val", "test")
_MANIFEST = "manifest.json"

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
    verify: bool = False,
    **info: int,
) -> dict[str, SequenceDataset]:
    """Opens the data that ``parameters`` determine, after building them where they are missing.

    Several processes may do this at once: each builds a copy of its own, the first to finish
    wins, and the others use the winner's. Where a preparation of the same data was killed on this
    machine, the data are compared with their checksums once.

    Args:
        root: Folder of all prepared data; made if need be.
        task: Name of the task.
        parameters: JSON values that determine the content.
        build: Writes the splits.
        dtype: Dtype of the token ids on disk.
        verify: Whether to compare the data with their checksums.
        **info: Of :class:`SplitWriter`.

    Returns:
        A data set for each of ``train``, ``val`` and ``test``.

    Raises:
        ValueError: If the folder cannot be written, the disk is full, or the data there are
            damaged.
    """
    info = {"num_documents": 1, **info}
    recipe = {
        "format": FORMAT,
        "task": task,
        "parameters": dict(parameters),
        "dtype": dtype,
        "info": info,
    }
    text = json.dumps(recipe, sort_keys=True)
    folder = Path(root) / f"{task}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    crashed = list(abandoned(folder, ".tmp"))
    if not folder.exists():
        _remove(crashed)
        _build(folder, recipe, build)
    splits = open_prepared(folder, verify or bool(crashed), json.loads(text))
    _remove(crashed)
    return splits


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def open_prepared(
    folder: Path, verify: bool = False, recipe: Mapping[str, Any] | None = None
) -> dict[str, SequenceDataset]:
    """Opens a folder of prepared data as memory maps.

    Sizes, offsets and labels are checked at once, tokens as items are read.

    Args:
        folder: As written by :func:`load_or_build`.
        verify: Whether to compare every file with its SHA-256 too.
        recipe: What the manifest has to say of the data, if known.

    Raises:
        ValueError: If the folder is no such data set, or not whole.
    """
    try:
        content = read_file(folder / _MANIFEST, 1 << 20, "the manifest of prepared data")
        manifest = json.loads(content)
        differing = [key for key in recipe or {} if manifest[key] != recipe[key]]  # type: ignore[index]
        if differing:
            raise ValueError(f"{_MANIFEST} has another {differing[0]!r}")
        return {name: _open_split(folder, manifest, name, verify) for name in SPLITS}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise bad_file(
            folder,
            f"expected a complete prepared data set, got a damaged one ({error or repr(error)}). "
            "Delete the folder and prepare the task again.",
        ) from error


def _open_split(
    folder: Path, manifest: dict[str, Any], split: str, verify: bool
) -> SequenceDataset:
    summary, info = manifest["splits"][split], manifest["info"]
    items, documents = summary["items"], info["num_documents"]
    dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
    shapes = {
        "tokens": (dtype, summary["tokens"]),
        "ptr": (INTEGER, items * documents + 1),
        "labels": (INTEGER, items),
    }
    arrays = {}
    for part in PARTS:
        path = folder / f"{split}.{part}"
        kind, length = shapes[part]
        found = path.stat().st_size
        if found != length * kind.itemsize:
            raise ValueError(f"{path.name} has {found} bytes, not {length * kind.itemsize}")
        if verify:
            _verify(path, summary["files"][path.name]["sha256"])
        arrays[part] = np.memmap(path, kind, "r") if length else np.empty(0, kind)
    return SequenceDataset(
        arrays["tokens"],
        arrays["ptr"],
        arrays["labels"],
        name=f"{manifest['task']}/{split}",
        source=str(folder / f"{split}.tokens"),
        **{k: info[k] for k in ("vocab_size", "num_classes", "max_length", "num_documents")},
    )


def _verify(path: Path, expected: str) -> None:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise ValueError(f"{path.name} does not match its checksum")


def _build(folder: Path, recipe: dict[str, Any], build: Build) -> None:
    with making_folder(folder, PREPARED) as temporary:
        writers: dict[str, SplitWriter] = {}

        def open_split(split: str) -> SplitWriter:
            writers[split] = SplitWriter(temporary, split, recipe["dtype"], **recipe["info"])
            return writers[split]

        build(open_split)
        manifest = {**recipe, "splits": {name: writers[name].summary for name in SPLITS}}
        with writing(folder.parent, PREPARED):
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
