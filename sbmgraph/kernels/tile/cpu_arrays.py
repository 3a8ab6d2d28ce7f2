"""What both passes of the CPU's tile kernels read, as arrays and scalars."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Options


class Edges(NamedTuple):
    """A graph's bits as arrays, see :class:`~sbmgraph.kernels.bits.Bits`."""

    words: np.ndarray
    word_ptr: np.ndarray
    query_ptr: np.ndarray
    key_ptr: np.ndarray


class Rules(NamedTuple):
    """How scores become weights, and their gradients those of the edge probabilities."""

    scale: Any  # in the computing dtype
    dropout: np.float32
    seed: np.uint64
    clip: bool  # the mask estimator


def edges_of(bits: Bits) -> Edges:
    """The arrays of bits."""
    return Edges(*(x.numpy() for x in bits[:4]))


def rules_of(options: Options, number: Any) -> Rules:
    """Options as scalars, the scale in the computing dtype ``number``."""
    return Rules(
        number(options.scale),
        np.float32(options.dropout),
        np.uint64(options.seed),
        options.estimator == "mask",
    )
