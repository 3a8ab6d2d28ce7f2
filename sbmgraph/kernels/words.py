"""How many words a batch of graphs has where each pair is a bit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

WORD_BITS = 32


class Words(NamedTuple):
    """Where the words of a batch of graphs lie, of sizes that the host knows.

    Attributes:
        ptr: Where those of each graph start, int64 of shape :obj:`[G + 1]`, on the device.
        total: How many there are.
        max_keys: The largest number of keys of a graph.
    """

    ptr: Tensor
    total: int
    max_keys: int


def words_of(
    queries: np.ndarray, keys: np.ndarray, heads: int, device: torch.device | str
) -> Words:
    """The words of graphs of so many ``queries`` and ``keys`` each, int64 of shape :obj:`[G]`."""
    ptr = np.zeros(queries.size + 1, np.int64)
    np.cumsum(queries * -(-keys // WORD_BITS) * heads, out=ptr[1:])
    on_device = torch.from_numpy(ptr).to(device, non_blocking=True)
    return Words(on_device, int(ptr[-1]), int(keys.max(initial=0)))
