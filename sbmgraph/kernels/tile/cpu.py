"""Attention over bits on the CPU, the forward pass.

A tile of scores is a product that never leaves the second-level cache: it is multiplied, selected by
the bits, exponentiated and multiplied with the values before the next one begins. An online softmax
joins the tiles of a row.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sbmgraph._jit import exp, inline, jit
from sbmgraph.kernels._numba.tiles import (
    ROWS,
    add_panels,
    aligned,
    lanes_of,
    select,
    set_product,
)
from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Options
from sbmgraph.kernels.tile.cpu_blocks import (
    KEYS,
    PITCH,
    QUERIES,
    floating,
    most_keys,
    part_of,
    round_up,
    scalars,
    split,
    to_columns,
    to_panels,
    to_rows,
)
from sbmgraph.kernels.tile.cpu_dropout import factors_of_row
from sbmgraph.ops.threads import parallel_for


@inline
def inner_products(rows, left, channels, right, first, columns, tile):
    """A tile of inner products of ``rows`` rows with panels of nodes from node ``first`` on."""
    width = lanes_of(tile)
    for c in range(0, columns, width):
        for r in range(0, rows, ROWS):
            set_product(
                left, r * channels, channels, 1, right, (first + c) * channels, channels, tile,
                r * PITCH + c, PITCH,
            )  # fmt: skip


@inline
def _weights_of_row(tile, at, columns, words, word, top):
    """Turns a row of scores into exponentials of what they are above the highest so far, ``top`` or
    one of theirs; returns that, and the exponentials' sum."""
    highest = select(words, word, tile, at, columns, -math.inf)
    if top > highest:  # not where highest is NaN
        highest = top
    if highest == -math.inf:
        tile[at : at + columns] = 0
        return highest, tile.dtype.type(0)
    total = tile.dtype.type(0)
    for t in range(at, at + columns):
        weight = exp(tile[t] - highest)
        tile[t] = weight
        total += weight
    return highest, total


@inline
def _shrink(acc, r, rows, panels, factor):
    width = lanes_of(acc)
    for panel in range(panels):
        at = (panel * rows + r) * width
        for c in range(at, at + width):
            acc[c] *= factor


@jit
def _forward_heads(
    first, last, part, parts, query, key, value, words, word_ptr, query_ptr, key_ptr, scale,
    dropout, seed, out, lse,
):  # fmt: skip
    heads, d, dv = query.shape[1], query.shape[2], value.shape[2]
    like, width = query, lanes_of(query)
    zero, one = query.dtype.type(0), query.dtype.type(1)
    panels = (dv + width - 1) // width
    most = round_up(most_keys(first, last, heads, key_ptr), width)
    columns_k, panels_v = aligned(most * d, like), aligned(panels * width * most, like)
    rows_q = aligned(QUERIES * d, like)
    tile, acc = aligned(QUERIES * PITCH, like), aligned(panels * width * QUERIES, like)
    keep = aligned(PITCH, like)
    top, total = np.empty(QUERIES, query.dtype), np.empty(QUERIES, query.dtype)
    for index in range(first, last):
        g, head = index // heads, index % heads
        first_query, first_key = query_ptr[g], key_ptr[g]
        num_keys = key_ptr[g + 1] - first_key
        num_words, padded = (num_keys + 31) // 32, round_up(num_keys, width)
        begin, end = part_of(part, parts, query_ptr[g + 1] - first_query)
        to_columns(key, first_key, num_keys, head, columns_k)
        to_panels(value, first_key, num_keys, head, one, padded, panels_v)
        for start in range(begin, end, QUERIES):
            count = min(QUERIES, end - start)
            rows = round_up(count, ROWS)
            to_rows(query, first_query + start, count, head, scale, rows_q[: rows * d])
            acc[: panels * width * rows] = 0
            top[:], total[:] = -math.inf, 0
            for low in range(0, padded, KEYS):
                columns = min(KEYS, padded - low)
                inner_products(rows, rows_q, d, columns_k, low, columns, tile)
                for r in range(count):
                    vertex = (start + r) * heads + head
                    word = word_ptr[g] + vertex * num_words + low // 32
                    highest, part_ = _weights_of_row(tile, r * PITCH, columns, words, word, top[r])
                    if highest != top[r]:
                        shrink = exp(top[r] - highest)
                        total[r] *= shrink
                        _shrink(acc, r, rows, panels, shrink)
                        top[r] = highest
                    total[r] += part_
                    if dropout > 0:
                        factors_of_row(seed, vertex, g, low, columns, dropout, keep)
                        for t in range(columns):
                            tile[r * PITCH + t] *= keep[t]
                for r in range(count, rows):
                    tile[r * PITCH : r * PITCH + columns] = 0
                add_panels(
                    tile, 0, PITCH, 1, rows, panels_v, low * width, padded, panels, columns, acc, 0,
                    rows,
                )  # fmt: skip
            for r in range(count):
                node = first_query + start + r
                lse[node, head] = top[r] + math.log(total[r]) if total[r] != 0 else top[r]
                factor = one / total[r] if total[r] != 0 else zero
                for c in range(dv):
                    x = acc[(c // width * rows + r) * width + c % width]
                    out[node, head, c] = x * factor


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
    dtype = torch.promote_types(query.dtype, torch.float32)
    out = torch.empty(*query.shape[:2], value.size(2), dtype=dtype, device="cpu")
    lse = torch.empty(query.shape[:2], dtype=dtype, device="cpu")
    args = (
        q,
        k,
        v,
        bits.words.numpy(),
        bits.word_ptr.numpy(),
        bits.query_ptr.numpy(),
        bits.key_ptr.numpy(),
        *scalars(options, q),
        out.numpy(),
        lse.numpy(),
    )
    tasks = split(bits.query_ptr, bits.key_ptr, bits.heads)
    parallel_for(lambda *task: _forward_heads(*task, *args), tasks)
    return out.to(query.dtype), lse
