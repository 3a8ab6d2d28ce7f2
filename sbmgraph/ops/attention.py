"""The public :func:`edge_attention`: checks, the straight-through gate, the choice of backend."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from sbmgraph.checks import (
    check_choice,
    check_flag,
    check_floating,
    check_range,
    check_same,
    check_tensor,
    describe,
)
from sbmgraph.graph import SampledGraph
from sbmgraph.kernels.attention import operator, reference
from sbmgraph.kernels.options import Factors, Options
from sbmgraph.kernels.tile import operator as tile
from sbmgraph.ops.edge_prob import edge_dot, edge_gate
from sbmgraph.sbm import SBM

BACKENDS = ("auto", "reference", "fused", "tile", "pyg")
"""``"pyg"`` is an older name of ``"reference"``."""

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
    sampled: Tensor | None = None,
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
        backend (str, optional): :obj:`"reference"` is PyG message passing; :obj:`"fused"` one pass
            over the listed edges without any :obj:`[E, d]` tensor; :obj:`"tile"` dense tiles that
            read the graph's bits, without ``bias`` and ``sampled``; :obj:`"auto"` follows the
            graph's layout, tiles for bits and the fused pass for lists, and takes the reference
            where a device has no kernels. (default: :obj:`"auto"`)
        return_weights (bool, optional): Whether to return the weights too. The weights of
            :obj:`"fused"` and :obj:`"tile"` carry no gradient; :obj:`"auto"` takes
            :obj:`"reference"` where gradients are on.
        bias (Tensor, optional): Added to the scores, of shape :obj:`[E]` in the order of
            :obj:`graph.edge_index`; minus infinity takes an edge away. (default: :obj:`None`)
        sampled (Tensor, optional): Which edges were sampled from ``sbm``, boolean of shape
            :obj:`[E]`; the others pass it no gradient. (default: all)

    Returns:
        Tensor of shape :obj:`[n, H, dv]` in the dtype of ``query``, and with ``return_weights``
        also the softmax's weights (before dropout) of shape :obj:`[E]`.

    Examples:
        Over the complete graph it is full attention:

        >>> import torch
        >>> from torch.nn.functional import scaled_dot_product_attention
        >>> from sbmgraph import SampledGraph
        >>> from sbmgraph.ops import edge_attention
        >>> q, k, v = torch.randn(3, 5, 2, 8)  # 5 tokens, 2 heads, 8 channels
        >>> pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5)).t()
        >>> graph = SampledGraph.from_edge_index(pairs, num_queries=5, num_keys=5, heads=2)
        >>> out = edge_attention(q, k, v, graph)
        >>> full = scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q, k, v)))
        >>> torch.allclose(out, full.transpose(0, 1), atol=1e-6)
        True

    Raises:
        ValueError: If shapes, dtypes or devices do not fit together, a choice is unknown, or a
            backend asked for by name does not work here.
    """
    check_choice("backend", backend, BACKENDS)
    check_choice("estimator", estimator, ESTIMATORS)
    check_range("dropout", dropout, 0.0, 1.0, high_open=True)
    check_flag("training", training)
    if learned is not None:
        warnings.warn(
            "the argument 'learned' is now called 'sampled'; the old name goes in the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        sampled = learned
    _check_inputs(query, key, value, graph, sbm, bias, sampled)
    if scale is None:
        scale = max(query.size(-1), 1) ** -0.5
    elif not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(f"'scale' must be a finite number, got {scale!r}")
    active = dropout if training else 0.0
    seed = torch.zeros((), dtype=torch.int64, device="cpu")
    if active > 0:
        seed = torch.randint(2**63 - 1, (), device="cpu")
    edges = _Edges(graph, sbm, bias, sampled, estimator, float(scale), active, seed)
    chosen = _choose(backend, query, edges, return_weights)
    out, rest = _RUN[chosen](query, key, value, edges)
    if not return_weights:
        return out
    return out, rest if chosen == "reference" else _weights(query, key, rest, edges)


class _Edges(NamedTuple):
    """What a backend needs beside queries, keys and values."""

    graph: SampledGraph
    sbm: SBM | None
    bias: Tensor | None
    sampled: Tensor | None
    estimator: str
    scale: float
    dropout: float
    seed: Tensor

    def factors(self) -> Factors | None:
        if self.sbm is None or not torch.is_grad_enabled():
            return None
        return Factors(self.sbm.rate, self.sbm.key_membership)

    def options(self, seed: int = 0) -> Options:
        return Options(self.scale, self.dropout, seed, self.estimator)


def _choose(backend: str, query: Tensor, edges: _Edges, return_weights: bool) -> str:
    """The backend that runs."""
    device = query.device.type
    per_edge = edges.bias is not None or edges.sampled is not None
    if backend == "tile":
        if per_edge:
            raise ValueError(
                "'backend' must be 'reference' or 'fused' with 'bias' or 'sampled', which list the "
                "edges, got 'tile'"
            )
        tile.PROBE.require("backend", backend, device)
    elif backend == "fused":
        operator.PROBE.require("backend", backend, device)
    if backend == "pyg":
        return "reference"
    if backend != "auto":
        return backend
    if return_weights and torch.is_grad_enabled():
        return "reference"
    tiles = edges.graph.layout == "bits" and not per_edge and query.dtype != torch.float64
    if tiles and tile.is_available(device):
        return "tile"
    return "fused" if operator.is_available(device) else "reference"


def _attend_reference(
    query: Tensor, key: Tensor, value: Tensor, edges: _Edges
) -> tuple[Tensor, Tensor]:
    """Output and weights."""
    graph, factors = edges.graph, edges.factors()
    gate = None
    if factors is not None:
        gate = edge_gate(*factors, graph)
        if edges.sampled is not None:
            gate = torch.where(edges.sampled, gate, gate.detach())
    out, weights = reference.forward(
        query.flatten(0, 1),
        key.flatten(0, 1),
        value.flatten(0, 1),
        graph.csr,
        edges.bias,
        edges.options(int(edges.seed) if edges.dropout > 0 else 0),
        gate,
    )
    return out.view(query.size(0), query.size(1), value.size(2)), weights


def _attend_fused(
    query: Tensor, key: Tensor, value: Tensor, edges: _Edges
) -> tuple[Tensor, Tensor]:
    """Output and the log-sum-exp of every query vertex."""
    graph, factors = edges.graph, edges.factors()
    by_key = any(
        x is not None and x.requires_grad
        for x in (key, value, None if factors is None else factors.member)
    )
    csc = None
    if torch.is_grad_enabled() and by_key and operator.needs_csc(query.device.type):
        csc = graph.csc()
    out, lse = operator.attention(
        query.flatten(0, 1),
        key.flatten(0, 1),
        value.flatten(0, 1),
        graph.csr,
        csc,
        edges.bias,
        factors,
        edges.sampled,
        edges.options(),
        edges.seed,
    )
    return out.view(query.size(0), query.size(1), value.size(2)), lse


def _attend_tile(query: Tensor, key: Tensor, value: Tensor, edges: _Edges) -> tuple[Tensor, Tensor]:
    """Output and the log-sum-exp of every query vertex."""
    out, lse = tile.attention(
        query, key, value, edges.factors(), edges.graph.bits, edges.options(), edges.seed
    )
    return out, lse.flatten()


_RUN = {"reference": _attend_reference, "fused": _attend_fused, "tile": _attend_tile}


@torch.no_grad()
def _weights(query: Tensor, key: Tensor, lse: Tensor, edges: _Edges) -> Tensor:
    """The softmax's weights from its log-sum-exp."""
    score = edge_dot(query.to(lse.dtype) * edges.scale, key.to(lse.dtype), edges.graph)
    row_lse = lse[edges.graph.row]
    if edges.bias is not None:
        score = score + edges.bias
        row_lse = row_lse.masked_fill(row_lse == -torch.inf, 0.0)  # nothing but such biases
    return torch.exp(score - row_lse)


def _check_inputs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: SampledGraph,
    sbm: SBM | None,
    bias: Tensor | None,
    sampled: Tensor | None,
) -> None:
    if sbm is not None and not isinstance(sbm, SBM):
        raise ValueError(f"'sbm' must be an SBM, got {describe(sbm)}")
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
        bias=bias,
        sampled=sampled,
        sbm=None if sbm is None else sbm.affinity,
    )
    if graph.device != query.device:
        raise ValueError(f"'graph' must be on {query.device} like 'query', got {graph.device}")
    if sbm is not None:
        sbm.nodes.check_same("graph", graph.nodes)
    for name, per_edge in (("bias", bias), ("sampled", sampled)):
        if per_edge is not None and per_edge.shape != graph.col.shape:
            raise ValueError(
                f"'{name}' must hold one entry for each of {graph.num_edges} edges, "
                f"got {describe(per_edge)}"
            )
    if bias is not None:
        check_floating("bias", bias)
    if sampled is not None and sampled.dtype != torch.bool:
        raise ValueError(f"'sampled' must be boolean, got {describe(sampled)}")
