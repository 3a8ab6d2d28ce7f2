r"""Edge probabilities on a graph's edges, and the gate that carries the straight-through gradient.

Both are functions of the rate :math:`\mathbf{W} = \mathbf{Y}\mathbf{B}` and the key membership
:math:`\mathbf{Z}` with :math:`p_{ij} = \mathbf{w}_i \cdot \mathbf{z}_j`; with :math:`\mathbf{G}`
the sparse matrix of :math:`\partial L / \partial p_{ij}` their gradients are two sparse products,

.. math::
    \partial L / \partial \mathbf{W} = \mathbf{G} \mathbf{Z}, \qquad
    \partial L / \partial \mathbf{Z} = \mathbf{G}^{\top} \mathbf{W} .
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from sbmgraph.graph import SampledGraph
from sbmgraph.ops.fused import is_available, needs_csc

CHUNK = 2**22


class _EdgeProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rate: Tensor, member: Tensor, graph: SampledGraph, value: bool) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(rate, member)
        if not value:
            return rate.new_ones(graph.num_edges)
        rate, member = rate.flatten(0, 1), member.flatten(0, 1)
        key, query = graph.vertex_index
        step = max(CHUNK // max(rate.size(-1), 1), 1)
        parts = [
            (rate[i] * member[j]).sum(-1)
            for i, j in zip(query.split(step), key.split(step), strict=True)
        ]
        return torch.cat(parts) if parts else rate.new_empty(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        rate, member = ctx.saved_tensors
        graph: SampledGraph = ctx.graph
        grad_rate = grad_member = None
        if ctx.needs_input_grad[0]:
            grad_rate = spmm(
                graph.rowptr, graph.vertex_index[0], grad, member.flatten(0, 1)
            ).view_as(rate)
        if ctx.needs_input_grad[1]:
            colptr, row, perm = graph.csc()
            head = graph.head[perm]
            vertex = row.long() * graph.heads + head
            grad_member = spmm(colptr, vertex, grad[perm], rate.flatten(0, 1)).view_as(member)
        return grad_rate, grad_member, None, None


def spmm(ptr: Tensor, index: Tensor, value: Tensor, dense: Tensor) -> Tensor:
    """The product of a CSR matrix with a dense one."""
    shape = (ptr.numel() - 1, dense.size(0))
    if value.numel() == 0:
        return dense.new_zeros(shape[0], dense.size(1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(ptr, index, value, shape, check_invariants=False)
    return matrix @ dense


def edge_prob(rate: Tensor, member: Tensor, graph: SampledGraph) -> Tensor:
    r""":math:`\mathbf{w}_i \cdot \mathbf{z}_j` of every edge of ``graph``.

    Args:
        rate: :math:`\mathbf{W}` of shape :obj:`[n, H, K]`.
        member: :math:`\mathbf{Z}` of shape :obj:`[m, H, K]`.
        graph: The edges.

    Returns:
        Tensor of shape :obj:`[E]`, differentiable in ``rate`` and ``member``.
    """
    if not is_available(rate.device.type):
        return _EdgeProb.apply(rate, member, graph, True)
    by_key = torch.is_grad_enabled() and member.requires_grad
    csc = graph.csc() if by_key and needs_csc(rate.device.type) else (None, None, None)
    return torch.ops.sbmgraph.edge_prob(rate, member, graph.rowptr, graph.col, *csc, graph.heads)


def edge_gate(rate: Tensor, member: Tensor, graph: SampledGraph) -> Tensor:
    """Ones of shape :obj:`[E]` with the gradient of :func:`edge_prob`: the value of the sampled
    mask and, by the straight-through estimator, the derivative of its probability; the gradient is
    that of torch's sparse products."""
    return _EdgeProb.apply(rate, member, graph, False)
