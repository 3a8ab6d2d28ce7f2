"""Words of bits: how many are set, and where a query vertex has its own."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def popcount(word):
    """The number of bits set in an uint32."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def row_words(row, g, query_ptr, key_ptr, word_ptr, heads):
    """Of query vertices ``row`` of graphs ``g``: the first word, the number of words and the
    graph's first key."""
    low = tl.load(key_ptr + g)
    width = (tl.load(key_ptr + g + 1) - low + 31) // 32
    return tl.load(word_ptr + g) + (row - tl.load(query_ptr + g) * heads) * width, width, low
