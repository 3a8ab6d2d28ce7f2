"""The public :func:`edge_attention`: checks, the straight-through gate, the choice of backend."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sbmgraph.checks import (
    check_choice,
    check_floating,
    check_range,
    check_same,
    check_tensor,
    describe,
)
from sbmgraph.graph import SampledGraph
from sbmgraph.ops import fused
from sbmgraph.ops.edge_prob import edge_gate, edge_prob
from sbmgraph.ops.pyg import edge_attention_pyg
from sbmgraph.sbm import SBM

BACKENDS = ("auto", "pyg", "fused")
ESTIMATORS = ("logit", "mask")


def edge_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: SampledGraph,
    sbm: SBM | None = None,
    estimator: str = "logit",
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    backend: str = "auto",
    return_weights: bool = False,
    bias: Tensor | None = None,
    learned: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Attention of every query over its edges in ``graph``, each head on its own edges.

    .. math::
        \mathrm{out}_i = \sum_{j \in \mathcal{N}(i)} \mathrm{softmax}_j \left( \frac{\mathbf{q}_i
        \cdot \mathbf{k}_j}{\sqrt{d}} \right) \mathbf{v}_j

    A query without an edge gets zeros. With ``sbm``, gradients pass the sampling by a
    straight-through estimator: the edge probability takes the derivative of the sampled mask
    :math:`M_{ij} = 1`, and edges that were not sampled take none (Section 3.3 of Cho et al.,
    NeurIPS 2022). The sum is taken in at least float32.

    Args:
        query (Tensor): Queries of shape :obj:`[n, H, d]`.
        key (Tensor): Keys of shape :obj:`[m, H, d]`.
        value (Tensor): Values of shape :obj:`[m, H, dv]`.
        graph (SampledGraph): The edges.
        sbm (SBM, optional): The model that ``graph`` was sampled from; its memberships and
            affinity receive gradients. (default: :obj:`None`)
        estimator (str, optional): With :obj:`"logit"` (the paper's) the mask multiplies the score,
            :math:`\partial L / \partial p_{ij} = \partial L / \partial A_{ij} \cdot S_{ij}`; with
            :obj:`"mask"` (the authors' code) it multiplies the softmax, which leaves
            :math:`\partial L / \partial p_{ij} = \partial L / \partial A_{ij}`, clipped to
            :math:`[-1, 1]`. (default: :obj:`"logit"`)
        scale (float, optional): Factor of the scores. (default: :math:`1 / \sqrt{d}`)
        dropout (float, optional): Dropout probability of the attention weights while
            :obj:`training`. (default: :obj:`0.0`)
        training (bool, optional): Whether dropout is active. (default: :obj:`False`)
        backend (str, optional): :obj:`"pyg"` is PyG message passing, :obj:`"fused"` one pass over
            the edges without any :obj:`[E, d]` tensor, :obj:`"auto"` the fused one where the device
            has it. (default: :obj:`"auto"`)
        return_weights (bool, optional): Whether to return the weights too. The fused backend's
            weights carry no gradient; :obj:`"auto"` takes :obj:`"pyg"` where gradients are on.
        bias (Tensor, optional): Added to the scores, of shape :obj:`[E]` in the order of
            :obj:`graph.edge_index`. (default: :obj:`None`)
        learned (Tensor, optional): Which edges were sampled from ``sbm``, boolean of shape
            :obj:`[E]`; the others pass it no gradient. (default: all)

    Returns:
        Tensor of shape :obj:`[n, H, dv]` in the dtype of ``query``, and with ``return_weights``
        also the softmax's weights (before dropout) of shape :obj:`[E]`.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit together, or a choice is unknown.
    """
    check_choice("backend", backend, BACKENDS)
    check_choice("estimator", estimator, ESTIMATORS)
    check_range("dropout", dropout, 0.0, 1.0, high_open=True)
    _check_inputs(query, key, value, graph, sbm, bias, learned)
    if scale is None:
        scale = max(query.size(-1), 1) ** -0.5
    wants_weight_gradient = return_weights and backend == "auto" and torch.is_grad_enabled()
    active = dropout if training else 0.0
    edges = _Edges(graph, sbm, bias, learned, estimator, scale, active)
    if backend == "pyg" or wants_weight_gradient or not fused.is_available(query.device.type):
        out, weights = _edge_attention_pyg(query, key, value, edges)
        return (out, weights) if return_weights else out
    out, lse = _edge_attention_fused(query, key, value, edges)
    return (out, _weights(query, key, lse, edges)) if return_weights else out


