"""Edge attention as PyG message passing: the reference, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

from sbmgraph.kernels.csr import CSR
from sbmgraph.kernels.model import graph_of_nodes
from sbmgraph.kernels.options import Options
from sbmgraph.kernels.random import DROPOUT, edge_bits, uniform


class EdgeAttention(MessagePassing):
    r"""Scaled dot-product attention of every query vertex over its sampled edges.

    A (node, head) pair is one vertex of the message passing, so heads need no dimension of their
    own. Softmax accumulates in at least float32.

    Shapes: query :obj:`[n * H, d]`, key :obj:`[m * H, d]`, value :obj:`[m * H, dv]`; gate, bias and
    keep :obj:`[E]` → output :obj:`[n * H, dv]`.
    """

    def __init__(self, scale: float, estimator: str) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.scale = scale
        self.estimator = estimator

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        edge_index: Tensor,
        gate: Tensor | None = None,
        bias: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the attention's output and the attention weights :obj:`[E]`, before dropout by
        the factors ``keep``."""
        size = (key.size(0), query.size(0))
        alpha = self.edge_updater(
            edge_index, size=size, query=(key, query), key=(key, query), gate=gate, bias=bias
        )
        dropped = alpha if keep is None else alpha * keep
        return self.propagate(edge_index, size=size, value=(value, None), alpha=dropped), alpha

    def edge_update(  # type: ignore[override]
        self,
        query_i: Tensor,
        key_j: Tensor,
        gate: Tensor | None,
        bias: Tensor | None,
        index: Tensor,
        size_i: int,
    ) -> Tensor:
        accumulate = torch.promote_types(query_i.dtype, torch.float32)
        score = (query_i.to(accumulate) * key_j.to(accumulate)).sum(-1) * self.scale
        absent = None
        if bias is not None:
            # A bias of minus infinity takes the edge away: a finite score and a weight of 0 keep
            # 0 · infinity out of every gradient.
            absent = bias == -torch.inf
            score = score + bias.to(accumulate).masked_fill(absent, 0.0)
        if gate is not None and self.estimator == "logit":
            score = score * gate
        elif gate is not None:
            # At a gate of 1, gating the softmax's numerators has the derivative of adding the gate.
            score = score + _clip_gradient(gate) - 1
        if absent is None:
            return softmax(score, index, num_nodes=size_i)
        lowest = torch.finfo(score.dtype).min
        alpha = softmax(score.masked_fill(absent, lowest), index, num_nodes=size_i)
        return alpha.masked_fill(absent, 0.0)

    def message(self, value_j: Tensor, alpha: Tensor) -> Tensor:  # type: ignore[override]
        return value_j.to(alpha.dtype) * alpha.unsqueeze(-1)


class _ClipGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clamp(-1, 1)


def _clip_gradient(value: Tensor) -> Tensor:
    return _ClipGradient.apply(value)


def dropout_factors(csr: CSR, options: Options, dtype: torch.dtype) -> Tensor | None:
    """The dropout factor of every edge, :obj:`[E]`: 0, or ``1 / (1 - dropout)``; :obj:`None`
    without dropout."""
    if options.dropout == 0:
        return None
    row = csr.row
    graph = graph_of_nodes(csr.query_ptr, (csr.rowptr.numel() - 1) // csr.heads)[row // csr.heads]
    vertex = row - csr.query_ptr[graph] * csr.heads
    bits = edge_bits(options.seed, vertex, graph, csr.col - csr.key_ptr[graph], DROPOUT)
    return (uniform(bits) >= options.dropout).to(dtype) / (1 - options.dropout)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    csr: CSR,
    bias: Tensor | None,
    options: Options,
    gate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The output, of shape :obj:`[n * H, dv]`, and the weights :obj:`[E]`; differentiable, also by
    ``gate`` :obj:`[E]`, whose values are 1."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    keep = dropout_factors(csr, options, dtype)
    attention = EdgeAttention(options.scale, options.estimator)
    out, alpha = attention(query, key, value, csr.vertex_index, gate, bias, keep)
    return out.to(query.dtype), alpha
