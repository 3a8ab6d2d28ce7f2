"""ListOps: nested list operations, written as a sequence of tokens; the label is their value.

The trees follow Nangia & Bowman, *ListOps: A Diagnostic Dataset for Latent Tree Learning* (2018),
at the lengths of Long Range Arena (Tay et al., 2021). Both a generator and a reader of LRA's
released files are here; the two give the same tokens.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm.auto import tqdm

from sbmgraph.data.cache import Build, SplitWriter, load_or_build
from sbmgraph.data.chunks import in_order
from sbmgraph.data.release import missing, released, signature, take
from sbmgraph.data.sequence import SequenceDataset

VERSION = 1
#: Text of every token id; id 0 pads.
VOCABULARY = ("<pad>", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
MIN, MAX, MED, SM, CLOSE = range(11, 16)
FILES = {"train": "basic_train.tsv", "val": "basic_val.tsv", "test": "basic_test.tsv"}

_CHUNK = 256
_MAX_TRIES = 200_000
_SHORT = {b"[MIN": b"\1", b"[MAX": b"\2", b"[MED": b"\3", b"[SM": b"\4"}
_LETTERS = b"0123456789\1\2\3\4]"
_CODE = np.zeros(256, dtype=np.uint8)
_CODE[np.frombuffer(_LETTERS, dtype=np.uint8)] = np.arange(1, 16)


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

    Raises:
        ValueError: On impossible options, or a file that is truncated or not ListOps.
        FileNotFoundError: If the release is not there.
    """
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
        sizes = {split: len(take(size, limits[split], 0)) for split, size in sizes.items()}
        parameters = {"version": VERSION, "source": source, "seed": seed, **sizes, **shape}
        build = _generation(sizes, shape, seed, workers)
    elif source == "release":
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
    else:
        raise ValueError(f"source: expected 'generate' or 'release', got {source!r}")
    return load_or_build(cache_root, "listops", parameters, build, dtype="uint8", **info)


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
    _check(num_trees, min_length, max_length, max_depth, max_children)
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
                f"num_trees: expected a number of distinct trees with {min_length} < length < "
                f"{max_length}, depth <= {max_depth} and <= {max_children} arguments that can be "
                f"found, got {num_trees}, of which {len(seen)} were found"
            )


def _check(
    num_trees: int, min_length: int, max_length: int, max_depth: int, max_children: int
) -> None:
    if num_trees < 0:
        raise ValueError(f"num_trees: expected 0 or more, got {num_trees}")
    if not 0 <= min_length < max_length - 1:
        raise ValueError(
            f"min_length, max_length: expected 0 <= min_length < max_length - 1, "
            f"got {min_length} and {max_length}"
        )
    if max_depth < 1:
        raise ValueError(f"max_depth: expected 1 or more, got {max_depth}")
    if max_children < 2:
        raise ValueError(f"max_children: expected 2 or more, got {max_children}")


def _chunks(seed: int, bounds: tuple[int, int, int, int], workers: int | None) -> Iterator[tuple]:
    from sbmgraph.data._listops_kernels import random_trees

    def chunk(number: int) -> tuple:
        return random_trees(np.random.default_rng([seed, number]), _CHUNK, _MAX_TRIES, *bounds)

    return in_order(chunk, workers)


def evaluate(tokens: np.ndarray) -> int:
    """Value of the expression.

    Args:
        tokens: Token ids ``[length]``.

    Raises:
        ValueError: If the tokens are no complete expression.
    """
    from sbmgraph.data._listops_kernels import value_of

    value = int(value_of(np.ascontiguousarray(tokens, dtype=np.uint8)))
    if value >= 0:
        return value
    at = -value - 1
    words = [*map(_word, tokens), "the end"]
    raise ValueError(
        f"tokens: expected one complete expression, got {words[at]!r} at token {at + 1}"
    )


def _word(token: int) -> str:
    return VOCABULARY[token] if token < len(VOCABULARY) else f"id {token}"


def to_text(tokens: np.ndarray) -> str:
    """The text of LRA's files: binary, left-branching, e.g. ``( ( ( [MAX 2 ) 9 ) ] )``."""
    parents: list[tuple[int, list[str]]] = []
    for token in np.asarray(tokens).tolist():
        word = VOCABULARY[token]
        if MIN <= token <= SM:
            parents.append((token, [word]))
            continue
        words = [word]
        if token == CLOSE:
            parts = [*parents.pop()[1], "] )"]
            words = ["( " * (len(parts) - 1) + parts[0], *(f"{p} )" for p in parts[1:-1]), "] )"]
        text = " ".join(words)
        if not parents:
            return text
        parents[-1][1].append(text)
    raise ValueError("tokens: expected one complete expression, got an unfinished one")


def from_text(text: bytes) -> np.ndarray:
    """Token ids, uint8 ``[length]``, of LRA's text; the parentheses are dropped.

    Raises:
        ValueError: If the text holds anything but ListOps tokens.
    """
    letters = text
    for word, letter in _SHORT.items():
        letters = letters.replace(word, letter)
    letters = letters.translate(None, b" ()")
    tokens = _CODE[np.frombuffer(letters, dtype=np.uint8)]
    words = text.count(b" ") + 1
    if not tokens.all() or words != len(tokens) + text.count(b"(") + text.count(b")"):
        bad = next((word for word in text.split(b" ") if not _is_word(word)), text)
        raise ValueError(f"expected ListOps tokens, one space between, got {bad[:40]!r}")
    return tokens


def _is_word(word: bytes) -> bool:
    return word in (b"(", b")") or word.decode("latin-1") in VOCABULARY[1:]


def write_tsv(path: Path, trees: Iterator[tuple[np.ndarray, int]]) -> None:
    """Writes trees in the format of LRA's files (header, tab, CRLF).

    Args:
        path: The file; it appears once it is complete.
        trees: As :func:`generate` yields them.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="ascii", newline="\r\n") as file:
            file.write("Source\tTarget\n")
            file.writelines(f"{to_text(tokens)}\t{value}\n" for tokens, value in trees)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tsv(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Yields tokens and label of every row of one of LRA's files, each checked by evaluation.

    Raises:
        ValueError: Naming file, line and reason, if the file is truncated or not ListOps.
    """
    number = 1
    with open(path, "rb") as file:
        header = file.readline().rstrip(b"\r\n")
        if header != b"Source\tTarget":
            raise _bad_row(path, 1, f"expected the header 'Source<TAB>Target', got {header[:60]!r}")
        for number, line in enumerate(file, start=2):
            try:
                yield _row(line)
            except ValueError as error:
                raise _bad_row(path, number, str(error)) from error
    if number == 1:
        raise _bad_row(path, 2, "expected at least one row, got the end of the file")


def _row(line: bytes) -> tuple[np.ndarray, int]:
    if not line.endswith(b"\n"):
        raise ValueError("expected a line end, got the end of the file (truncated?)")
    columns = line.rstrip(b"\r\n").split(b"\t")
    if len(columns) != 2:
        raise ValueError(f"expected two columns, got {len(columns)}")
    source, target = columns
    if len(target) != 1 or not target.isdigit():
        raise ValueError(f"expected a target from 0 to 9, got {target[:20]!r}")
    tokens = from_text(source)
    value = evaluate(tokens)
    if value != int(target):
        raise ValueError(f"expected the value of the expression, {value}, got {int(target)}")
    return tokens, value


def _bad_row(path: Path, line: int, reason: str) -> ValueError:
    return ValueError(f"{path}, line {line}: {reason}")


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
                    writer.add([rows[i][0][:max_length]], rows[i][1])

    return build
