"""Where each pair of a batch of bipartite graphs has its bit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sbmgraph.kernels.model import graph_of_nodes
from sbmgraph.kernels.words import WORD_BITS


class Bits(NamedTuple):
    """A batch of bipartite graphs from keys to queries for each head, one bit a pair.

    Graph ``g`` has n_g queries and m_g keys. Its query vertex ``r = node * heads + head`` (nodes
    count over all graphs) owns ⌈m_g / 32⌉ words, from
    ``word_ptr[g] + (r - query_ptr[g] * heads) * ⌈m_g / 32⌉`` on; bit ``t`` of its word ``w`` is the
    key ``key_ptr[g] + 32 * w + t``. The bits behind a row's last key are 0, always.

    Attributes:
        words: 32 pairs each, int32 of shape :obj:`[W]`.
        word_ptr: Where the words of each graph start, int64 of shape :obj:`[G + 1]`.
        query_ptr: Where the queries of each graph start, int64 of shape :obj:`[G + 1]`.
        key_ptr: Where the keys of each graph start, int64 of shape :obj:`[G + 1]`.
        heads: The number of heads.
    """

    words: Tensor
    word_ptr: Tensor
    query_ptr: Tensor
    key_ptr: Tensor
    heads: int


def words_per_row(key_ptr: Tensor) -> Tensor:
    """⌈m_g / 32⌉ of each graph, int64 of shape :obj:`[G]`."""
    return (key_ptr.diff() + (WORD_BITS - 1)) >> 5


def word_pointers(query_ptr: Tensor, key_ptr: Tensor, heads: int) -> Tensor:
    """Where the words of each graph start, int64 of shape :obj:`[G + 1]`."""
    words = query_ptr.diff() * words_per_row(key_ptr) * heads
    return torch.cat([words.new_zeros(1), words.cumsum(0)])


def num_rows(bits: Bits) -> int:
    """The number of query vertices over all graphs; waits for the device."""
    return int(bits.query_ptr[-1]) * bits.heads


def empty_bits(
    query_ptr: Tensor,
    key_ptr: Tensor,
    heads: int,
    total: int | None = None,
    *,
    word_ptr: Tensor | None = None,
    zero: bool = True,
) -> Bits:
    """Bits without an edge.

    Args:
        query_ptr (Tensor): Where the queries of each graph start, int64 of shape :obj:`[G + 1]`.
        key_ptr (Tensor): Likewise for keys.
        heads (int): The number of heads.
        total (int, optional): The number of words, where the caller knows it: without it the
            host waits for the device.
        word_ptr (Tensor, optional): Where the words of each graph start, where the caller has it.
        zero (bool, optional): If :obj:`False`, words are uninitialised, for kernels that write
            every one.
    """
    if word_ptr is None:
        word_ptr = word_pointers(query_ptr, key_ptr, heads)
    if total is None:
        total = int(word_ptr[-1])
    new = torch.zeros if zero else torch.empty
    words = new(total, dtype=torch.int32, device=query_ptr.device)
    return Bits(words, word_ptr, query_ptr, key_ptr, heads)


def row_starts(bits: Bits, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of the ``rows`` query vertices: its first word, its number of words and its graph's
    first key, int64 of shape :obj:`[rows]` each."""
    graph = graph_of_nodes(bits.query_ptr, rows // bits.heads).repeat_interleave(
        bits.heads, output_size=rows
    )
    width = words_per_row(bits.key_ptr)[graph]
    row = torch.arange(rows, dtype=torch.int64, device=graph.device)
    local = row - bits.query_ptr[graph] * bits.heads
    return bits.word_ptr[graph] + local * width, width, bits.key_ptr[graph]


def unpack(bits: Bits, graph: int, head: int) -> Tensor:
    """One head's pairs of one graph as a boolean matrix :obj:`[n_g, m_g]`."""
    queries, keys = (int(ptr[graph + 1] - ptr[graph]) for ptr in (bits.query_ptr, bits.key_ptr))
    first, last = bits.word_ptr[graph : graph + 2].tolist()
    words = bits.words[first:last].view(queries, bits.heads, -(-keys // WORD_BITS))[:, head]
    shift = torch.arange(WORD_BITS, dtype=torch.int32, device=words.device)
    return ((words.unsqueeze(-1) >> shift) & 1).flatten(1)[:, :keys].bool()
