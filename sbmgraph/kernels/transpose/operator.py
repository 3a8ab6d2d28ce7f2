"""The transpose of a CSR as a torch operator, a kernel for each device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from sbmgraph.kernels.probe import Probe
from sbmgraph.kernels.transpose import reference


def transpose(
    rowptr: Tensor, col: Tensor, *, heads: int, num_keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Groups the edges of a CSR by key vertex.

    Args:
        rowptr: Row offsets by query vertex, int64 of shape :obj:`[n * H + 1]`.
        col: Key node of every edge, int32 of shape :obj:`[E]`.
        heads: The number of heads.
        num_keys: The number of key nodes.

    Returns:
        ``(colptr, row, perm)`` of :class:`~sbmgraph.kernels.csr.CSC`.
    """
    if PROBE.works(col.device.type):
        return _transpose(rowptr, col, heads=heads, num_keys=num_keys)
    return reference.transpose(rowptr, col, heads=heads, num_keys=num_keys)


@custom_op("sbmgraph::transpose", mutates_args=(), device_types="cpu")
def _transpose(
    rowptr: Tensor, col: Tensor, *, heads: int, num_keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    from sbmgraph.kernels.transpose import cpu

    return cpu.transpose(rowptr, col, heads=heads, num_keys=num_keys)


@_transpose.register_kernel("cuda")
def _(rowptr, col, *, heads, num_keys):
    from sbmgraph.kernels.transpose import gpu

    return gpu.transpose(rowptr, col, heads=heads, num_keys=num_keys)


@_transpose.register_fake
def _(rowptr, col, *, heads, num_keys):
    colptr = rowptr.new_empty(num_keys * heads + 1)
    return colptr, torch.empty_like(col), rowptr.new_empty(col.size(0))


def _attempt(device: torch.device) -> None:
    rowptr = torch.tensor([0, 1], dtype=torch.int64, device=device)
    _transpose(rowptr, torch.zeros(1, dtype=torch.int32, device=device), heads=1, num_keys=1)


PROBE = Probe("transpose", _attempt)
