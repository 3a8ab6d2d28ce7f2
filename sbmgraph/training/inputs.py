"""A person's own inputs, as the tokens that a task's model takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sbmgraph.data import Sequence
from sbmgraph.data.listops import VOCABULARY
from sbmgraph.data.listops_text import CLOSE

PICTURE_TASKS = ("image", "pathfinder32")
BYTE_TASKS = ("text", "retrieval")
SIDE = 32


def decoder(task: str) -> Callable[[int], str]:
    """The text of a task's token numbers."""
    if task == "listops":
        return lambda token: VOCABULARY[token] if token < len(VOCABULARY) else f"id {token}"
    if task in BYTE_TASKS:
        return lambda token: chr(token - 1) if token else ""
    return str


def token_kind(task: str) -> Callable[[int], str] | None:
    """The kind of a task's token numbers, in a word that a sentence can use; :obj:`None` where
    tokens have no kinds (duplicates)."""
    if task == "listops":
        return lambda token: "digits" if token <= 10 else "']'" if token == CLOSE else "operators"
    if task in BYTE_TASKS:
        return lambda token: _byte_kind(chr(token - 1)) if token else "padding"
    if task == "image":
        return lambda token: ("dark", "grey", "bright")[min(token // 86, 2)]
    if task == "pathfinder32":
        return lambda token: "strokes" if token else "background"
    return None


def _byte_kind(text: str) -> str:
    if text.isalpha():
        return "letters"
    return "spaces" if text.isspace() else "digits" if text.isdigit() else "punctuation"


def class_names(task: str) -> dict[int, str]:
    """Words for a task's classes, where it has some."""
    return {
        "text": {0: "negative", 1: "positive"},
        "retrieval": {0: "unrelated", 1: "related"},
        "pathfinder32": {0: "not connected", 1: "connected"},
        "image": dict(
            enumerate(
                [
                    "airplane",
                    "automobile",
                    "bird",
                    "cat",
                    "deer",
                    "dog",
                    "frog",
                    "horse",
                    "ship",
                    "truck",
                ]
            )
        ),
        "duplicates": {0: "once", 1: "again"},
    }.get(task, {})


def read_text(task: str, texts: list[str], max_length: int | None = None) -> Sequence:
    """The item that texts make.

    Args:
        task: A task that takes texts: ListOps expressions (with or without parentheses), bytes for
            Text and Retrieval, numbers for duplicates.
        texts: One text, or Retrieval's two.
        max_length: Tokens that the task allows; bytes are cut, as in its own data.

    Raises:
        ValueError: If the task takes pictures, or a text is not of its kind.
    """
    wanted = 2 if task == "retrieval" else 1
    if task in PICTURE_TASKS:
        raise ValueError(f"text: expected a picture for the task {task}, got a text")
    if len(texts) != wanted:
        raise ValueError(f"text: expected {wanted} for the task {task}, got {len(texts)}")
    documents = [
        _encode(task, text)[: max_length if task in BYTE_TASKS else None] for text in texts
    ]
    for document in documents:
        if not len(document):
            raise ValueError("text: expected at least one token, got an empty text")
        if max_length is not None and len(document) > max_length:
            raise ValueError(
                f"text: expected at most {max_length} tokens, as in the task's data, "
                f"got {len(document)}"
            )
    return Sequence(documents, 0)


def read_picture(task: str, path: str | Path) -> Sequence:
    """The item that a picture makes: 32 × 32 pixels, colours as the task greys them.

    Raises:
        ValueError: If the task takes no pictures, or the file is none of that size.
    """
    from PIL import Image

    from sbmgraph.data.image import to_gray

    if task not in PICTURE_TASKS:
        raise ValueError(f"picture: expected a text for the task {task}, got a picture")
    try:
        with Image.open(path, formats=("PNG", "JPEG", "BMP", "GIF", "WEBP")) as picture:
            size, grey = picture.size, picture.mode in ("1", "L", "LA")
            if size == (SIDE, SIDE):
                pixels = np.asarray(picture.convert("L" if grey else "RGB"))
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a picture, found no file") from None
    except Exception as error:  # a damaged file leads its decoders anywhere
        raise ValueError(f"{path}: expected a picture, got {error}") from None
    if size != (SIDE, SIDE):
        raise ValueError(
            f"{path}: expected a picture of {SIDE} × {SIDE} pixels, got {size[0]} × {size[1]}"
        )
    if not grey:
        pixels = to_gray(pixels.reshape(1, SIDE * SIDE, 3).transpose(0, 2, 1).reshape(1, -1))
    return Sequence([torch.from_numpy(pixels.reshape(-1).astype(np.int64))], 0)


def _encode(task: str, text: str) -> Tensor:
    if task in BYTE_TASKS:
        return torch.tensor([byte + 1 for byte in text.encode()], dtype=torch.int64)
    if task == "listops":
        known = {word: number for number, word in enumerate(VOCABULARY)}
        words = text.replace("(", " ").replace(")", " ").split()
        unknown = sorted(set(words) - set(VOCABULARY[1:]))
        if unknown:
            raise ValueError(
                f"text: expected ListOps tokens with spaces between, got {unknown[0]!r}"
            )
        return torch.tensor([known[word] for word in words], dtype=torch.int64)
    try:
        return torch.tensor([int(word) for word in text.split()], dtype=torch.int64)
    except ValueError as error:
        raise ValueError(f"text: expected numbers with spaces between, {error}") from None
