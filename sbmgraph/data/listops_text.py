"""The tokens of ListOps and the text of LRA's files, each checked as an expression."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sbmgraph.data.reading import bad_file, open_file
from sbmgraph.files import replacing

#: Text of every token id; id 0 pads.
VOCABULARY = ("<pad>", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
MIN, MAX, MED, SM, CLOSE = range(11, 16)

_SHORT = {b"[MIN": b"\1", b"[MAX": b"\2", b"[MED": b"\3", b"[SM": b"\4"}
_LETTERS = b"0123456789\1\2\3\4]()"
_CODE = np.zeros(256, dtype=np.uint8)
_CODE[np.frombuffer(_LETTERS, dtype=np.uint8)] = np.arange(1, 18)
_LONGEST_ROW = 1 << 24


def evaluate(tokens: np.ndarray) -> int:
    """Value of the expression.

    Args:
        tokens: Token ids, integers ``[length]``.

    Raises:
        ValueError: If the tokens are no complete expression.
    """
    from sbmgraph.data._listops_kernels import value_of

    ids = _ids(tokens)
    value = int(value_of(ids))
    if value >= 0:
        return value
    at = -value - 1
    words = [*(VOCABULARY[token] for token in ids), "the end"]
    raise ValueError(
        f"'tokens' must be one complete expression, got {words[at]!r} at token {at + 1}"
    )


def _ids(tokens: np.ndarray) -> np.ndarray:
    ids = np.asarray(tokens)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(
            f"'tokens' must be a vector of integers, got {ids.dtype} of shape {list(ids.shape)}"
        )
    if ids.size and not 0 <= ids.min() <= ids.max() < len(VOCABULARY):
        raise ValueError(
            f"'tokens' must be from 0 to {len(VOCABULARY) - 1}, got {ids.min()} to {ids.max()}"
        )
    return np.ascontiguousarray(ids, dtype=np.uint8)


def to_text(tokens: np.ndarray) -> str:
    """The text of LRA's files: binary, left-branching, e.g. ``( ( ( [MAX 2 ) 9 ) ] )``.

    Raises:
        ValueError: If the tokens are no complete expression.
    """
    evaluate(tokens)
    parents: list[tuple[int, list[str]]] = []
    text = ""
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
        if parents:
            parents[-1][1].append(text)
    return text


def from_text(text: bytes) -> np.ndarray:
    """Token ids, uint8 ``[length]``, of LRA's text; the parentheses are checked and dropped.

    An expression is a digit or a pair. A pair is two things in parentheses: an operator, or such a
    pair, with an argument, which is an expression; or such a pair with ``]``, which makes it one.

    Raises:
        ValueError: If the text is no expression in this form.
    """
    from sbmgraph.data._listops_kernels import first_misplaced

    letters = text
    for word, letter in _SHORT.items():
        letters = letters.replace(word, letter)
    codes = _CODE[np.frombuffer(letters.replace(b" ", b""), dtype=np.uint8)]
    if not codes.all() or text.count(b" ") + 1 != len(codes):
        bad = next((word for word in text.split(b" ") if not _is_word(word)), text)
        raise ValueError(f"expected ListOps tokens, one space between, got {bad[:40]!r}")
    misplaced = int(first_misplaced(codes))
    if misplaced >= 0:
        words = [*text.split(b" "), b"the end"]
        raise ValueError(
            "expected one complete expression, "
            f"got {words[misplaced].decode()!r} at word {misplaced + 1}"
        )
    return codes[codes <= CLOSE]


def _is_word(word: bytes) -> bool:
    return word in (b"(", b")") or word.decode("latin-1") in VOCABULARY[1:]


def write_tsv(path: Path, trees: Iterator[tuple[np.ndarray, int]]) -> None:
    """Writes trees in the format of LRA's files (header, tab, CRLF).

    Args:
        path: The file; it appears once it is complete.
        trees: As :func:`sbmgraph.data.listops.generate` yields them.

    Raises:
        ValueError: If the folder cannot be written or the disk is full.
    """
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="ascii", newline="\r\n") as file,
    ):
        file.write("Source\tTarget\n")
        file.writelines(f"{to_text(tokens)}\t{value}\n" for tokens, value in trees)


def read_tsv(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Yields tokens and label of every row of one of LRA's files, each checked by evaluation.

    Raises:
        ValueError: Naming file, line and reason, if the file is truncated or not ListOps.
    """
    number = 1
    with open_file(path, "a file of ListOps") as file:
        header = file.readline(_LONGEST_ROW).rstrip(b"\r\n")
        if header != b"Source\tTarget":
            raise bad_file(path, f"expected the header 'Source<TAB>Target', got {header[:60]!r}", 1)
        while line := file.readline(_LONGEST_ROW):
            number += 1
            try:
                yield _row(line)
            except ValueError as error:
                raise bad_file(path, str(error), number) from error
    if number == 1:
        raise bad_file(path, "expected at least one row, got the end of the file", 2)


def _row(line: bytes) -> tuple[np.ndarray, int]:
    if len(line) == _LONGEST_ROW:
        raise ValueError(f"expected a row below {_LONGEST_ROW:,} bytes, got a longer one")
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
