"""Files damaged at random, always alike; and what must come of reading them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def damaged(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """``count`` damaged copies: bytes replaced, taken out, put in, doubled or cut off."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        copy = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(copy) + 1))
            length = int(rng.choice([1, 1, 1, 2, 4, 8, 64]))
            kind = k % 6
            if kind == 0:
                copy[at : at + 1] = rng.bytes(1)
            elif kind == 1:
                copy[at : at + length] = rng.bytes(length)
            elif kind == 2:
                copy[at : at + length] = b""
            elif kind == 3:
                copy[at:at] = rng.bytes(length)
            elif kind == 4:
                copy[at : at + length] = bytes([rng.choice([0, 1, 127, 128, 255])]) * length
            else:
                del copy[at:]
        yield bytes(copy)


def count_refusals(
    read: Callable[[], Any], write: Callable[[bytes], Any], copies: Iterator[bytes], name: str
) -> tuple[int, list[Any]]:
    """Reads every copy: how many were refused by a :class:`ValueError` that begins with ``name``,
    and what came of the others. Any other error is let through."""
    refused, results = 0, []
    for copy in copies:
        write(copy)
        try:
            results.append(read())
        except ValueError as error:
            if not str(error).startswith(name):
                raise AssertionError(f"an error that does not name {name}: {error}") from error
            refused += 1
    return refused, results
