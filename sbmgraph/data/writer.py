"""Streaming the items of a split to disk; what is out of range is refused with its source."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from sbmgraph.data.reading import bad_file
from sbmgraph.files import writing

#: Offsets and labels on disk.
INTEGER = np.dtype("<i8")
PARTS = ("tokens", "ptr", "labels")


PREPARED = "the prepared data"
"""What a folder lacks room for, in messages."""


class SplitWriter:
    """Writes the sequences of one split to ``<folder>/<split>.{tokens,ptr,labels}``.

    Args:
        folder: Where the arrays go.
        split: ``"train"``, ``"val"`` or ``"test"``.
        dtype: Dtype of the token ids on disk.
        **info: ``vocab_size``, ``num_classes``, ``max_length`` and ``num_documents`` of
            :class:`~sbmgraph.data.SequenceDataset`.
    """

    def __init__(self, folder: Path, split: str, dtype: str, **info: int) -> None:
        self.folder, self.split, self.info = folder, split, info
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._hash = hashlib.sha256()
        self._ptr = [0]
        self._labels: list[int] = []
        with writing(folder.parent, PREPARED):
            self._tokens = open(self._path("tokens"), "wb")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):
                self._tokens.close()
            return
        with writing(self.folder.parent, PREPARED):
            self._tokens.close()
            self._finish()

    def add(self, documents: list[np.ndarray], label: int, source: str | Path = "") -> None:
        """Appends one item.

        Args:
            documents: Token ids of each document, ``[length]``.
            label: The item's class.
            source: The file that it comes from, and its line, for messages.

        Raises:
            ValueError: If a document is empty or too long, a token or the label is out of range, or
                the disk is full.
        """
        source = source or f"item {len(self._labels)} of {self.split}"
        if len(documents) != self.info["num_documents"]:
            raise bad_file(
                source, f"expected {self.info['num_documents']} documents, got {len(documents)}"
            )
        if not 0 <= label < self.info["num_classes"]:
            raise bad_file(
                source, f"expected a label from 0 to {self.info['num_classes'] - 1}, got {label}"
            )
        for tokens in documents:
            self._check(tokens, source)
        with writing(self.folder.parent, PREPARED):
            for tokens in documents:
                data = np.ascontiguousarray(tokens, dtype=self.dtype).tobytes()
                self._tokens.write(data)
                self._hash.update(data)
                self._ptr.append(self._ptr[-1] + len(tokens))
        self._labels.append(label)

    def _check(self, tokens: np.ndarray, source: str | Path) -> None:
        longest, types = self.info["max_length"], self.info["vocab_size"]
        if not 1 <= len(tokens) <= longest:
            raise bad_file(
                source, f"expected a document of 1 to {longest} tokens, got {len(tokens)}"
            )
        if not 0 <= tokens.min() <= tokens.max() < types:
            raise bad_file(
                source,
                f"expected tokens from 0 to {types - 1}, got {tokens.min()} to {tokens.max()}",
            )

    def _finish(self) -> None:
        digests = {"tokens": self._hash.hexdigest()}
        for part, values in (("ptr", self._ptr), ("labels", self._labels)):
            data = np.array(values, dtype=INTEGER).tobytes()
            self._path(part).write_bytes(data)
            digests[part] = hashlib.sha256(data).hexdigest()
        self.summary: dict[str, Any] = {
            "items": len(self._labels),
            "tokens": self._ptr[-1],
            "files": {
                self._path(part).name: {"bytes": self._path(part).stat().st_size, "sha256": digest}
                for part, digest in digests.items()
            },
        }

    def _path(self, part: str) -> Path:
        return self.folder / f"{self.split}.{part}"
