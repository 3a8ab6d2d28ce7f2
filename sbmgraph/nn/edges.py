"""The edges that a layer is given, and their union with the edges that it samples.

PyG hands edges to a layer as ``edge_index``, :class:`~torch_geometric.EdgeIndex`, a
:class:`torch_sparse.SparseTensor` or a sparse torch tensor; here they all become one
:class:`GivenEdges`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.typing import Adj, PairTensor
from torch_geometric.utils import is_sparse, to_edge_index

from sbmgraph.checks import check_floating, check_tensor, describe
from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM


class GivenEdges(NamedTuple):
    """The distinct edges of a layer's input.

    Attributes:
        graph: The edges as a graph with one head.
        attr: Attributes of shape :obj:`[E, edge_dim]` in its order; duplicate edges are averaged.
    """

    graph: SampledGraph
    attr: Tensor | None


class Attended(NamedTuple):
    """What one group of heads attends over.

    Attributes:
        graph: All edges.
        sbm: The model that edges were sampled from, if any were.
        bias: Added to the scores, of shape :obj:`[E]`.
        sampled: Which edges were sampled, boolean of shape :obj:`[E]`; all if :obj:`None`, or none
            where :obj:`local`.
        local: Whether the heads attend over given edges alone.
    """

    graph: SampledGraph
    sbm: SBM | None = None
    bias: Tensor | None = None
    sampled: Tensor | None = None
    local: bool = False


def read_edges(
    edge_index: Adj,
    edge_attr: Tensor | None,
    edge_dim: int | None,
    size: tuple[int, int],
    device: torch.device,
    key_batch: Tensor | None = None,
    query_batch: Tensor | None = None,
) -> GivenEdges:
    """Checks the edges of a layer's input and brings them into one form.

    Args:
        edge_index: Source (key) and target (query) of every edge in any of PyG's forms; matrices
            are transposed adjacencies, targets by sources, and their values serve as attributes.
        edge_attr: Attributes of shape :obj:`[E, edge_dim]`, or :obj:`[E]` for one.
        edge_dim: The number of attributes that the layer reads, or :obj:`None` for none.
        size: The numbers of source and target nodes.
        device: Where the nodes lie.
        key_batch: Graph of each source node.
        query_batch: Graph of each target node.

    Raises:
        ValueError: If a form, shape or index is wrong, or an edge joins two graphs.
    """
    if edge_dim is None and edge_attr is not None:
        raise ValueError(
            f"'edge_attr' must be None as 'edge_dim' is None, got {describe(edge_attr)}"
        )
    if is_sparse(edge_index):
        edge_index, value = _from_matrix(edge_index, size)
        edge_attr = value if edge_attr is None and edge_dim is not None else edge_attr
    elif not isinstance(edge_index, Tensor):
        raise ValueError(
            "'edge_index' must be a tensor of shape [2, num_edges], an EdgeIndex, a SparseTensor "
            f"or a sparse matrix, got {describe(edge_index)}"
        )
    index = edge_index.as_subclass(Tensor)
    if index.device != device:
        raise ValueError(f"'edge_index' must be on {device} like the nodes, got {index.device}")
    graph = SampledGraph.from_edge_index(
        index, num_queries=size[1], num_keys=size[0], query_batch=query_batch, key_batch=key_batch
    )
    if edge_attr is None or edge_dim is None:
        return GivenEdges(graph, None)
    attr = _check_attr(edge_attr, edge_dim, index)
    position = torch.searchsorted(_pairs(graph.edge_index, size[0]), _pairs(index, size[0]))
    total = attr.new_zeros(graph.num_edges, edge_dim).index_add(0, position, attr)
    count = torch.bincount(position, minlength=graph.num_edges).unsqueeze(1)
    return GivenEdges(graph, total / count)


def attended_groups(
    sampled: SampledGraph,
    sbm: SBM | None,
    given: SampledGraph | None,
    bias: Tensor | None,
    local_heads: int,
) -> list[Attended]:
    """What each group of heads attends over: local heads, if any, over the given edges alone, the
    others over the sampled and the given ones.

    Args:
        sampled: The edges that the other heads sampled.
        sbm: The model that they sampled from.
        given: The given edges, of one head.
        bias: Bias of every given edge and head, of shape :obj:`[E, H]`.
        local_heads: The number of local heads; they come first.
    """
    if given is None:
        return [Attended(sampled, sbm)]
    groups = []
    if local_heads:
        graph = _repeat(given, local_heads)
        local_bias = None if bias is None else _spread(bias[:, :local_heads], given, graph)
        groups.append(Attended(graph, bias=local_bias, local=True))
    graph = _repeat(given, sampled.heads)
    merged, in_sampled, in_given = sampled.union(graph)
    merged_bias = None
    if bias is not None:
        spread = _spread(bias[:, local_heads:], given, graph)
        # A last entry of zero, which position -1 (an edge that was not given) reads.
        merged_bias = torch.cat([spread, spread.new_zeros(1)])[in_given]
    return [*groups, Attended(merged, sbm, merged_bias, in_sampled >= 0)]


def merge_heads(graphs: list[SampledGraph], weights: list[Tensor]) -> PairTensor:
    """The union of all heads' edges and each head's weight on them.

    Args:
        graphs: Graphs of consecutive groups of heads over the same nodes.
        weights: For each, the attention weight of every edge, of shape :obj:`[E]`.

    Returns:
        ``edge_index`` [2, U] of the distinct (key, query) pairs, sorted by query, and weights of
        shape :obj:`[U, H]`, 0 where a head has no such edge.
    """
    size = max(graphs[0].num_keys, 1)
    heads, pairs, start = [], [], 0
    for graph in graphs:
        key, query = graph.edge_index
        pairs.append(query * size + key)
        heads.append(graph.head + start)
        start += graph.heads
    pair, inverse = torch.unique(torch.cat(pairs), return_inverse=True)
    alpha = weights[0].new_zeros(pair.numel(), start)
    alpha = alpha.index_put((inverse, torch.cat(heads)), torch.cat(weights))
    return torch.stack([pair % size, pair.div(size, rounding_mode="floor")]), alpha


def _from_matrix(adj: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    shape = tuple(adj.sizes()[:2]) if hasattr(adj, "sizes") else tuple(adj.shape[:2])
    if shape != (size[1], size[0]):
        raise ValueError(
            f"'edge_index' as a matrix must have shape {[size[1], size[0]]} (targets by sources), "
            f"got {list(shape)}"
        )
    index, value = to_edge_index(adj)
    return index.flip(0), value


def _check_attr(edge_attr: Any, edge_dim: int, index: Tensor) -> Tensor:
    shape = [index.size(1), edge_dim]
    if not isinstance(edge_attr, Tensor):
        raise ValueError(
            f"'edge_attr' must be a tensor of shape {shape}, got {describe(edge_attr)}"
        )
    check_tensor("edge_attr", edge_attr, edge_attr.dim(), str(shape))
    attr = edge_attr.unsqueeze(-1) if edge_attr.dim() == 1 else edge_attr
    if list(attr.shape) != shape or attr.device != index.device:
        raise ValueError(
            f"'edge_attr' must have shape {shape} on {index.device}, one row for each edge, "
            f"got {describe(edge_attr)}"
        )
    check_floating("edge_attr", attr)
    return attr


def _pairs(edge_index: Tensor, num_keys: int) -> Tensor:
    return edge_index[1].long() * num_keys + edge_index[0].long()


def _repeat(graph: SampledGraph, heads: int) -> SampledGraph:
    if heads == 1:
        return graph
    return SampledGraph.from_edge_index(
        graph.edge_index,
        graph.num_queries,
        graph.num_keys,
        heads,
        query_batch=graph.query_batch,
        key_batch=graph.key_batch,
    )


def _spread(bias: Tensor, given: SampledGraph, repeated: SampledGraph) -> Tensor:
    """Biases [E, heads] of the given edges in the order of the edges repeated for each head."""
    pairs = [_pairs(graph.edge_index, graph.num_keys) for graph in (given, repeated)]
    return bias[torch.searchsorted(*pairs), repeated.head]
