r"""Tile attention on the GPU (Triton): one program for each block of queries of a graph and head.

A program goes through the keys of its graph, tile by tile, with an online softmax: scores are a
product of two tiles, and bits select from them. Nothing of a tile is kept but ``lse``, from which
the backward passes of :mod:`~sbmgraph.kernels.tile.gpu_backward` compute weights anew:

.. math::
    s_{ij} = \text{scale}\; \mathbf{q}_i \cdot \mathbf{k}_j, \qquad
    \ell_i = \log \sum_{j : m_{ij} = 1} e^{s_{ij}}, \qquad
    \mathbf{o}_i = \sum_{j : m_{ij} = 1} e^{s_{ij} - \ell_i} \kappa_{ij} \mathbf{v}_j

with the dropout factors :math:`\kappa_{ij}`. No two programs write the same place, so results do
not depend on scheduling, and the host waits for nothing: there are at most ``n // block + G``
tiles, each finds its own graph, and those too many return at once.

Sums are float32. Numbers of nodes, of graphs and of edges do not change what is compiled, nor does
the probability of dropout.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.kernels._triton.launch import launch, pad
from sbmgraph.kernels._triton.tiles import (
    dot,
    find,
    load_rows,
    load_words,
    num_tiles,
    select,
    store_rows,
)
from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Options
from sbmgraph.kernels.tile import gpu_sizes
from sbmgraph.kernels.tile.gpu_backward import backward
from sbmgraph.kernels.tile.gpu_dropout import kept_words

__all__ = ["backward", "forward"]

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["num_graphs"])
def _forward_kernel(
    query, key, value, words, kept, out, lse, query_ptr, key_ptr, word_ptr,
    num_graphs, heads, scale, keep_scale,
    d: tl.constexpr, dv: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    g, first_query, start, count = find(query_ptr, num_graphs, tile, QUERIES)
    if start >= count:
        return
    first_key = tl.load(key_ptr + g)
    size = (tl.load(key_ptr + g + 1) - first_key).to(tl.int32)
    node = first_query + start
    mine = start + tl.arange(0, QUERIES) < count
    pitch = (size + 31) // 32
    row_words = tl.load(word_ptr + g) + (start * heads + head) * pitch
    vertex = node * heads + head
    q = load_rows(query + vertex * d, mine, heads * d, d, D)  # [QUERIES, D]
    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    acc = tl.zeros((QUERIES, DV), tl.float32)
    to_log2 = scale * LOG2E
    for first in range(0, size, KEYS):  # tiles of the graph's keys
        inside = first + tl.arange(0, KEYS) < size
        neighbour = (first_key + first) * heads + head
        k = load_rows(key + neighbour * d, inside, heads * d, d, D)  # [KEYS, D]
        score = dot(q, tl.trans(k), tl.zeros((QUERIES, KEYS), tl.float32), PRECISION)
        # [QUERIES, KEYS / 32]
        edge = load_words(words + row_words, first, mine, heads * pitch, pitch, KEYS)
        score = select(score, edge, float("-inf"))
        # A NaN that the maximum passes over comes back in the weights.
        raised = tl.maximum(highest, tl.max(score, 1) * to_log2)
        base = tl.where(raised == float("-inf"), 0.0, raised)
        weight = tl.exp2(score * to_log2 - base[:, None])
        decay = tl.exp2(highest - base)
        total = total * decay + tl.sum(weight, 1)
        if kept is not None:
            stays = load_words(kept + row_words, first, mine, heads * pitch, pitch, KEYS)
            weight = select(weight, stays, 0.0)
        v = load_rows(value + neighbour * dv, inside, heads * dv, dv, DV)  # [KEYS, DV]
        acc = dot(weight.to(v.dtype), v, acc * decay[:, None], PRECISION)
        highest = raised
    total = tl.where(total == 0, 1.0, total)
    if kept is not None:
        acc *= keep_scale
    store_rows(out + vertex * dv, mine, heads * dv, dv, acc / total[:, None], DV)
    row = tl.arange(0, QUERIES) * heads
    tl.store(lse + vertex + row, (highest + tl.log2(total)) * LN2, mask=mine)


def _with_positive_scale(query: Tensor, scale: float) -> tuple[Tensor, float]:
    """The same scores by a positive factor: the kernel scales the highest score, and -inf."""
    return (query, scale) if scale > 0 else (query * (scale and -1.0), -scale or 1.0)


def forward(
    query: Tensor, key: Tensor, value: Tensor, bits: Bits, options: Options
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, see :func:`sbmgraph.kernels.tile.reference.forward`."""
    (n, heads, d), dv = query.shape, value.size(2)
    out = torch.empty(n, heads, dv, dtype=query.dtype, device=query.device)
    lse = torch.empty(n, heads, dtype=torch.float32, device=query.device)
    query, scale = _with_positive_scale(query, options.scale)
    D, DV = pad(d), pad(dv)
    sizes = gpu_sizes.forward_sizes(query.dtype, D, DV)
    graphs = bits.query_ptr.numel() - 1
    launch(
        _forward_kernel, (num_tiles(n, graphs, sizes.queries), heads), query,
        query, key, value, bits.words, kept_words(bits, n, options), out, lse,
        bits.query_ptr, bits.key_ptr, bits.word_ptr, graphs, heads,
        scale, 1 / (1 - options.dropout),
        d=d, dv=dv, D=D, DV=DV, QUERIES=sizes.queries, KEYS=sizes.keys,
        PRECISION=gpu_sizes.precision(query.dtype), num_warps=sizes.warps, num_stages=sizes.stages,
    )  # fmt: skip
    return out, lse
