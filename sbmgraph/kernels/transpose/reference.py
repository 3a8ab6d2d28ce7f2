"""The transpose of a CSR in torch operations: a stable sort by key vertex."""

from __future__ import annotations

import torch
from torch import Tensor


def transpose(
    rowptr: Tensor, col: Tensor, *, heads: int, num_keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`sbmgraph.kernels.transpose.operator.transpose`."""
    vertices = torch.arange(rowptr.numel() - 1, device=col.device)
    row = torch.repeat_interleave(vertices, rowptr.diff(), output_size=col.numel())
    column = col.long() * heads + row % heads
    if num_keys * heads < 2**31:
        column = column.int()
    column, perm = torch.sort(column, stable=True)
    boundaries = torch.arange(num_keys * heads + 1, device=col.device, dtype=column.dtype)
    colptr = torch.searchsorted(column, boundaries)
    return colptr, row[perm].div(heads, rounding_mode="floor").int(), perm