class _Edges(NamedTuple):
    """What a backend needs beside queries, keys and values."""

    graph: SampledGraph
    sbm: SBM | None
    bias: Tensor | None
    learned: Tensor | None
    estimator: str
    scale: float
    dropout: float


def _edge_attention_pyg(
    query: Tensor, key: Tensor, value: Tensor, edges: _Edges
) -> tuple[Tensor, Tensor]:
    """The ``"pyg"`` backend: output and weights."""
    graph, sbm, bias, learned, estimator, scale, dropout = edges
    gate = None
    if sbm is not None and torch.is_grad_enabled():
        gate = edge_gate(sbm.rate, sbm.key_membership, graph)
        if learned is not None:
            gate = torch.where(learned, gate, gate.detach())
    return edge_attention_pyg(query, key, value, graph, gate, bias, estimator, scale, dropout)


def _edge_attention_fused(
    query: Tensor, key: Tensor, value: Tensor, edges: _Edges
) -> tuple[Tensor, Tensor]:
    """The ``"fused"`` backend: output and the log-sum-exp of every query vertex."""
    graph, sbm, bias, learned, estimator, scale, dropout = edges
    grad = torch.is_grad_enabled()
    rate = member = None
    if sbm is not None and grad:
        rate, member = sbm.rate, sbm.key_membership
    by_key = any(x is not None and x.requires_grad for x in (key, value, member))
    csc: tuple[Tensor | None, ...] = (None, None, None)
    if grad and by_key and fused.needs_csc(query.device.type):
        csc = graph.csc()
    seed = torch.randint(2**63 - 1, ()) if dropout > 0 else torch.zeros((), dtype=torch.int64)
    out, lse = torch.ops.sbmgraph.edge_attention(
        query.flatten(0, 1),
        key.flatten(0, 1),
        value.flatten(0, 1),
        bias,
        rate,
        member,
        learned,
        graph.rowptr,
        graph.col,
        *csc,
        seed,
        graph.heads,
        scale,
        dropout,
        estimator,
    )
    return out.view(query.size(0), query.size(1), value.size(2)), lse


@torch.no_grad()
def _weights(query: Tensor, key: Tensor, lse: Tensor, edges: _Edges) -> Tensor:
    """The softmax's weights from its log-sum-exp."""
    score = edge_prob(query.to(lse.dtype) * edges.scale, key.to(lse.dtype), edges.graph)
    if edges.bias is not None:
        score = score + edges.bias
    return torch.exp(score - lse[edges.graph.row])


def _check_inputs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: SampledGraph,
    sbm: SBM | None,
    bias: Tensor | None,
    learned: Tensor | None,
) -> None:
    if not isinstance(graph, SampledGraph):
        raise ValueError(f"'graph' must be a SampledGraph, got {describe(graph)}")
    nodes = {
        "query": (query, graph.num_queries),
        "key": (key, graph.num_keys),
        "value": (value, graph.num_keys),
    }
    for name, (tensor, size) in nodes.items():
        check_tensor(name, tensor, 3, f"[{size}, {graph.heads}, channels]")
        check_floating(name, tensor)
        if tensor.shape[:2] != (size, graph.heads):
            raise ValueError(
                f"'{name}' must have shape [{size}, {graph.heads}, channels] to fit "
                f"'graph', got {describe(tensor)}"
            )
    if query.size(2) != key.size(2):
        raise ValueError(
            f"'key' must have as many channels as 'query', {query.size(2)}, got {key.size(2)}"
        )
    check_same("dtype", query=query, key=key, value=value)
    check_same(
        "device",
        query=query,
        key=key,
        value=value,
        graph=graph.col,
        bias=bias,
        learned=learned,
        sbm=None if sbm is None else sbm.affinity,
    )
    if sbm is not None:
        sbm.check_graph(graph)
    for name, per_edge in (("bias", bias), ("learned", learned)):
        if per_edge is not None and per_edge.shape != graph.col.shape:
            raise ValueError(
                f"'{name}' must hold one entry for each of {graph.num_edges} edges, "
                f"got {describe(per_edge)}"
            )
    if bias is not None:
        check_floating("bias", bias)
    if learned is not None and learned.dtype != torch.bool:
        raise ValueError(f"'learned' must be boolean, got {describe(learned)}")
