"""Retrieval: does one paper cite the other? Pairs of texts of the ACL Anthology Network.

The pairs are those of LRA's release (Tay et al., 2021; AAN: Radev et al., 2013); texts are read
byte by byte, as in :mod:`sbmgraph.data.text`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm.auto import tqdm

from sbmgraph.data.cache import load_or_build
from sbmgraph.data.release import missing, released, signature, take
from sbmgraph.data.sequence import SequenceDataset
from sbmgraph.data.text import VOCAB_SIZE, encode

VERSION = 1
FILES = {
    "train": "new_aan_pairs.train.tsv",
    "val": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}


def prepare_retrieval(
    root: Path,
    cache_root: Path,
    *,
    max_length: int = 4_000,
    seed: int = 0,
    limit_train: int | None = None,
    limit_val: int | None = None,
    limit_test: int | None = None,
) -> dict[str, SequenceDataset]:
    """Pairs of texts from ``lra_release/lra_release/tsv_data``; every item has two documents.

    Args:
        root: Data folder.
        cache_root: Folder of prepared data.
        max_length: Bytes after which a text is cut.
        seed: Seed of the limits.
        limit_train: Use only so many training pairs, drawn at random.
        limit_val: As ``limit_train``, for validation.
        limit_test: As ``limit_train``, for testing.

    Raises:
        ValueError: On bad options, or rows that are not of the expected form.
        FileNotFoundError: If the release is not there.
    """
    if max_length < 1:
        raise ValueError(f"max_length: expected a positive number of bytes, got {max_length}")
    folder = released(root, "tsv_data")
    if folder is None:
        raise missing("retrieval", root, "lra_release/lra_release/tsv_data")
    files = {split: folder / name for split, name in FILES.items()}
    limits = {"train": limit_train, "val": limit_val, "test": limit_test}
    parameters = {
        "version": VERSION,
        "source": signature(files.values()),
        "max_length": max_length,
        "limits": limits,
        "seed": seed,
    }

    def build(open_split) -> None:
        for split, path in files.items():
            wanted = None if limits[split] is None else _chosen(path, limits[split], seed)
            progress = tqdm(read_tsv(path), desc=f"retrieval: reading {path.name}", unit="pair")
            with open_split(split) as writer:
                for number, (texts, label) in enumerate(progress):
                    if wanted is None or number in wanted:
                        writer.add([encode(text, max_length) for text in texts], label)

    return load_or_build(
        cache_root,
        "retrieval",
        parameters,
        build,
        dtype="uint16",
        vocab_size=VOCAB_SIZE,
        num_classes=2,
        max_length=max_length,
        num_documents=2,
    )


def read_tsv(path: Path) -> Iterator[tuple[tuple[bytes, bytes], int]]:
    """Yields the two texts and the label of every row ``label id1 id2 text1 text2``.

    The file is read as bytes: nothing is decoded, and quotes mean nothing.

    Raises:
        ValueError: Naming file and line, if a row has not five columns or no label 0 or 1.
    """
    number = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            columns = line.rstrip(b"\r\n").split(b"\t")
            if len(columns) != 5:
                raise _bad_row(path, number, f"expected five columns, got {len(columns)}")
            yield (columns[3], columns[4]), _label(columns[0], path, number)
    if number == 0:
        raise _bad_row(path, 1, "expected at least one row, got the end of the file")


def _label(column: bytes, path: Path, line: int) -> int:
    try:
        value = float(column)
    except ValueError:
        value = float("nan")
    if value not in (0.0, 1.0):
        raise _bad_row(path, line, f"expected a label 0.0 or 1.0, got {column[:20]!r}")
    return int(value)


def _bad_row(path: Path, line: int, reason: str) -> ValueError:
    return ValueError(f"{path}, line {line}: {reason}")


def _chosen(path: Path, limit: int | None, seed: int) -> set[int]:
    with open(path, "rb") as file:
        total = sum(1 for _ in file)
    return set(take(total, limit, seed).tolist())
