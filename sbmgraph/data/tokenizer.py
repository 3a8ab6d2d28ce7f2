"""Subword tokenizers: trained on one's own text, or those of a published encoder.

The work is done by Hugging Face's ``tokenizers``; here is what the tasks need to know of one: its
special tokens, and how it joins two sentences.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sbmgraph.checks import check_positive_int
from sbmgraph.files import write_atomically

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Special tokens of a tokenizer trained here, RoBERTa's, in the order of their numbers.
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_NAMES = {
    "begin": ("<s>", "[CLS]"),
    "end": ("</s>", "[SEP]"),
    "pad": ("<pad>", "[PAD]"),
    "mask": ("<mask>", "[MASK]"),
}
_LONGEST_LINE = 1_000_000
_OTHER_SPECIAL = ("<unk>", "[UNK]")


class TextTokenizer:
    """A tokenizer with the special tokens of an encoder.

    Args:
        tokenizer: The ``tokenizers.Tokenizer``; how it puts special tokens around one sentence and
            two is its own affair (its post-processor).
        source: Where it comes from, for messages.

    Raises:
        ValueError: If a special token is missing: ``<s>`` or ``[CLS]``, ``</s>`` or ``[SEP]``,
            ``<pad>`` or ``[PAD]``, ``<mask>`` or ``[MASK]``.
    """

    def __init__(self, tokenizer: Tokenizer, source: str | Path = "tokenizer") -> None:
        self.tokenizer = tokenizer
        self.begin = _special(tokenizer, "begin", source)
        self.end = _special(tokenizer, "end", source)
        self.pad = _special(tokenizer, "pad", source)
        self.mask = _special(tokenizer, "mask", source)

    @property
    def vocab_size(self) -> int:
        """The number of token types, special ones included."""
        return self.tokenizer.get_vocab_size()

    @property
    def special(self) -> tuple[int, ...]:
        """Numbers of the special tokens, ascending."""
        known = (self.tokenizer.token_to_id(token) for token in _OTHER_SPECIAL)
        others = {number for number in known if number is not None}
        return tuple(sorted({self.begin, self.end, self.pad, self.mask} | others))

    def encode(self, items: Sequence[tuple[str, ...]], max_length: int) -> list[np.ndarray]:
        """Token numbers of sentences and pairs with their special tokens, int64 ``[length]`` each.

        Args:
            items: One or two texts each.
            max_length: Tokens after which an item is cut; of a pair, the longer text first.

        Raises:
            ValueError: If ``max_length`` is not positive.
        """
        check_positive_int("max_length", max_length)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length, strategy="longest_first")
        try:
            texts: Any = [item[0] if len(item) == 1 else item for item in items]
            found = self.tokenizer.encode_batch(texts)
        finally:
            self.tokenizer.no_truncation()
        return [np.array(encoding.ids, np.int64) for encoding in found]

    def encode_lines(self, lines: Sequence[str]) -> list[list[int]]:
        """Token numbers of texts without special tokens, uncut."""
        found = self.tokenizer.encode_batch(list(lines), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def save(self, path: str | Path) -> None:
        """Writes ``tokenizer.json``, which :func:`load_tokenizer` and Transformers read."""
        write_atomically(path, self.tokenizer.to_str(pretty=True) + "\n")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"


def train_tokenizer(files: Iterable[str | Path], vocab_size: int = 8_000) -> TextTokenizer:
    """Trains a byte-level BPE tokenizer with RoBERTa's special tokens on text files.

    Args:
        files: UTF-8 text; read line by line, so that files may be of any size.
        vocab_size: Token types, the 256 bytes and the special tokens included.

    Raises:
        ValueError: If a file is empty or not UTF-8, or ``vocab_size`` too small.
        FileNotFoundError: If a file is not there.
    """
    from tokenizers import ByteLevelBPETokenizer

    check_positive_int("vocab_size", vocab_size, minimum=256 + len(SPECIAL_TOKENS))
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        read_lines(files),
        vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
    )
    return TextTokenizer(_as_roberta(tokenizer._tokenizer))


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """Reads a tokenizer.

    Args:
        path: A ``tokenizer.json``, or a folder with one, or with ``vocab.json`` and ``merges.txt``
            (RoBERTa), or with ``vocab.txt`` (BERT).

    Raises:
        ValueError: If the file is none, or a special token is missing.
        FileNotFoundError: If there is none.
    """
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer, Tokenizer

    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.is_file():
            return TextTokenizer(Tokenizer.from_file(str(file)), file)
        if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
            vocab, merges = str(path / "vocab.json"), str(path / "merges.txt")
            byte_level = ByteLevelBPETokenizer(vocab, merges)._tokenizer
            return TextTokenizer(_as_roberta(byte_level), path)
        if (path / "vocab.txt").is_file():
            pieces = BertWordPieceTokenizer(str(path / "vocab.txt"), lowercase=_lowercase(path))
            return TextTokenizer(pieces._tokenizer, path)
    except ValueError:
        raise
    except Exception as error:  # the package raises bare Exceptions
        raise ValueError(
            f"{path}: expected a tokenizer, got none that can be read ({error})"
        ) from None
    raise FileNotFoundError(
        f"{path}: expected a tokenizer.json, or a folder with one, with vocab.json and merges.txt, "
        "or with vocab.txt, found none"
    )


def find_tokenizer(root: str | Path, path: str | Path) -> Path:
    """A tokenizer's path as it is, or else from the data folder."""
    return Path(path) if Path(path).exists() else Path(root) / path


def read_lines(files: Iterable[str | Path]) -> Iterator[str]:
    """The lines of text files, one file after the other, without their ends; a line of more than a
    million characters comes in pieces.

    Raises:
        ValueError: If a file is empty, all blank, or not UTF-8.
        FileNotFoundError: If a file is not there.
    """
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected a text file, found none")
        number, anything = 0, False
        try:
            with open(path, encoding="utf-8") as file:
                while line := file.readline(_LONGEST_LINE):
                    number += line.endswith("\n")
                    anything = anything or not line.isspace()
                    yield line.removesuffix("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number + 1}: expected UTF-8, got {error}") from None
        if not anything:
            raise ValueError(f"{path}: expected text, got an empty file")


def _as_roberta(tokenizer: Tokenizer) -> Tokenizer:
    """Names the special tokens, and joins texts as RoBERTa does: ``<s> a </s></s> b </s>``."""
    from tokenizers import AddedToken
    from tokenizers.processors import RobertaProcessing

    present = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens(
        [AddedToken(t, lstrip=t == "<mask>", normalized=False, special=True) for t in present]
    )
    begin, end = (tokenizer.token_to_id(token) for token in ("<s>", "</s>"))
    if begin is not None and end is not None:
        tokenizer.post_processor = RobertaProcessing(
            ("</s>", end), ("<s>", begin), trim_offsets=True, add_prefix_space=False
        )
    return tokenizer


def _special(tokenizer: Tokenizer, role: str, source: str | Path) -> int:
    for name in _NAMES[role]:
        number = tokenizer.token_to_id(name)
        if number is not None:
            return number
    expected = " or ".join(repr(name) for name in _NAMES[role])
    raise ValueError(f"{source}: expected a tokenizer with a {role} token {expected}, found none")


def _lowercase(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    return not path.is_file() or bool(json.loads(path.read_text()).get("do_lower_case", True))
