"""Edge attention as PyG message passing: the reference backend, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

from sbmgraph.graph import SampledGraph


class EdgeAttention(MessagePassing):
    r"""Scaled dot-product attention of every query vertex over its sampled edges.

    A (node, head) pair is one vertex of the message passing, so heads need no dimension of their
    own. Softmax accumulates in at least float32.

    Shapes: query :obj:`[n * H, d]`, key :obj:`[m * H, d]`, value :obj:`[m * H, dv]`, gate and bias
    :obj:`[E]` → output :obj:`[n * H, dv]`.
    """

    def __init__(self, scale: float, estimator: str, dropout: float = 0.0) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.scale = scale
        self.estimator = estimator
        self.dropout = dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        edge_index: Tensor,
        gate: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the attention's output and the attention weights :obj:`[E]`."""
        size = (key.size(0), query.size(0))
        alpha = self.edge_updater(
            edge_index, size=size, query=(key, query), key=(key, query), gate=gate, bias=bias
        )
        dropped = torch.nn.functional.dropout(alpha, self.dropout)
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
        if bias is not None:
            score = score + bias.to(accumulate)
        if gate is not None and self.estimator == "logit":
            score = score * gate
        elif gate is not None:
            # At a gate of 1, gating the softmax's numerators has the derivative of adding the gate.
            score = score + _clip_gradient(gate) - 1
        return softmax(score, index, num_nodes=size_i)

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


def edge_attention_pyg(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: SampledGraph,
    gate: Tensor | None,
    bias: Tensor | None,
    estimator: str,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """The ``"pyg"`` backend of :func:`~sbmgraph.ops.edge_attention`: output and weights."""
    attention = EdgeAttention(scale, estimator, dropout)
    out, alpha = attention(
        query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), graph.vertex_index, gate, bias
    )
    return out.view(query.size(0), query.size(1), value.size(2)).to(query.dtype), alpha
