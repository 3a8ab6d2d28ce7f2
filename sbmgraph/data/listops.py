"""ListOps: nested list operations, written as a sequence of tokens; the label is their value.

The trees follow Nangia & Bowman, *ListOps: A Diagnostic Dataset for Latent Tree Learning* (2018),
at the lengths of Long Range Arena (Tay et al., 2021). They are generated here, or read from LRA's
released files (:mod:`sbmgraph.data.listops_text`); the two give the same tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm.auto import tqdm

from sbmgraph.checks import check_choice, check_positive_int
from sbmgraph.data.cache import Build, load_or_build
from sbmgraph.data.chunks import in_order
from sbmgraph.data.listops_text import (
    CLOSE,
    MAX,
    MED,
    MIN,
    SM,
    VOCABULARY,
    evaluate,
    from_text,
    read_tsv,
    to_text,
    write_tsv,
)
from sbmgraph.data.release import missing, released, signature, take
from sbmgraph.data.sequence import SequenceDataset
from sbmgraph.data.writer import SplitWriter

__all__ = [
    "CLOSE",
    "MAX",
    "MED",
    "MIN",
    "SM",
    "VOCABULARY",
    "evaluate",
    "from_text",
    "generate",
    "prepare_listops",
    "read_tsv",
    "to_text",
    "write_tsv",
]

VERSION = 2
FILES = {"train": "basic_train.tsv", "val": "basic_val.tsv", "test": "basic_test.tsv"}

_CHUNK = 256
_MAX_TRIES = 200_000


def prepare_listops(
    root: Path,
    cache_root: Path,
    *,
    source: Literal["generate", "release"] = "generate",
    num_train: int = 96_000,
    num_val: int = 2_000,
    num_test: int = 2_000,
    min_length: int = 500,
    max_length: int = 2_000,
    max_depth: int = 10,
    max_children: int = 10,
    seed: int = 0,
    workers: int | None = None,
    limit_train: int | None = None,
    limit_val: int | None = None,
    limit_test: int | None = None,
    verify: bool = False,
) -> dict[str, SequenceDataset]:
    """ListOps, generated (the default) or read from LRA's release.

    Args:
        root: Data folder, holding ``lra_release/lra_release/listops-1000`` for the release.
        cache_root: Folder of prepared data.
        source: ``"generate"`` or ``"release"``.
        num_train: Trees to generate for training.
        num_val: Trees to generate for validation.
        num_test: Trees to generate for testing.
        min_length: Trees are longer than this (exclusive, as in LRA).
        max_length: Trees are shorter than this (exclusive); the release is cut there.
        max_depth: Depth at which every node is a digit.
        max_children: Most arguments an operator has.
        seed: Seed of the trees; the result does not depend on ``workers``.
        workers: Threads that generate (default: the machine's cores).
        limit_train: Use only so many of the release's training trees, drawn at random.
        limit_val: As ``limit_train``, for validation.
        limit_test: As ``limit_train``, for testing.
        verify: Whether to compare prepared data with their checksums.

    Raises:
        ValueError: On impossible options, or a file that is truncated or not ListOps.
        FileNotFoundError: If the release is not there.
    """
    check_choice("source", source, ("generate", "release"))
    _check_shape(min_length, max_length, max_depth, max_children)
    info = {"vocab_size": len(VOCABULARY), "num_classes": 10, "max_length": max_length}
    limits = {"train": limit_train, "val": limit_val, "test": limit_test}
    if source == "generate":
        sizes = {"train": num_train, "val": num_val, "test": num_test}
        shape = {
            "min_length": min_length,
            "max_length": max_length,
            "max_depth": max_depth,
            "max_children": max_children,
        }
        for split, size in sizes.items():
            check_positive_int(f"num_{split}", size)
        sizes = {split: len(take(size, limits[split], 0)) for split, size in sizes.items()}
        parameters = {"version": VERSION, "source": source, "seed": seed, **sizes, **shape}
        build = _generation(sizes, shape, seed, workers)
    else:
        folder = released(root, "listops-1000")
        if folder is None:
            raise missing("listops", root, "lra_release/lra_release/listops-1000")
        files = {split: folder / name for split, name in FILES.items()}
        parameters = {
            "version": VERSION,
            "source": signature(files.values()),
            "max_length": max_length,
            "seed": seed,
            "limits": limits,
        }
        build = _reading(files, max_length, limits, seed)
    return load_or_build(
        cache_root, "listops", parameters, build, dtype="uint8", verify=verify, **info
    )


def generate(
    num_trees: int,
    *,
    min_length: int = 500,
    max_length: int = 2_000,
    max_depth: int = 10,
    max_children: int = 10,
    seed: int = 0,
    workers: int | None = None,
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields distinct random trees with ``min_length < length < max_length``.

    From the root at depth 1, a node is a digit with probability 0.75 (always, at ``max_depth``),
    else an operator, uniform over MIN, MAX, MED and SM, with uniform 2 to ``max_children``
    arguments. Trees come from chunks with a seed each, and in the order of the chunks, so that
    they depend on ``seed`` alone.

    Yields:
        Token ids, uint8 ``[length]``, and the value of the tree.

    Raises:
        ValueError: If an option is impossible, or too few distinct trees fit the lengths.
    """
    check_positive_int("num_trees", num_trees, 0)
    _check_shape(min_length, max_length, max_depth, max_children)
    bounds = (min_length, max_length, max_depth, max_children)
    seen: set[bytes] = set()
    stale = 0
    for tokens, ptr, values, _ in _chunks(seed, bounds, workers):
        before = len(seen)
        for i, value in enumerate(values):
            if len(seen) == num_trees:
                return
            tree = tokens[ptr[i] : ptr[i + 1]]
            key = hashlib.blake2b(tree, digest_size=16).digest()
            if key not in seen:
                seen.add(key)
                yield tree, int(value)
        if len(seen) == num_trees:
            return
        stale = stale + 1 if len(seen) - before < _CHUNK // 100 else 0
        if len(values) < _CHUNK or stale > 20:
            raise ValueError(
                f"'num_trees' must be a number of distinct trees with {min_length} < length < "
                f"{max_length}, depth <= {max_depth} and <= {max_children} arguments that can be "
                f"found, got {num_trees}, of which {len(seen)} were found"
            )


def _check_shape(min_length: int, max_length: int, max_depth: int, max_children: int) -> None:
    check_positive_int("min_length", min_length, 0)
    check_positive_int("max_length", max_length, min_length + 2)
    check_positive_int("max_depth", max_depth)
    check_positive_int("max_children", max_children, 2)


def _chunks(seed: int, bounds: tuple[int, int, int, int], workers: int | None) -> Iterator[tuple]:
    from sbmgraph.data._listops_kernels import random_trees

    def chunk(number: int) -> tuple:
        return random_trees(np.random.default_rng([seed, number]), _CHUNK, _MAX_TRIES, *bounds)

    return in_order(chunk, workers)


def _generation(
    sizes: dict[str, int], shape: dict[str, int], seed: int, workers: int | None
) -> Build:
    def build(open_split) -> None:
        total = sum(sizes.values())
        trees = generate(total, seed=seed, workers=workers, **shape)
        with tqdm(total=total, desc="listops: generating", unit="tree", unit_scale=True) as bar:
            for split, size in sizes.items():
                with open_split(split) as writer:
                    _fill(writer, trees, size, bar)

    return build


def _fill(writer: SplitWriter, trees: Iterator, size: int, bar: tqdm) -> None:
    for _ in range(size):
        tokens, value = next(trees)
        writer.add([tokens], value)
        bar.update()


def _reading(
    files: dict[str, Path], max_length: int, limits: dict[str, int | None], seed: int
) -> Build:
    def build(open_split) -> None:
        for split, path in files.items():
            rows = list(tqdm(read_tsv(path), desc=f"listops: reading {path.name}", unit="row"))
            with open_split(split) as writer:
                for i in take(len(rows), limits[split], seed):
                    tokens, value = rows[i]
                    writer.add([tokens[:max_length]], value, f"{path}, line {i + 2}")

    return build
