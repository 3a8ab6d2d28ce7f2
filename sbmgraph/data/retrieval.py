"""Retrieval: does one paper cite the other? Pairs of texts of the ACL Anthology Network.

The pairs are those of LRA's release (Tay et al., 2021; AAN: Radev et al., 2013); texts are read
byte by byte, as in :mod:`sbmgraph.data.text`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm.auto import tqdm

from sbmgraph.checks import check_positive_int
from sbmgraph.data.cache import load_or_build
from sbmgraph.data.reading import bad_file, open_file
from sbmgraph.data.release import missing, released, signature, take
from sbmgraph.data.sequence import SequenceDataset
from sbmgraph.data.text import VOCAB_SIZE, encode

VERSION = 2
_LONGEST_ROW = 1 << 26
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
    verify: bool = False,
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
        verify: Whether to compare prepared data with their checksums.

    Raises:
        ValueError: On bad options, or rows that are not of the expected form.
        FileNotFoundError: If the release is not there.
    """
    check_positive_int("max_length", max_length)
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
                        documents = [encode(text, max_length) for text in texts]
                        writer.add(documents, label, f"{path}, line {number + 1}")

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
        verify=verify,
    )


def read_tsv(path: Path) -> Iterator[tuple[tuple[bytes, bytes], int]]:
    """Yields the two texts and the label of every row ``label id1 id2 text1 text2``.

    The file is read as bytes: nothing is decoded, and quotes mean nothing.

    Raises:
        ValueError: Naming file and line, if a row is too long, has not five columns, an empty text
            or no label 0 or 1.
    """
    number = 0
    with open_file(path, "pairs of texts") as file:
        while line := file.readline(_LONGEST_ROW):
            number += 1
            if len(line) == _LONGEST_ROW:
                raise bad_file(path, f"expected a row below {_LONGEST_ROW:,} bytes", number)
            columns = line.rstrip(b"\r\n").split(b"\t")
            if len(columns) != 5:
                raise bad_file(path, f"expected five columns, got {len(columns)}", number)
            if not (columns[3] and columns[4]):
                raise bad_file(path, "expected two texts, got an empty one", number)
            yield (columns[3], columns[4]), _label(columns[0], path, number)
    if number == 0:
        raise bad_file(path, "expected at least one row, got the end of the file", 1)


def _label(column: bytes, path: Path, line: int) -> int:
    try:
        value = float(column)
    except ValueError:
        value = float("nan")
    if value not in (0.0, 1.0):
        raise bad_file(path, f"expected a label 0.0 or 1.0, got {column[:20]!r}", line)
    return int(value)


def _chosen(path: Path, limit: int | None, seed: int) -> set[int]:
    with open_file(path, "pairs of texts") as file:
        total = sum(1 for _ in file)
    return set(take(total, limit, seed).tolist())
