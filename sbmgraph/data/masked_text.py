"""Text for masked-language-model pre-training: streamed from files, packed, masked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbmgraph.checks import check_positive_int, check_range, describe
from sbmgraph.data.cache import load_or_build
from sbmgraph.data.release import signature
from sbmgraph.data.sequence import SequenceDataset
from sbmgraph.data.tokenizer import (
    TextTokenizer,
    find_tokenizer,
    load_tokenizer,
    read_lines,
    train_tokenizer,
)

VERSION = 1
#: Characters that are tokenized at once, about.
_CHARACTERS = 2_000_000


class Masked(NamedTuple):
    """Tokens of which some are hidden.

    Attributes:
        tokens: Token numbers, some replaced, int64 ``[T]``.
        positions: Where a token is to be predicted, int64 ``[M]``, ascending.
        targets: The tokens that were there, int64 ``[M]``.
    """

    tokens: Tensor
    positions: Tensor
    targets: Tensor


def mask_tokens(
    tokens: Tensor,
    mask: int,
    vocab_size: int,
    special: Sequence[int] = (),
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> Masked:
    """Hides tokens as BERT does (Devlin et al., NAACL 2019, Section 3.1).

    Every token that is not special is chosen with ``probability``, independently. Of the chosen,
    80 % become the mask token, 10 % a token drawn uniformly from the whole vocabulary without its
    special tokens, and 10 % stay.

    Args:
        tokens: Token numbers, int64 ``[T]``.
        mask: Number of the mask token.
        vocab_size: The number of token types.
        special: Numbers that are neither chosen nor drawn.
        probability: Share of the tokens to predict.
        generator: Source of randomness. (default: torch's global one)

    Raises:
        ValueError: If an argument is out of range, or nothing is left to draw from.
    """
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or tokens.dim() != 1:
        raise ValueError(f"'tokens' must be an int64 vector, got {describe(tokens)}")
    check_range("probability", probability, 0.0, 1.0)
    check_positive_int("vocab_size", vocab_size)
    device = tokens.device
    ordinary = torch.ones(vocab_size, dtype=torch.bool, device=device)
    ordinary[[mask, *special]] = False
    choices = ordinary.nonzero().squeeze(1)
    if not len(choices):
        raise ValueError("'vocab_size' must leave a token that is not special, got special alone")

    def uniform() -> Tensor:
        return torch.rand(tokens.numel(), generator=generator, device=device, dtype=torch.float32)

    positions = ((uniform() < probability) & ordinary[tokens]).nonzero().squeeze(1)
    targets = tokens[positions]
    what = uniform()[positions]
    drawn = torch.randint(
        len(choices), (tokens.numel(),), generator=generator, device=device, dtype=torch.int64
    )[positions]
    replaced = torch.where(what < 0.8, mask, torch.where(what < 0.9, choices[drawn], targets))
    return Masked(tokens.index_put((positions,), replaced), positions, targets)


def pack(
    documents: Iterable[list[int]], tokenizer: TextTokenizer, length: int
) -> Iterator[np.ndarray]:
    """Cuts a stream of documents into sequences of one length, as RoBERTa does
    (``FULL-SENTENCES``; Liu et al., 2019, Section 4.2).

    Documents follow one another with an end token between; every sequence begins with the begin
    token and ends with an end token. The rest that does not fill a sequence is left out.

    Args:
        documents: Token numbers of each document, or of consecutive pieces of them; an empty list
            ends a document.
        tokenizer: Says which tokens begin and end a sequence.
        length: Tokens of a sequence, the two included.

    Yields:
        Token numbers, int64 ``[length]``.
    """
    room = length - 2
    held: list[int] = []
    open_document = False
    for ids in documents:
        if ids:
            held += ids
            open_document = True
        elif open_document:
            held.append(tokenizer.end)
            open_document = False
        start = 0
        while len(held) - start >= room:
            body = held[start : start + room]
            start += room
            yield np.array([tokenizer.begin, *body, tokenizer.end], np.int64)
        del held[:start]


def prepare_masked_text(
    root: Path,
    cache_root: Path,
    *,
    files: Sequence[str] = ("text/*.txt",),
    validation_files: Sequence[str] = (),
    validation_every: int = 20,
    tokenizer: str | None = None,
    vocab_size: int = 8_000,
    length: int = 128,
    limit_train: int | None = None,
    limit_val: int | None = None,
    limit_test: int | None = None,
) -> dict[str, SequenceDataset]:
    """Text files as packed sequences of token numbers.

    Files are read line by line and written to disk as they are tokenized: memory does not grow with
    their size. A blank line ends a document.

    Args:
        root: Data folder.
        cache_root: Folder of prepared data; a tokenizer trained here is kept there too.
        files: Names or patterns of text files inside ``root``, or whole paths.
        validation_files: The same, for validation. (default: one sequence in
            ``validation_every``, of the same documents as those trained on)
        validation_every: See ``validation_files``.
        tokenizer: File or folder of a tokenizer, see
            :func:`sbmgraph.data.tokenizer.load_tokenizer`. (default: one trained on ``files``)
        vocab_size: Token types of a tokenizer that is trained.
        length: Tokens of a sequence.
        limit_train: Use only the first so many sequences for training.
        limit_val: As ``limit_train``, for validation.
        limit_test: As ``limit_train``; ``test`` repeats the validation sequences.

    Returns:
        Data sets ``train``, ``val`` and ``test``; labels are all 0.

    Raises:
        ValueError: On bad options, an empty file, or text too short for a sequence of each split.
        FileNotFoundError: If a file is not there.
    """
    check_positive_int("length", length, minimum=3)
    check_positive_int("validation_every", validation_every, minimum=2)
    paths = find_files(root, files)
    held_out = find_files(root, validation_files) if validation_files else []
    text_tokenizer, name = masked_text_tokenizer(root, cache_root, paths, tokenizer, vocab_size)
    limits = {"train": limit_train, "val": limit_val, "test": limit_test}
    parameters = {
        "version": VERSION,
        "source": signature([*paths, name]),
        "files": [str(path) for path in paths],
        "validation_files": [str(path) for path in held_out],
        "validation_source": signature(held_out),
        "validation_every": validation_every,
        "length": length,
        "limits": limits,
    }

    def sequences(sources: Sequence[Path]) -> Iterator[np.ndarray]:
        return pack(_tokenized(sources, text_tokenizer), text_tokenizer, length)

    def is_validation(number: int) -> bool:
        return not held_out and number % validation_every == validation_every // 2

    def build(open_split) -> None:
        counts = dict.fromkeys(limits, 0)
        with open_split("train") as train, open_split("val") as val, open_split("test") as test:
            writers = {"train": train, "val": val, "test": test}

            def add(tokens: np.ndarray, *splits: str) -> None:
                for split in splits:
                    limit = limits[split]
                    if limit is None or counts[split] < limit:
                        writers[split].add([tokens], 0)
                        counts[split] += 1

            for number, tokens in enumerate(sequences(paths)):
                add(tokens, *(("val", "test") if is_validation(number) else ("train",)))
            for tokens in sequences(held_out):
                add(tokens, "val", "test")
        for split, sources in {"train": paths, "val": held_out or paths}.items():
            if not counts[split]:
                needed = 1 if held_out or split == "train" else validation_every // 2 + 1
                raise ValueError(
                    f"{', '.join(map(str, sources))}: expected text for at least {needed} "
                    f"sequences of 'length' = {length} tokens, found none for the split {split!r}"
                )

    return load_or_build(
        cache_root,
        "masked_text",
        parameters,
        build,
        dtype="uint16" if text_tokenizer.vocab_size <= 1 << 16 else "uint32",
        vocab_size=text_tokenizer.vocab_size,
        num_classes=1,
        max_length=length,
    )


def masked_text_tokenizer(
    root: Path,
    cache_root: Path,
    paths: Sequence[Path],
    tokenizer: str | None,
    vocab_size: int,
) -> tuple[TextTokenizer, Path]:
    """The tokenizer of :func:`prepare_masked_text`, and a file that stands for it; it is trained
    where none is given and none was kept from an earlier call."""
    if tokenizer is not None:
        given = find_tokenizer(root, tokenizer)
        files = [given] if given.is_file() else sorted(given.glob("*vocab*"))
        return load_tokenizer(given), ([*files, given / "tokenizer.json"])[0]
    key = [vocab_size, *signature(paths), *map(str, paths)]
    kept = Path(cache_root) / f"tokenizer-{_fingerprint(key)}.json"
    if not kept.is_file():
        train_tokenizer(paths, vocab_size).save(kept)
    return load_tokenizer(kept), kept


def find_files(root: str | Path, patterns: Sequence[str]) -> list[Path]:
    """The files that patterns inside a folder, or whole paths, name; each once, in order.

    Raises:
        FileNotFoundError: If a pattern names none.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        inside = Path(pattern)
        matches = [inside] if inside.is_file() else []
        if not matches and not inside.is_absolute():
            matches = sorted(path for path in Path(root).glob(pattern) if path.is_file())
        if not matches:
            raise FileNotFoundError(f"{Path(root) / pattern}: expected text files, found none")
        found |= dict.fromkeys(path.resolve() for path in matches)
    return list(found)


def _tokenized(paths: Sequence[Path], tokenizer: TextTokenizer) -> Iterator[list[int]]:
    """The tokens of every line; none for a blank line and for the end of a file."""
    for path in paths:
        lines: list[str] = []
        waiting = 0
        for line in read_lines([path]):
            lines.append("" if line.isspace() else line)
            waiting += len(line) + 1
            if waiting > _CHARACTERS:
                yield from tokenizer.encode_lines(lines)
                lines, waiting = [], 0
        yield from tokenizer.encode_lines([*lines, ""])


def _fingerprint(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]
