"""Dropout of tile attention on the GPU: the edges that stay, as bits like the edges themselves.

Drawn once a pass: Philox inside of a sweep over tiles would double the sweep's instructions.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.kernels._triton.launch import launch
from sbmgraph.kernels._triton.random import tile_bits, uniform
from sbmgraph.kernels._triton.tiles import find, load_words, num_tiles, pack, store_words
from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Options
from sbmgraph.kernels.random import DROPOUT

QUERIES, KEYS, WARPS = 64, 64, 4
"""Pairs of a tile, and the warps of its program."""


@triton.jit(do_not_specialize=["num_graphs", "seed"])
def _kept_kernel(
    words, kept, query_ptr, key_ptr, word_ptr,
    num_graphs, heads, dropout, seed: tl.int64,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PURPOSE: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    g, _, start, count = find(query_ptr, num_graphs, tile, QUERIES)
    if start >= count:
        return
    size = (tl.load(key_ptr + g + 1) - tl.load(key_ptr + g)).to(tl.int32)
    node = start + tl.arange(0, QUERIES)
    mine = node < count
    vertex = (node * heads + head).to(tl.int32)
    pitch = (size + 31) // 32
    row_words = tl.load(word_ptr + g) + (start * heads + head) * pitch
    for first in range(0, size, KEYS):
        number = tile_bits(seed, vertex, g.to(tl.int32), first, PURPOSE, KEYS)
        stays = pack(uniform(number) >= dropout)
        stays &= load_words(words + row_words, first, mine, heads * pitch, pitch, KEYS)
        store_words(kept + row_words, first, mine, heads * pitch, pitch, stays, KEYS)


def kept_words(bits: Bits, num_queries: int, options: Options) -> Tensor | None:
    """The words of ``bits`` without the edges that are dropped, int32 of shape :obj:`[W]`, or
    :obj:`None` where none is; those of ``options`` if it has them."""
    if options.dropout == 0 or options.kept is not None:
        return options.kept
    kept = torch.empty_like(bits.words)
    graphs = bits.query_ptr.numel() - 1
    launch(
        _kept_kernel, (num_tiles(num_queries, graphs, QUERIES), bits.heads), kept,
        bits.words, kept, bits.query_ptr, bits.key_ptr, bits.word_ptr, graphs, bits.heads,
        options.dropout, options.seed,
        QUERIES=QUERIES, KEYS=KEYS, PURPOSE=DROPOUT, num_warps=WARPS,
    )  # fmt: skip
    return kept
