"""Checkpoints that can be trusted: written whole, checked before they are read, and never executed.

A checkpoint is a zip archive that torch writes uncompressed with a checksum of every entry. It is
read with ``weights_only=True``, so a file from elsewhere cannot run code; and its checksums are
compared first, so a damaged one is refused rather than trained from.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from sbmgraph.files import write_atomically
from sbmgraph.run.archive import find_damage
from sbmgraph.training._former import former


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


def __getattr__(name: str) -> Any:
    return former(__name__, name)
