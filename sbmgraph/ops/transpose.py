"""The transpose (CSC) of a sampled graph's CSR."""

from __future__ import annotations

import torch
from torch import Tensor

from sbmgraph.ops.fused import is_available


def transpose(
    rowptr: Tensor, col: Tensor, heads: int, num_keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Groups the edges of a CSR by key vertex.

    Args:
        rowptr: Row offsets by query vertex, int64 of shape :obj:`[n * H + 1]`.
        col: Key node of every edge, int32 of shape :obj:`[E]`.
        heads: The number of heads.
        num_keys: The number of key nodes.

    Returns:
        ``(colptr, row, perm)`` of :class:`~sbmgraph.graph.CSC`.
    """
    if is_available(col.device.type):
        return torch.ops.sbmgraph.transpose(rowptr, col, heads, num_keys)
    vertices = torch.arange(rowptr.numel() - 1, device=col.device)
    row = torch.repeat_interleave(vertices, rowptr.diff(), output_size=col.numel())
    column = col.long() * heads + row % heads
    column, perm = torch.sort(column, stable=True)
    colptr = torch.searchsorted(column, torch.arange(num_keys * heads + 1, device=col.device))
    return colptr, row[perm].div(heads, rounding_mode="floor").int(), perm
