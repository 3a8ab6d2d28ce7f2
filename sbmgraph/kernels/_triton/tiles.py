"""What kernels over tiles of (query, key) pairs share: rows, products, and bits of a tile.

A tile belongs to one graph and one head. Its pairs lie [queries, keys] in every pass, so that a
row's words, log-sum-exp and sums are a few registers of a thread.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _probe():
    pass


INTERPRETED = tl.constexpr(not isinstance(_probe, triton.JITFunction))
"""Whether Triton's interpreter runs the kernels: it has no inline instructions, and multiplies
bfloat16 as if the bits were integers."""


@triton.jit
def load_rows(first, inside, pitch, width: tl.constexpr, WIDTH: tl.constexpr):
    """Rows that lie ``pitch`` apart from the pointer ``first`` on, zeros where not ``inside`` and
    past ``width`` channels; offsets in the tile are 32-bit."""
    row, channel = tl.arange(0, inside.shape[0]), tl.arange(0, WIDTH)
    mask = inside[:, None]
    if width < WIDTH:
        mask = mask & (channel < width)[None, :]
    return tl.load(first + (row * pitch)[:, None] + channel[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(first, inside, pitch, width: tl.constexpr, value, WIDTH: tl.constexpr):
    """The counterpart of :func:`load_rows`."""
    row, channel = tl.arange(0, inside.shape[0]), tl.arange(0, WIDTH)
    mask = inside[:, None]
    if width < WIDTH:
        mask = mask & (channel < width)[None, :]
    tl.store(first + (row * pitch)[:, None] + channel[None, :], value, mask=mask)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """``acc + a @ b`` in float32."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def load_words(words, first, mine, pitch, count, KEYS: tl.constexpr):
    """Words of the keys from ``first`` on of every row, [queries, KEYS // 32]: the pointer is to
    the first row's, rows lie ``pitch`` words apart and own ``count`` each."""
    row, word = tl.arange(0, mine.shape[0]), first // 32 + tl.arange(0, KEYS // 32)
    place = (row.to(tl.int64) * pitch)[:, None] + word[None, :]
    return tl.load(words + place, mask=mine[:, None] & (word < count)[None, :], other=0)


@triton.jit
def store_words(words, first, mine, pitch, count, value, KEYS: tl.constexpr):
    """The counterpart of :func:`load_words`."""
    row, word = tl.arange(0, mine.shape[0]), first // 32 + tl.arange(0, KEYS // 32)
    place = (row.to(tl.int64) * pitch)[:, None] + word[None, :]
    tl.store(words + place, value, mask=mine[:, None] & (word < count)[None, :])


@triton.jit
def pack(edge):
    """Booleans [queries, keys] as words [queries, keys // 32]."""
    bit = (tl.full((32,), 1, tl.int32) << tl.arange(0, 32))[None, None, :]
    three = edge.reshape(edge.shape[0], edge.shape[1] // 32, 32)
    return tl.sum(tl.where(three, bit, 0), 2)


@triton.jit
def select(x, words, OFF: tl.constexpr):
    """``x`` [queries, keys] where its bit is set, elsewhere ``OFF``: 0 or -inf.

    Two instructions a pair. Of :func:`tl.where` LLVM makes predicates that it packs and unpacks, at
    up to twice the instructions of a whole pass.
    """
    queries: tl.constexpr = x.shape[0]
    keys: tl.constexpr = x.shape[1]
    bit = (tl.full((32,), 1, tl.int32) << tl.arange(0, 32))[None, None, :]
    three = x.reshape(queries, keys // 32, 32)
    if INTERPRETED:
        three = tl.where((words[:, :, None] & bit) != 0, three, OFF)
    else:
        word = tl.broadcast_to(words[:, :, None], (queries, keys // 32, 32))
        bit = tl.broadcast_to(bit, (queries, keys // 32, 32))
        if OFF == 0:
            three = tl.inline_asm_elementwise(
                "{.reg .pred p; .reg .b32 t; and.b32 t, $2, $3; setp.ne.u32 p, t, 0;"
                " selp.f32 $0, $1, 0f00000000, p;}",
                "=f,f,r,r", [three, word, bit], dtype=tl.float32, is_pure=True, pack=1,
            )  # fmt: skip
        else:
            three = tl.inline_asm_elementwise(
                "{.reg .pred p; .reg .b32 t; and.b32 t, $2, $3; setp.ne.u32 p, t, 0;"
                " selp.f32 $0, $1, 0fFF800000, p;}",
                "=f,f,r,r", [three, word, bit], dtype=tl.float32, is_pure=True, pack=1,
            )  # fmt: skip
    return three.reshape(queries, keys)


@triton.jit
def find(node_ptr, num_graphs, tile, BLOCK: tl.constexpr):
    """Where a tile of ``BLOCK`` nodes lies: its graph, the graph's first node, the tile's first
    node counted from there, and the number of nodes of the graph: at most ``start`` where there is
    no such tile.

    Graph ``g`` owns the numbers from ``node_ptr[g] // BLOCK + g`` on, counted from the first node:
    as many as it has tiles, or one more. So nothing has to be counted beforehand.
    """
    base = tl.load(node_ptr)
    low = tile * 0
    high = low + num_graphs
    while high - low > 1:
        middle = (low + high) // 2
        if (tl.load(node_ptr + middle) - base) // BLOCK + middle <= tile:
            low = middle
        else:
            high = middle
    first = tl.load(node_ptr + low)
    start = (tile - low - (first - base) // BLOCK) * BLOCK
    return low, first, start, tl.load(node_ptr + low + 1) - first


def num_tiles(num_nodes: int, num_graphs: int, block: int) -> int:
    """How many numbers tiles of ``block`` nodes have, see :func:`find`."""
    return num_nodes // block + num_graphs
