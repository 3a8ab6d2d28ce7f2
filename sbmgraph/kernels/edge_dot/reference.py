"""Inner products on edges and their two gradients in torch operations, on any device."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from sbmgraph.kernels.csr import CSC, CSR
from sbmgraph.kernels.options import Factors
from sbmgraph.kernels.transpose.reference import transpose

CHUNK = 2**22
"""Gathered numbers that exist at once."""


def forward(factors: Factors, csr: CSR) -> Tensor:
    """See :func:`sbmgraph.kernels.edge_dot.operator.edge_dot`."""
    rate, member = (x.flatten(0, 1) for x in factors)
    key, query = csr.vertex_index
    step = max(CHUNK // max(rate.size(-1), 1), 1)
    parts = [
        (rate[i] * member[j]).sum(-1)
        for i, j in zip(query.split(step), key.split(step), strict=True)
    ]
    return torch.cat(parts) if parts else rate.new_empty(0)


def backward(
    grad: Tensor, factors: Factors, csr: CSR, csc: CSC | None, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """See :func:`sbmgraph.kernels.edge_dot.operator.edge_dot_backward`."""
    rate, member = factors
    grad_rate = grad_member = None
    if needs[0]:
        product = _spmm(csr.rowptr, csr.vertex_index[0], grad, member.flatten(0, 1))
        grad_rate = product.view_as(rate)
    if needs[1]:
        if csc is None:
            csc = CSC(*transpose(csr.rowptr, csr.col, heads=csr.heads, num_keys=member.size(0)))
        vertex = csc.row.long() * csr.heads + (csr.row % csr.heads)[csc.perm]
        product = _spmm(csc.colptr, vertex, grad[csc.perm], rate.flatten(0, 1))
        grad_member = product.view_as(member)
    return grad_rate, grad_member


def _spmm(ptr: Tensor, index: Tensor, value: Tensor, dense: Tensor) -> Tensor:
    """The product of a CSR matrix with a dense one."""
    shape = (ptr.numel() - 1, dense.size(0))
    if value.numel() == 0:
        return dense.new_zeros(shape[0], dense.size(1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(
            ptr, index, value, shape, check_invariants=False, device=value.device
        )
    return matrix @ dense
