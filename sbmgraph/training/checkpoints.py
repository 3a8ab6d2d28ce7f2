"""Checkpoints that can be trusted: written whole, checked before they are read, and never executed.

A checkpoint is a zip archive that torch writes uncompressed with a checksum of every entry. It is
read with ``weights_only=True``, so a file from elsewhere cannot run code; and its checksums are
compared first, so a damaged one is refused rather than trained from.
"""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from sbmgraph.files import write_atomically

BEST, LAST = "best.ckpt", "last.ckpt"
_PLAIN_FLAGS = 0x0808  # sizes after the data, names in UTF-8: what torch's archives may set


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are moved into place whole (Lightning's own go through the system's
    temporary folder, and from another disk that is a copy, which can be torn), and that are
    checked and loaded as data only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Saves ``checkpoint`` to ``path``."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads ``path``; see :func:`load_checkpoint`."""
        return load_checkpoint(path, map_location)


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint's content: tensors and plain values; nothing in it is executed.

    Args:
        path: The file.
        map_location: As for :func:`torch.load`.

    Raises:
        ValueError: If there is no such file, it is damaged, or it holds more than tensors and plain
            values.
    """
    path = Path(path)
    fault = find_damage(path)
    if fault is not None:
        raise ValueError(f"{path}: expected a whole checkpoint, but {fault}")
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # whatever a file from elsewhere leads the reader to
        raise ValueError(
            f"{path}: expected a checkpoint of tensors and plain values, could not read it as one "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path}: expected a checkpoint with a state_dict, found none in it")
    return content


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's archive, :obj:`None` if nothing.

    Compares every entry with its checksum and unpickles nothing. torch stores entries uncompressed,
    so none may be larger than the file, however large it claims to be.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ~_PLAIN_FLAGS:
                    return f"its entry {entry.filename!r} is not stored as torch stores entries"
            if sum(max(entry.file_size, entry.compress_size) for entry in entries) > size:
                return f"its entries claim more than its {size:,} bytes"
            if not any(entry.filename.endswith("/data.pkl") for entry in entries):
                return "it is not an archive that torch wrote"
            damaged = archive.testzip()
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    except Exception as error:  # damage in the archive's directory surfaces as almost anything
        return f"its archive is damaged ({error or type(error).__name__})"
    return None if damaged is None else f"its entry {damaged!r} differs from its checksum"


def newest_checkpoint(folder: Path) -> Path:
    """The newest whole checkpoint of a run folder; a damaged one is named in a warning.

    Raises:
        ValueError: If there is none.
    """
    for path in _newest_first(folder):
        fault = find_damage(path)
        if fault is None:
            return path
        warnings.warn(f"{path} is not a whole checkpoint and is left out: {fault}", stacklevel=2)
    raise ValueError(
        f"{folder}: expected a run folder with a checkpoint, but found no whole one in "
        f"{folder / 'checkpoints'}; train with 'sbmgraph lra fit --config ...' first"
    )


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint with the best validation accuracy; the newest whole one where there is none.

    Raises:
        ValueError: If there is no whole checkpoint.
    """
    path = folder / "checkpoints" / BEST
    if path.is_file() and find_damage(path) is None:
        return path
    return newest_checkpoint(folder)


def _newest_first(folder: Path) -> Iterator[Path]:
    checkpoints = sorted(
        (folder / "checkpoints").glob("[!.]*.ckpt"), key=os.path.getmtime, reverse=True
    )
    # `last` is made after `best` in a round; where both are of the same moment it is the one.
    return iter(sorted(checkpoints, key=lambda path: path.name != LAST))
