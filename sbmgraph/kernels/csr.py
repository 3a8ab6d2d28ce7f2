"""Edges as lists: by query vertex (CSR) and by key vertex (CSC).

A *vertex* is a (node, head) pair, numbered ``node * heads + head``, so that ``x.view(num_nodes *
heads, channels)`` lists the features of all vertices without a transpose; all heads of all graphs
of a batch are one disjoint union.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class CSR(NamedTuple):
    """Edges grouped by query vertex, ascending in key and distinct.

    Attributes:
        rowptr: Where the edges of each query vertex start, int64 of shape :obj:`[n * H + 1]`.
        col: Key node of every edge, int32 of shape :obj:`[E]`.
        query_ptr: Query node offsets of each graph, int64 of shape :obj:`[G + 1]`.
        key_ptr: Key node offsets of each graph, int64 of shape :obj:`[G + 1]`.
        heads: The number :math:`H` of heads.
    """

    rowptr: Tensor
    col: Tensor
    query_ptr: Tensor
    key_ptr: Tensor
    heads: int

    @property
    def row(self) -> Tensor:
        """Query vertex of every edge, int64 of shape :obj:`[E]`."""
        vertices = torch.arange(self.rowptr.numel() - 1, device=self.rowptr.device)
        return torch.repeat_interleave(vertices, self.rowptr.diff(), output_size=self.col.numel())

    @property
    def vertex_index(self) -> Tensor:
        """Key vertex (row 0) and query vertex (row 1) of every edge, int64 of shape
        :obj:`[2, E]`."""
        row = self.row
        return torch.stack([self.col.long() * self.heads + row % self.heads, row])


class CSC(NamedTuple):
    """The same edges grouped by key vertex.

    Attributes:
        colptr: Where the edges of each key vertex start, int64 of shape :obj:`[m * H + 1]`.
        row: Query node of every edge, int32 of shape :obj:`[E]`, ascending for each key vertex.
        perm: Position of every edge in the CSR order, int64 of shape :obj:`[E]`.
    """

    colptr: Tensor
    row: Tensor
    perm: Tensor


def from_sorted(edge: Tensor, num_rows: int, num_keys: int) -> tuple[Tensor, Tensor]:
    """``(rowptr, col)`` of edges given as ascending numbers ``row * num_keys + key``, int64 of
    shape :obj:`[E]`."""
    row = edge.div(max(num_keys, 1), rounding_mode="floor")
    rowptr = torch.searchsorted(row, torch.arange(num_rows + 1, device=edge.device))
    return rowptr, (edge - row * num_keys).int()
