"""Text for pre-training: packing, splits, and the law of the masks."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")

from sbmgraph.data import prepare
from sbmgraph.data.masked_text import mask_tokens, pack
from sbmgraph.data.tokenizer import train_tokenizer

#: Both tails of a normal variable beyond this hold 2e-7.
BOUND = 5.2
TEXT = "the cat sat on the mat\nthe dog sat on the log\n\na bird sang in a tree\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(TEXT * 60)
    (tmp_path / "text" / "b.txt").write_text("a cat in a tree\n" * 60)
    return tmp_path


def options(**changes: object) -> dict:
    return {"vocab_size": 280, "length": 10, "validation_every": 4, **changes}


def far(count: int, total: int, share: float) -> float:
    return abs(count - total * share) / math.sqrt(total * share * (1 - share))


def test_masks_follow_their_law() -> None:
    """Nine counts of binomial laws, each beyond its bound with probability 2e-7."""
    size, vocab, mask = 400_000, 50, 4
    tokens = torch.randint(0, vocab, (size,), generator=torch.Generator().manual_seed(1))
    special = (0, 1, 2, 3)
    found = mask_tokens(tokens, mask, vocab, special, generator=torch.Generator().manual_seed(2))
    ordinary = int((tokens > 4).sum())
    chosen = len(found.positions)
    assert far(chosen, ordinary, 0.15) < BOUND
    assert bool((tokens[found.positions] == found.targets).all())
    assert not bool(torch.isin(found.targets, torch.tensor([*special, mask])).any())
    untouched = torch.ones(size, dtype=torch.bool)
    untouched[found.positions] = False
    assert torch.equal(found.tokens[untouched], tokens[untouched])
    new = found.tokens[found.positions]
    masked, kept = new == mask, new == found.targets
    assert far(int(masked.sum()), chosen, 0.8) < BOUND
    # A drawn token is the old one in one of 45 cases.
    assert far(int(kept.sum()), chosen, 0.1 + 0.1 / 45) < BOUND
    drawn = new[~masked & ~kept]
    assert drawn.min() == 5
    counts = torch.bincount(drawn, minlength=vocab)[5:].numpy()
    expected = len(drawn) / 45
    square = float(((counts - expected) ** 2 / expected).sum())
    assert (square - 44) / math.sqrt(2 * 44) < 7  # chi-square, 44 degrees: below 1e-6
    # Neighbours are chosen independently.
    flags = torch.zeros(size)
    flags[found.positions] = 1
    both = (tokens[1:] > 4) & (tokens[:-1] > 4)
    pairs = int((flags[1:] * flags[:-1] * both).sum())
    assert far(pairs, int(both.sum()), 0.15**2) < BOUND


def test_masks_depend_on_the_generator_alone() -> None:
    tokens = torch.arange(5, 45)
    state = torch.get_rng_state()
    first, second = (
        mask_tokens(tokens, 4, 50, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    nothing = mask_tokens(tokens, 4, 50, probability=0.0)
    assert torch.equal(nothing.tokens, tokens)
    assert not len(nothing.positions)


def test_mask_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="'tokens' must be an int64 vector"):
        mask_tokens(torch.zeros(2, 2, dtype=torch.int64), 4, 50)
    with pytest.raises(ValueError, match="'probability' must be"):
        mask_tokens(torch.zeros(2, dtype=torch.int64), 4, 50, probability=1.5)
    with pytest.raises(ValueError, match="special alone"):
        mask_tokens(torch.zeros(2, dtype=torch.int64), 1, 2, special=[0])


@pytest.mark.parametrize("length", [3, 7, 16])
def test_packed_sequences_are_the_stream_cut(root: Path, length: int) -> None:
    tokenizer = train_tokenizer([root / "text" / "a.txt"], 280)
    documents = [[7, 8, 9], [10], [], [11], [], [], [12] * 40, []]
    stream = [7, 8, 9, 10, 2, 11, 2, *[12] * 40, 2]
    found = list(pack(documents, tokenizer, length))
    assert all(s[0] == 0 and s[-1] == 2 and len(s) == length for s in found)
    body = list(chain.from_iterable(s[1:-1].tolist() for s in found))
    assert len(found) == len(stream) // (length - 2)
    assert body == stream[: len(body)]


def test_every_sequence_is_in_one_split(root: Path) -> None:
    data = prepare("masked_text", root, **options())
    assert np.array_equal(data["val"].tokens, data["test"].tokens)
    files = [root / "text" / "a.txt", root / "text" / "b.txt"]
    tokenizer = train_tokenizer(files, 280)
    documents: list[list[int]] = []
    for file in files:
        documents += [*tokenizer.encode_lines(file.read_text().split("\n")), []]
    expected = [sequence.tolist() for sequence in pack(documents, tokenizer, 10)]
    stored = {name: [i.tokens[0].tolist() for i in data[name]] for name in ("train", "val")}
    assert stored["val"] == expected[2::4]
    assert stored["train"] == [s for n, s in enumerate(expected) if n % 4 != 2]


def test_validation_files_and_limits(root: Path) -> None:
    data = prepare(
        "masked_text",
        root,
        **options(files=["text/a.txt"], validation_files=["text/b.txt"], limit_train=5),
    )
    assert len(data["train"]) == 5
    assert len(data["val"]) > 5
    both = prepare("masked_text", root, **options(limit_val=2, limit_test=1))
    assert len(both["val"]) == 2
    assert len(both["test"]) == 1


def test_bad_texts(root: Path) -> None:
    (root / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"empty.txt: expected text, got an empty file"):
        prepare("masked_text", root, **options(files=["empty.txt"]))
    (root / "latin.txt").write_bytes("caf\n\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt, line \d: expected UTF-8"):
        prepare("masked_text", root, **options(files=["latin.txt"]))
    (root / "short.txt").write_text("a cat\n")
    with pytest.raises(ValueError, match=r"short.txt: expected text for at least 1 sequences"):
        prepare("masked_text", root, **options(files=["short.txt"], length=64))
    with pytest.raises(ValueError, match=r"at least 501 sequences .* for the split 'val'"):
        prepare("masked_text", root, **options(files=["text/b.txt"], validation_every=1000))
    with pytest.raises(FileNotFoundError, match="expected text files, found none"):
        prepare("masked_text", root, **options(files=["*.md"]))
    assert not list((root / "prepared").glob("masked_text-*"))
