"""Heads of density 1: every query attends over all keys of its graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sbmgraph.graph import SampledGraph
from sbmgraph.nn.baselines.ragged import padding_unit, run_padded
from sbmgraph.nodes import count_graphs
from sbmgraph.sbm import SBM

PADDING = 64
"""Graphs whose sizes round up to the same multiple share a dense batch on the CPU."""


def dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_batch: Tensor | None,
    key_batch: Tensor | None,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """``scaled_dot_product_attention`` inside each graph of a ragged batch.

    Args:
        query: Queries of shape :obj:`[n, H, d]`.
        key: Keys of shape :obj:`[m, H, d]`.
        value: Values of shape :obj:`[m, H, dv]`.
        query_batch: Graph of each query, sorted.
        key_batch: Graph of each key, sorted.
        scale: Factor of the scores. (default: :math:`1 / \\sqrt{d}`)
        dropout: Dropout probability of the attention weights.

    Returns:
        Tensor of shape :obj:`[n, H, dv]`; zeros for queries of a graph without keys.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        keep = None if mask is None else mask[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, keep, dropout, scale=scale)
        return out.transpose(1, 2)

    def attend_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if k.size(0) == 0 or q.size(0) == 0:
            return v.new_zeros(q.size(0), q.size(1), v.size(2)) + q.sum() * 0 + v.sum() * 0
        return attend(q[None], k[None], v[None])[0]

    if query_batch is None or key_batch is None or query.size(0) == 0:
        return attend_one(query, key, value)
    if query_batch is key_batch:
        unit = padding_unit(query, PADDING)
        return run_padded(attend, (query, key, value), query_batch, unit)
    graphs = count_graphs(query_batch, key_batch)
    sizes = [torch.bincount(b, minlength=graphs).tolist() for b in (query_batch, key_batch)]
    parts = zip(query.split(sizes[0]), key.split(sizes[1]), value.split(sizes[1]), strict=True)
    return torch.cat([attend_one(*part) for part in parts])


def complete_graph(
    num_queries: int,
    num_keys: int,
    heads: int,
    query_batch: Tensor | None,
    key_batch: Tensor | None,
    device: torch.device,
    num_graphs: int | None = None,
) -> SampledGraph:
    """All edges inside each graph of a batch, for every head."""
    if query_batch is None or key_batch is None:
        start = torch.zeros(num_queries, dtype=torch.int64, device=device)
        degree = torch.full_like(start, num_keys)
    else:
        start = torch.searchsorted(key_batch, query_batch)
        degree = torch.searchsorted(key_batch, query_batch, right=True) - start
    degree, start = degree.repeat_interleave(heads), start.repeat_interleave(heads)
    rowptr = F.pad(degree.cumsum(0), (1, 0))
    col = torch.arange(int(rowptr[-1]), device=device)
    col = (col + (start - rowptr[:-1]).repeat_interleave(degree)).int()
    return SampledGraph.from_csr(rowptr, col, num_keys, heads, query_batch, key_batch, num_graphs)


def certain_sbm(graph: SampledGraph, dtype: torch.dtype) -> SBM:
    """The model whose every edge has probability 1: what dense heads are recorded with."""
    query, key, affinity = (
        torch.ones(shape, dtype=dtype, device=graph.device)
        for shape in (
            (graph.num_queries, graph.heads, 1),
            (graph.num_keys, graph.heads, 1),
            (graph.heads, 1, 1),
        )
    )
    return SBM.unchecked(query, key, affinity, graph.query_batch, graph.key_batch, graph.num_graphs)
