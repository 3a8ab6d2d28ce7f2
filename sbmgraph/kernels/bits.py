"""Edges as bits: one bit for every pair of a query vertex and a key of its graph."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Bits(NamedTuple):
    """The edges of a batch of graphs, one bit a pair.

    Graph g has n_g queries and m_g keys. Query vertex r = node * H + head, its node counted over
    all graphs, owns ceil(m_g / 32) words from ``word_ptr[g] + (r - query_ptr[g] * H) *
    ceil(m_g / 32)``; bit t of its word w is the key ``key_ptr[g] + 32 * w + t``. Bits past the last
    key are 0.

    Attributes:
        words: The bits, int32 of shape :obj:`[W]`.
        word_ptr: Where the words of each graph start, int64 of shape :obj:`[G + 1]`.
        query_ptr: Query node offsets of each graph, int64 of shape :obj:`[G + 1]`.
        key_ptr: Key node offsets of each graph, int64 of shape :obj:`[G + 1]`.
        heads: The number :math:`H` of heads.
    """

    words: Tensor
    word_ptr: Tensor
    query_ptr: Tensor
    key_ptr: Tensor
    heads: int
