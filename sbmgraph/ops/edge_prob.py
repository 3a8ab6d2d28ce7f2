r"""Edge probabilities on a graph's edges, and the gate that carries the straight-through gradient.

Both are functions of the rate :math:`\mathbf{W} = \mathbf{Y}\mathbf{B}` and the key membership
:math:`\mathbf{Z}` with :math:`p_{ij} = \mathbf{w}_i \cdot \mathbf{z}_j`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sbmgraph.checks import describe
from sbmgraph.graph import SampledGraph
from sbmgraph.kernels.attention.operator import needs_csc
from sbmgraph.kernels.csr import CSC, CSR
from sbmgraph.kernels.edge_dot import operator, reference
from sbmgraph.kernels.options import Factors
from sbmgraph.sbm import SBM


def edge_prob(sbm: SBM, graph: SampledGraph) -> Tensor:
    r"""The probability :math:`\min(1, p_{ij})` of every edge of ``graph``, differentiable.

    Args:
        sbm (SBM): The model.
        graph (SampledGraph): The edges, over the model's nodes.

    Returns:
        Tensor of shape :obj:`[E]`, in the order of :obj:`graph.edge_index`.

    Raises:
        ValueError: If ``graph`` has other nodes or heads than the model.
    """
    if not isinstance(sbm, SBM):
        raise ValueError(f"'sbm' must be an SBM, got {describe(sbm)}")
    if not isinstance(graph, SampledGraph):
        raise ValueError(f"'graph' must be a SampledGraph, got {describe(graph)}")
    sbm.nodes.check_same("graph", graph.nodes)
    return edge_dot(sbm.rate, sbm.key_membership, graph).clamp(max=1)


def edge_dot(left: Tensor, right: Tensor, graph: SampledGraph) -> Tensor:
    """The inner product of each edge's query row of ``left`` [n, H, K] and key row of ``right``
    [m, H, K], of shape :obj:`[E]`; differentiable."""
    if not operator.is_available(left.device.type):
        return _EdgeDot.apply(left, right, graph, True)
    by_key = torch.is_grad_enabled() and right.requires_grad
    csc = graph.csc() if by_key and needs_csc(left.device.type) else None
    return operator.edge_dot(Factors(left, right), graph.csr, csc)


def edge_gate(rate: Tensor, member: Tensor, graph: SampledGraph) -> Tensor:
    """Ones of shape :obj:`[E]` with the gradient of :func:`edge_dot`: the value of the sampled mask
    and, by the straight-through estimator, the derivative of its probability."""
    return _EdgeDot.apply(rate, member, graph, False)


class _EdgeDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rate: Tensor, member: Tensor, graph: SampledGraph, value: bool) -> Tensor:
        ctx.edges = graph.csr, graph.csc() if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(rate, member)
        if value:
            return reference.forward(Factors(rate, member), graph.csr)
        return rate.new_ones(graph.num_edges)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        edges: tuple[CSR, CSC | None] = ctx.edges
        factors = Factors(*ctx.saved_tensors)
        grads = reference.backward(grad, factors, *edges, ctx.needs_input_grad[:2])
        return (*grads, None, None)
