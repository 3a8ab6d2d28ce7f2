"""Text: the sentiment of film reviews (IMDb; Maas et al., 2011), read byte by byte.

LRA takes the test set for validation, so that its best checkpoint is chosen by the test score. The
default here is a held-out tenth of the training set; ``validation="test"`` does as LRA does.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from sbmgraph.checks import check_choice, check_positive_int
from sbmgraph.data.archive import archive_files
from sbmgraph.data.cache import load_or_build
from sbmgraph.data.download import IMDB, check_published, fetch
from sbmgraph.data.reading import bad_file, read_file
from sbmgraph.data.release import missing, signature
from sbmgraph.data.sequence import SequenceDataset

VERSION = 2
#: Token ids are bytes + 1; id 0 pads.
VOCAB_SIZE = 257
LABELS = {"neg": 0, "pos": 1}
_REVIEW = re.compile(r"(?:^|/)(train|test)/(neg|pos)/[^/]+\.txt$")
_OFFICIAL = 12_500
_LARGEST_REVIEW = 1 << 20


class Review(NamedTuple):
    """A review's text and class, and its file."""

    text: bytes
    label: int
    source: str


def encode(text: bytes, max_length: int) -> np.ndarray:
    """Token ids of a text's first ``max_length`` bytes, uint16 ``[length]``."""
    return np.frombuffer(text[:max_length], dtype=np.uint8).astype(np.uint16) + 1


def prepare_text(
    root: Path,
    cache_root: Path,
    *,
    validation: Literal["held-out", "test"] = "held-out",
    max_length: int = 3_000,
    seed: int = 0,
    download: bool = False,
    mirror: str | None = None,
    limit_train: int | None = None,
    limit_val: int | None = None,
    limit_test: int | None = None,
    verify: bool = False,
) -> dict[str, SequenceDataset]:
    """IMDb reviews from ``aclImdb/`` or ``aclImdb_v1.tar.gz``, whichever is there.

    Args:
        root: Data folder.
        cache_root: Folder of prepared data.
        validation: ``"held-out"`` validates on a tenth of the training set, equal parts of both
            classes; ``"test"`` on the test set itself, as LRA does.
        max_length: Bytes after which a review is cut.
        seed: Seed of the held-out tenth, of the stored order, and of the limits.
        download: Whether to download the archive if it is not there; one that is there must then
            be the published one.
        mirror: Base address of a mirror.
        limit_train: Use only so many reviews for training.
        limit_val: As ``limit_train``, for validation.
        limit_test: As ``limit_train``, for testing.
        verify: Whether to compare prepared data with their checksums.

    Raises:
        ValueError: On bad options, a damaged archive or an empty review.
        FileNotFoundError: If the reviews are not there.
    """
    check_choice("validation", validation, ("held-out", "test"))
    check_positive_int("max_length", max_length)
    folder, archive = Path(root) / "aclImdb", Path(root) / IMDB.name
    if not folder.is_dir() and not archive.exists():
        if not download:
            raise missing("text", root, "aclImdb")
        archive = fetch(IMDB, root, mirror)
    parameters = {
        "version": VERSION,
        "source": (
            signature(_review_files(folder), folder) if folder.is_dir() else signature([archive])
        ),
        "validation": validation,
        "max_length": max_length,
        "seed": seed,
        "limits": [limit_train, limit_val, limit_test],
    }

    def build(open_split) -> None:
        unpacked = folder.is_dir()
        if download and not unpacked:
            check_published(archive, IMDB)
        files = _folder_files(folder) if unpacked else _archive_files(archive)
        progress = tqdm(files, desc="text: reading reviews", total=4 * _OFFICIAL, unit="review")
        splits = _split(list(progress), validation, seed, folder if unpacked else archive)
        limits = {"train": limit_train, "val": limit_val, "test": limit_test}
        for split, reviews in splits.items():
            with open_split(split) as writer:
                for review in reviews[: limits[split]]:
                    writer.add([encode(review.text, max_length)], review.label, review.source)

    return load_or_build(
        cache_root,
        "text",
        parameters,
        build,
        dtype="uint16",
        vocab_size=VOCAB_SIZE,
        num_classes=2,
        max_length=max_length,
        verify=verify,
    )


def _is_review(name: str) -> bool:
    return _REVIEW.search(name) is not None


def _review_files(folder: Path) -> Iterator[str]:
    for split in ("train", "test"):
        for label in LABELS:
            part = folder / split / label
            names = sorted(os.listdir(part)) if part.is_dir() else []
            yield from (os.path.join(part, name) for name in names if name.endswith(".txt"))


def _folder_files(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yields name, place for messages, and content of every review."""
    for path in map(Path, _review_files(folder)):
        name = path.relative_to(folder).as_posix()
        yield name, str(path), read_file(path, _LARGEST_REVIEW, "a review")


def _archive_files(archive: Path) -> Iterator[tuple[str, str, bytes]]:
    for name, content in archive_files(archive, _is_review, _LARGEST_REVIEW):
        yield name, f"{archive}: {name}", content


def _split(
    files: list[tuple[str, str, bytes]], validation: str, seed: int, source: Path
) -> dict[str, list[Review]]:
    """The three splits, each in a random order that depends on ``seed`` alone."""
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, str], list[Review]] = {
        (split, label): [] for split in ("train", "test") for label in LABELS
    }
    for name, place, content in sorted(files):
        match = _REVIEW.search(name)
        if match is not None:
            split, label = match.groups()
            groups[split, label].append(Review(content, LABELS[label], place))
    for (split, label), reviews in groups.items():
        if not reviews:
            raise bad_file(source, f"expected reviews in {split}/{label}, got none")
        if len(reviews) != _OFFICIAL:
            warnings.warn(
                f"{source}: the official data have {_OFFICIAL} reviews in {split}/{label}, "
                f"these have {len(reviews)}",
                stacklevel=2,
            )
        order = rng.permutation(len(reviews))
        groups[split, label] = [reviews[i] for i in order]
    held = {c: len(groups["train", c]) // 10 if validation == "held-out" else 0 for c in LABELS}
    train = [review for c in LABELS for review in groups["train", c][held[c] :]]
    val = [review for c in LABELS for review in groups["train", c][: held[c]]]
    test = [review for c in LABELS for review in groups["test", c]]
    splits = {"train": train, "val": val, "test": test}
    splits = {name: [part[i] for i in rng.permutation(len(part))] for name, part in splits.items()}
    if validation == "test":
        splits["val"] = splits["test"]
    return splits
