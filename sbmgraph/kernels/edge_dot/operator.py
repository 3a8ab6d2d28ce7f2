"""Inner products on edges as a torch operator: schema, shapes and gradients, a kernel for each
device. First derivatives only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from sbmgraph.kernels.csr import CSC, CSR
from sbmgraph.kernels.gradients import filled, register_gradient
from sbmgraph.kernels.layout import head_by_head
from sbmgraph.kernels.options import Factors
from sbmgraph.kernels.probe import Probe


def edge_dot(factors: Factors, csr: CSR, csc: CSC | None) -> Tensor:
    r""":math:`\mathbf{w}_i \cdot \mathbf{z}_j` of every edge, of shape :obj:`[E]`.

    Args:
        factors: :math:`\mathbf{W}` and :math:`\mathbf{Z}`.
        csr: The edges.
        csc: Their transpose, for the gradient of :math:`\mathbf{Z}` on devices whose kernels use
        it.
    """
    transposed = (None, None, None) if csc is None else csc
    return _forward(*factors, *csr[:4], *transposed, heads=csr.heads)


@custom_op("sbmgraph::edge_dot", mutates_args=(), device_types="cpu")
def _forward(
    rate: Tensor,
    member: Tensor,
    rowptr: Tensor,
    col: Tensor,
    query_ptr: Tensor,
    key_ptr: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    *,
    heads: int,
) -> Tensor:
    from sbmgraph.kernels.edge_dot import cpu

    return cpu.forward(Factors(rate, member), CSR(rowptr, col, query_ptr, key_ptr, heads))


@_forward.register_kernel("cuda")
def _(rate, member, rowptr, col, query_ptr, key_ptr, *csc: Any, heads: int) -> Tensor:
    from sbmgraph.kernels.edge_dot import gpu

    return gpu.forward(Factors(rate, member), CSR(rowptr, col, query_ptr, key_ptr, heads))


@_forward.register_fake
def _(rate, member, rowptr, col, *others: Any, heads: int) -> Tensor:
    return rate.new_empty(col.size(0))


@custom_op("sbmgraph::edge_dot_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor,
    rate: Tensor,
    member: Tensor,
    rowptr: Tensor,
    col: Tensor,
    query_ptr: Tensor,
    key_ptr: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    *,
    heads: int,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of rate and member; empty where ``needs`` says not needed."""
    from sbmgraph.kernels.edge_dot import cpu

    csr = CSR(rowptr, col, query_ptr, key_ptr, heads)
    return filled(cpu.backward(grad, Factors(rate, member), csr, None, tuple(needs)), rate)


@_backward.register_kernel("cuda")
def _(
    grad, rate, member, rowptr, col, query_ptr, key_ptr, *csc: Any, heads: int,
    needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    from sbmgraph.kernels.edge_dot import gpu

    csr = CSR(rowptr, col, query_ptr, key_ptr, heads)
    transposed = None if csc[0] is None else CSC(*csc)
    grads = gpu.backward(grad.contiguous(), Factors(rate, member), csr, transposed, tuple(needs))
    return filled(grads, rate)


@_backward.register_fake
def _(grad, rate, member, *others: Any, heads: int, needs: Sequence[bool]) -> list[Tensor]:
    return [
        head_by_head(like) if need else rate.new_empty(0)
        for like, need in zip((rate, member), needs, strict=True)
    ]


register_gradient(
    _forward,
    _backward,
    2,
    "the compiled edge probabilities have no second derivative",
    saves_results=False,
)


def _attempt(device: torch.device) -> None:
    one = torch.ones(1, 1, 1, dtype=torch.float32, device=device)
    ptr = torch.tensor([0, 1], dtype=torch.int64, device=device)
    col = torch.zeros(1, dtype=torch.int32, device=device)
    edge_dot(Factors(one, one), CSR(ptr, col, ptr, ptr, 1), None)


PROBE = Probe("edge probability", _attempt)


@torch.compiler.assume_constant_result
def is_available(device_type: str) -> bool:
    """Whether the compiled kernels run on a device type; if not, warns once and says why."""
    return PROBE.works(device_type)
