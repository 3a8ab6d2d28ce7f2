"""Attention over bits on the CPU, the forward pass.

A tile of scores never leaves the second-level cache: it is multiplied, selected by the bits,
exponentiated and multiplied with the values before the next one begins. An online softmax joins the
tiles of a row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sbmgraph.kernels._numba.heads import most_keys, part_of, round_up, split
from sbmgraph.kernels._numba.jit import jit
from sbmgraph.kernels._numba.layout import compute_dtype, floating
from sbmgraph.kernels._numba.math import exp
from sbmgraph.kernels._numba.operands import (
    KEYS,
    PITCH,
    QUERIES,
    add_panels,
    aligned,
    clear,
    drop,
    from_panels,
    inner_products,
    to_columns,
    to_panels,
    to_rows,
)
from sbmgraph.kernels._numba.threads import parallel_for
from sbmgraph.kernels._numba.tiles import ROWS, lanes_of, select
from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Options
from sbmgraph.kernels.tile.cpu_arrays import edges_of, rules_of
from sbmgraph.kernels.tile.cpu_backward import backward

__all__ = ["backward", "forward"]


@jit
def _weights(tile, count, columns, words, word, num_words, top, total, shrink):
    """Turns the rows of a tile of scores into exponentials of what they are above ``top``, the
    highest of their row so far, and adds these to ``total``; ``shrink`` gets what earlier sums have
    to be multiplied by. Row r's bits begin at ``words[word + r * num_words]``."""
    for r in range(count):
        row = tile[r * PITCH : r * PITCH + columns]
        highest = select(words, word + r * num_words, tile, r * PITCH, columns, -math.inf)
        if top[r] > highest:  # not where highest is NaN
            highest = top[r]
        if highest == -math.inf:
            row[:] = 0
            shrink[r] = 1
            continue
        part = tile.dtype.type(0)
        for t in range(columns):
            weight = exp(row[t] - highest)
            row[t] = weight
            part += weight
        shrink[r] = exp(top[r] - highest)
        total[r] = total[r] * shrink[r] + part
        top[r] = highest


@jit
def _shrink(acc, count, rows, panels, factors):
    width = lanes_of(acc)
    for panel in range(panels):
        for r in range(count):
            if factors[r] != 1:
                at = (panel * rows + r) * width
                row = acc[at : at + width]
                for c in range(width):
                    row[c] *= factors[r]


@jit
def _forward_heads(first, last, part, parts, query, key, value, edges, rules, out, lse):
    """Heads ``first`` to ``last`` of all graphs' heads in order, or of one of them a part of the
    queries."""
    words, word_ptr, query_ptr, key_ptr = edges
    heads, d, dv = query.shape[1], query.shape[2], value.shape[2]
    like, width = query, lanes_of(query)
    zero, one = query.dtype.type(0), query.dtype.type(1)
    panels = (dv + width - 1) // width
    most = round_up(most_keys(first, last, heads, key_ptr), width)
    columns_k, panels_v = aligned(most * d, like), aligned(panels * width * most, like)
    rows_q = aligned(QUERIES * d, like)
    tile, acc = aligned(QUERIES * PITCH, like), aligned(panels * width * QUERIES, like)
    top, total, shrink = aligned(QUERIES, like), aligned(QUERIES, like), aligned(QUERIES, like)
    for index in range(first, last):
        g, head = index // heads, index % heads
        first_query, first_key = query_ptr[g], key_ptr[g]
        num_keys = key_ptr[g + 1] - first_key
        num_words, padded = (num_keys + 31) // 32, round_up(num_keys, width)
        begin, end = part_of(part, parts, query_ptr[g + 1] - first_query)
        to_columns(key, first_key, num_keys, head, columns_k)
        to_panels(value, first_key, num_keys, head, one, padded, panels_v)
        for start in range(begin, end, QUERIES):  # blocks of queries
            count = min(QUERIES, end - start)
            rows = round_up(count, ROWS)
            to_rows(query, first_query + start, count, head, rules.scale, rows, rows_q)
            acc[: panels * width * rows] = 0
            top[:], total[:] = -math.inf, 0
            for low in range(0, padded, KEYS):  # blocks of keys
                columns = min(KEYS, padded - low)
                inner_products(rows_q, rows, d, columns_k, low, columns, tile, PITCH)
                word = word_ptr[g] + (start * heads + head) * num_words + low // 32
                step = heads * num_words
                _weights(tile, count, columns, words, word, step, top, total, shrink)
                _shrink(acc, count, rows, panels, shrink)
                if rules.dropout > 0:
                    vertex = start * heads + head
                    drop(tile, count, columns, rules.seed, vertex, heads, g, low, rules.dropout)
                clear(tile, count, rows, columns)
                add_panels(
                    tile, PITCH, 1, rows, panels_v, low * width, padded, panels, columns, acc, 0,
                    rows,
                )  # fmt: skip
            for r in range(count):
                has_edge = total[r] != 0
                lse[first_query + start + r, head] = (
                    top[r] + math.log(total[r]) if has_edge else -math.inf
                )
                shrink[r] = one / total[r] if has_edge else zero
            from_panels(acc, rows, count, shrink, 1, out, first_query + start, head)


def forward(
    query: Tensor, key: Tensor, value: Tensor, bits: Bits, options: Options
) -> tuple[Tensor, Tensor]:
    r"""Attention of every query vertex over the keys whose bits are set.

    Args:
        query (Tensor): Queries of shape :obj:`[n, H, d]`.
        key (Tensor): Keys of shape :obj:`[m, H, d]`.
        value (Tensor): Values of shape :obj:`[m, H, dv]`.
        bits (Bits): The edges.
        options (Options): Scale and dropout.

    Returns:
        The output of shape :obj:`[n, H, dv]` in the dtype of ``query``, zeros where a query has no
        edge, and the log-sum-exp of the scores of shape :obj:`[n, H]`, there :math:`-\infty`.
    """
    q, k, v = floating(query), floating(key), floating(value)
    dtype = compute_dtype(query)
    out = torch.empty(*query.shape[:2], value.size(2), dtype=dtype, device="cpu")
    lse = torch.empty(query.shape[:2], dtype=dtype, device="cpu")
    rules = rules_of(options, q.dtype.type)
    args = (q, k, v, edges_of(bits), rules, out.numpy(), lse.numpy())
    tasks = split(bits.query_ptr, bits.key_ptr, bits.heads)
    parallel_for(lambda *task: _forward_heads(*task, *args), tasks)
    return out.to(query.dtype), lse
