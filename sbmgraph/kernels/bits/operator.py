"""Degrees of bits, and the way between bits and lists of edges, as torch operators."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op, get_ctx

from sbmgraph.kernels.bits import reference
from sbmgraph.kernels.bits.layout import Bits, empty_bits, num_rows


def degrees(bits: Bits, *, rows: int | None = None) -> Tensor:
    """The number of edges of each query vertex, by counting bits.

    Args:
        bits (Bits): The graphs.
        rows (int, optional): The number of query vertices, where the caller knows it: without it
            the host waits for the device.

    Returns:
        int64 of shape :obj:`[n * H]`.
    """
    return _degrees(*bits[:4], heads=bits.heads, rows=num_rows(bits) if rows is None else rows)


def bits_to_csr(bits: Bits, *, rows: int | None = None) -> tuple[Tensor, Tensor]:
    """The edges as a list, grouped by query vertex.

    Args:
        bits (Bits): The graphs.
        rows (int, optional): The number of query vertices, where the caller knows it.

    Returns:
        ``rowptr`` int64 of shape :obj:`[n * H + 1]`, and ``col`` int32 of shape :obj:`[E]`: the key
        node of each edge, over all graphs, ascending in each row.
    """
    return _to_csr(*bits[:4], heads=bits.heads, rows=num_rows(bits) if rows is None else rows)


def csr_to_bits(
    rowptr: Tensor,
    col: Tensor,
    query_ptr: Tensor,
    key_ptr: Tensor,
    *,
    heads: int,
    total: int | None = None,
) -> Bits:
    """The bits of listed edges, each of which joins a query and a key of one graph.

    Args:
        rowptr (Tensor): Where the edges of each query vertex start, int64 :obj:`[n * H + 1]`.
        col (Tensor): The key node of each edge, int32 of shape :obj:`[E]`, no edge twice.
        query_ptr (Tensor): Where the queries of each graph start, int64 of shape :obj:`[G + 1]`.
        key_ptr (Tensor): Likewise for keys.
        heads (int): The number of heads.
        total (int, optional): The number of words, where the caller knows it.
    """
    empty = empty_bits(query_ptr, key_ptr, heads, total)
    return empty._replace(words=_from_csr(rowptr, col, *empty[:4], heads=heads))


# Operators ########################################################################################


def _bits(layout: tuple[Tensor, ...], heads: int) -> Bits:
    words, word_ptr, query_ptr, key_ptr = layout
    return Bits(words, word_ptr, query_ptr, key_ptr, heads)


@custom_op("sbmgraph::bits_degrees", mutates_args=())
def _degrees(
    words: Tensor, word_ptr: Tensor, query_ptr: Tensor, key_ptr: Tensor, *, heads: int, rows: int
) -> Tensor:
    return reference.degrees(Bits(words, word_ptr, query_ptr, key_ptr, heads), rows=rows)


@_degrees.register_fake
def _(words, word_ptr, *ptrs: Tensor, heads: int, rows: int) -> Tensor:
    return word_ptr.new_empty(rows)


@custom_op("sbmgraph::bits_to_csr", mutates_args=())
def _to_csr(
    words: Tensor, word_ptr: Tensor, query_ptr: Tensor, key_ptr: Tensor, *, heads: int, rows: int
) -> tuple[Tensor, Tensor]:
    return reference.to_csr(Bits(words, word_ptr, query_ptr, key_ptr, heads), rows=rows)


@_to_csr.register_fake
def _(words, word_ptr, *ptrs: Tensor, heads: int, rows: int) -> tuple[Tensor, Tensor]:
    return word_ptr.new_empty(rows + 1), words.new_empty(get_ctx().new_dynamic_size())


@custom_op("sbmgraph::csr_to_bits", mutates_args=())
def _from_csr(
    rowptr: Tensor,
    col: Tensor,
    words: Tensor,
    word_ptr: Tensor,
    query_ptr: Tensor,
    key_ptr: Tensor,
    *,
    heads: int,
) -> Tensor:
    empty = Bits(words, word_ptr, query_ptr, key_ptr, heads)
    return reference.from_csr(rowptr, col, empty)


@_from_csr.register_fake
def _(rowptr, col, words, *layout: Tensor, heads: int) -> Tensor:
    return torch.empty_like(words)


@_degrees.register_kernel("cpu")
def _(*layout: Tensor, heads: int, rows: int) -> Tensor:
    from sbmgraph.kernels.bits import cpu

    return cpu.degrees(_bits(layout, heads), rows=rows)


@_to_csr.register_kernel("cpu")
def _(*layout: Tensor, heads: int, rows: int) -> tuple[Tensor, Tensor]:
    from sbmgraph.kernels.bits import cpu

    return cpu.to_csr(_bits(layout, heads), rows=rows)


@_from_csr.register_kernel("cpu")
def _(rowptr, col, *layout: Tensor, heads: int) -> Tensor:
    from sbmgraph.kernels.bits import cpu

    return cpu.from_csr(rowptr, col, _bits(layout, heads))


@_degrees.register_kernel("cuda")
def _(*layout: Tensor, heads: int, rows: int) -> Tensor:
    from sbmgraph.kernels.bits import gpu

    return gpu.degrees(_bits(layout, heads), rows=rows)


@_to_csr.register_kernel("cuda")
def _(*layout: Tensor, heads: int, rows: int) -> tuple[Tensor, Tensor]:
    from sbmgraph.kernels.bits import gpu

    return gpu.to_csr(_bits(layout, heads), rows=rows)


@_from_csr.register_kernel("cuda")
def _(rowptr, col, *layout: Tensor, heads: int) -> Tensor:
    from sbmgraph.kernels.bits import gpu

    return gpu.from_csr(rowptr, col, _bits(layout, heads))
