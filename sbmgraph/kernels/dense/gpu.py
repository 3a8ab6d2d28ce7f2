r"""The dense algorithm on the GPU (Triton): tiles of probabilities on the tensor cores, as bits.

A tile of queries :math:`i` of one head and graph meets tiles of its keys :math:`j`:

.. math::
    \mathbf{P} = \mathbf{W}\mathbf{Z}^{\top} + \delta, \qquad
    \text{bit}_{ij} = [u_{ij} < p_{ij}] \quad\text{or}\quad [u_{ij} < 1 - e^{-\min(1, p_{ij})}]

The product is taken from factors that are split into two bfloat16 numbers each beforehand,
:math:`\mathbf{W} = \mathbf{W}_1 + \mathbf{W}_2`: three products :math:`\mathbf{W}_2\mathbf{Z}_1 +
\mathbf{W}_1\mathbf{Z}_2 + \mathbf{W}_1\mathbf{Z}_1` in float32, small ones first, err by 2⁻¹⁶ of
:math:`p_{ij}` at most and are not biased. A probability that is NaN makes no edge.

Nothing that varies from batch to batch changes what is compiled, and the host waits for nothing
where it knows the sizes of the graphs.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.kernels._triton.launch import launch, pad
from sbmgraph.kernels._triton.law import at_most_one, one_minus_exp
from sbmgraph.kernels._triton.random import tile_bits, uniform
from sbmgraph.kernels._triton.tiles import dot, find, load_rows, num_tiles, pack, store_words
from sbmgraph.kernels.bits import Bits, empty_bits
from sbmgraph.kernels.model import EdgeModel
from sbmgraph.kernels.random import DENSE

QUERIES, KEYS, SPAN, WARPS, STAGES = 64, 64, 256, 4, 2
"""Queries and keys of a tile, keys that one program goes through, its warps, and the tiles of keys
that it holds at once: with three, shared memory has room for one program instead of two."""

DEPTH = 128
"""Blocks that a product sums at once."""


@triton.jit
def _blocks_of(base, inside, pitch, block: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr):
    """The blocks from ``block`` on of nodes ``inside``, [nodes, WIDTH], zeros past the last."""
    width: tl.constexpr = K - block if K - block < WIDTH else WIDTH
    return load_rows(base + block, inside, pitch, width, WIDTH)


@triton.jit(do_not_specialize=["num_graphs", "num_queries", "num_keys", "seed"])
def _dense_kernel(
    rate, rate_low, member, member_low, chosen, words,
    query_ptr, part_ptr, key_ptr, word_ptr,
    num_graphs, num_queries: tl.int64, num_keys: tl.int64, heads, exploration, seed: tl.int64,
    K: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    SPAN: tl.constexpr, POISSON: tl.constexpr, PURPOSE: tl.constexpr,
):  # fmt: skip
    """A program: one tile of queries of a graph and head against SPAN of the graph's keys. Of graph
    g the queries from ``part_ptr[g]`` on have words; they count from ``query_ptr[g]`` on."""
    tile, head = tl.program_id(0), tl.program_id(1)
    g, first_query, start, count = find(part_ptr, num_graphs, tile, QUERIES)
    if start >= count:
        return
    first_key = tl.load(key_ptr + g)
    size = (tl.load(key_ptr + g + 1) - first_key).to(tl.int32)
    span = tl.program_id(2) * SPAN
    if span >= size:
        return
    node = first_query + start
    row = node + tl.arange(0, QUERIES)
    mine = row < first_query + count
    if chosen is not None:
        mine = mine & (tl.load(chosen + row * heads + head, mask=mine, other=0) != 0)
        if tl.max(mine.to(tl.int32), 0) == 0:
            return
    vertex = ((row - tl.load(query_ptr + g)) * heads + head).to(tl.int32)
    pitch = (size + 31) // 32
    row_words = words + tl.load(word_ptr + g) + (start * heads + head) * pitch
    at = (head * num_queries + node) * K
    if K <= WIDTH:
        w = _blocks_of(rate + at, mine, K, 0, K, WIDTH)  # [QUERIES, WIDTH]
        w_low = _blocks_of(rate_low + at, mine, K, 0, K, WIDTH)
    for first in range(span, tl.minimum(span + SPAN, size), KEYS):  # tiles of keys
        inside = first + tl.arange(0, KEYS) < size
        z_at = (head * num_keys + first_key + first) * K
        prob = tl.full((QUERIES, KEYS), 0.0, tl.float32) + exploration
        for block in tl.static_range(0, K, WIDTH):  # blocks of the model, WIDTH at once
            if K > WIDTH:
                w = _blocks_of(rate + at, mine, K, block, K, WIDTH)
                w_low = _blocks_of(rate_low + at, mine, K, block, K, WIDTH)
            z = _blocks_of(member + z_at, inside, K, block, K, WIDTH)
            z_low = _blocks_of(member_low + z_at, inside, K, block, K, WIDTH)
            prob = dot(w_low, tl.trans(z), prob, "ieee")
            prob = dot(w, tl.trans(z_low), prob, "ieee")
            prob = dot(w, tl.trans(z), prob, "ieee")
        if POISSON:
            prob = one_minus_exp(at_most_one(prob))
        number = tile_bits(seed, vertex, g.to(tl.int32), first, PURPOSE, KEYS)
        edge = pack((uniform(number) < prob) & inside[None, :])
        store_words(row_words, first, mine, heads * pitch, pitch, edge, KEYS)


class Part(NamedTuple):
    """Some of a model's queries, one after the other, and the bits that they fill.

    Attributes:
        ptr: The first of them in each graph, numbered over all queries, int64 of shape
            :obj:`[G + 1]`.
        number: How many they are.
        max_keys: A bound of the number of keys of a graph.
        bits: The bits of these queries alone.
    """

    ptr: Tensor
    number: int
    max_keys: int
    bits: Bits


def sample(model: EdgeModel, law: str, exploration: float, seed: int) -> Bits:
    """As :func:`sbmgraph.kernels.dense.reference.sample`, in float32."""
    if model.num_queries == 0 or model.num_keys == 0:
        return empty_bits(model.query_ptr, model.key_ptr, model.heads, 0)
    ptr, total, max_keys = model.layout()
    bits = empty_bits(model.query_ptr, model.key_ptr, model.heads, total, word_ptr=ptr, zero=False)
    fill(model, law, exploration, seed, Part(model.query_ptr, model.num_queries, max_keys, bits))
    return bits


def fill(
    model: EdgeModel,
    law: str,
    exploration: float,
    seed: int,
    part: Part,
    chosen: Tensor | None = None,
) -> None:
    """Writes the words of a part of the queries; with ``chosen``, uint8 of shape :obj:`[n * H]`,
    only those of query vertices where it is not 0."""
    factors = (*_split(model.rate), *_split(model.member))
    tiles = num_tiles(part.number, model.num_graphs, QUERIES)
    bits = part.bits
    launch(
        _dense_kernel, (tiles, model.heads, triton.cdiv(part.max_keys, SPAN)), bits.words,
        *factors, chosen, bits.words, model.query_ptr, part.ptr, model.key_ptr, bits.word_ptr,
        model.num_graphs, model.num_queries, model.num_keys, model.heads, float(exploration), seed,
        K=model.num_clusters, WIDTH=min(pad(model.num_clusters), DEPTH), QUERIES=QUERIES, KEYS=KEYS,
        SPAN=SPAN, POISSON=law == "poisson", PURPOSE=DENSE,
        num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip


def _split(factor: Tensor) -> tuple[Tensor, Tensor]:
    """A factor [nodes, H, K] as the sum of two bfloat16 tensors [H, nodes, K]."""
    factor = factor.detach().transpose(0, 1).float().contiguous()
    high = factor.bfloat16()
    return high, (factor - high).bfloat16()
