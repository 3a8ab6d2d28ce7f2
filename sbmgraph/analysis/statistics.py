"""Sampled graphs as graphs: degrees, reciprocity, components, neighbourhoods, attention mass.

Names and definitions are networkx's; the work is done on SciPy's sparse matrices, so that a graph
of ten million edges takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.blocks import SIDES, assign_blocks
from sbmgraph.analysis.mass import assortativity, mixing_matrix
from sbmgraph.analysis.select import (
    as_weights,
    biadjacency_matrix,
    check_index,
    check_pair,
    check_sampled,
    check_square,
    edge_values,
    to_numpy,
)
from sbmgraph.checks import check_choice, check_flag
from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array


@accepts_old_names
def degrees(
    graph: SampledGraph, head: int | None = 0, graph_index: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """How many keys each query attends to [n] (its in-degree), and how many queries attend to each
    key [m] (its out-degree).

    Args:
        graph (SampledGraph): The sampled graphs.
        head (int, optional): The head; :obj:`None` is the union of all heads. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    return _degrees(biadjacency_matrix(graph, head, graph_index))


def degree_distribution(degree: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct degrees, ascending, and how many nodes have each.

    Raises:
        ValueError: If a degree is negative, not finite or not a real number.
    """
    as_weights("degree", degree)
    return np.unique(np.asarray(degree), return_counts=True)


@accepts_old_names
def reciprocity(graph: SampledGraph, head: int | None = 0, graph_index: int = 0) -> float:
    """The fraction of edges j → i whose reverse i → j is there too, as
    :func:`networkx.overall_reciprocity`. Self edges, which are their own reverse, are left out of
    both counts. NaN where no other edge is left.

    Raises:
        ValueError: If the head or the graph does not exist, or queries and keys are not the same
            tokens.
    """
    matrix = biadjacency_matrix(graph, head, graph_index)
    check_square(matrix)
    return _reciprocity(matrix)


@accepts_old_names
def self_edges(graph: SampledGraph, head: int | None = 0, graph_index: int = 0) -> np.ndarray:
    """Which tokens attend to themselves, boolean of shape :obj:`[n]`.

    Raises:
        ValueError: If the head or the graph does not exist, or queries and keys are not the same
            tokens.
    """
    matrix = biadjacency_matrix(graph, head, graph_index)
    check_square(matrix)
    return matrix.diagonal() > 0


@accepts_old_names
def connected_components(
    graph: SampledGraph,
    head: int | None = 0,
    graph_index: int = 0,
    connection: str = "weak",
    tied: bool | None = None,
) -> np.ndarray:
    """The connected component of every token.

    Args:
        graph (SampledGraph): The sampled graphs.
        head (int, optional): The head; :obj:`None` is the union of all heads. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        connection (str, optional): :obj:`"weak"` or :obj:`"strong"`, as in networkx.
            (default: :obj:`"weak"`)
        tied (bool, optional): Whether query i and key i are the same token, as in self-attention.
            (default: whether there are as many queries as keys)

    Returns:
        Component numbers, largest component first, of shape :obj:`[n]` if tied, else of the keys
        and then the queries, :obj:`[m + n]`.

    Raises:
        ValueError: If the head or the graph does not exist, or tied queries and keys differ in
            number.
    """
    check_choice("connection", connection, ("weak", "strong"))
    matrix = biadjacency_matrix(graph, head, graph_index)
    if tied is not None:
        check_flag("tied", tied)
    if tied is None:
        tied = matrix.shape[0] == matrix.shape[1]
    if tied:
        check_square(matrix)
        return _components(matrix, connection)
    from scipy.sparse import coo_array

    num_queries, num_keys = matrix.shape
    entries = matrix.tocoo()
    row, col = entries.coords
    size = num_keys + num_queries
    bipartite = coo_array((entries.data, (row + num_keys, col)), shape=(size, size))
    return _components(bipartite.tocsr(), connection)


@accepts_old_names
def neighbours(
    graph: SampledGraph, node: int, head: int = 0, graph_index: int = 0, side: str = "query"
) -> np.ndarray:
    """The tokens that a token shares an edge with, ascending.

    Args:
        graph (SampledGraph): The sampled graphs.
        node (int): The token, numbered inside its graph.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        side (str, optional): With :obj:`"query"` the keys that ``node`` attends to, with
            :obj:`"key"` the queries that attend to ``node``. (default: :obj:`"query"`)

    Raises:
        ValueError: If the node, the head or the graph does not exist, or ``side`` is unknown.
    """
    keys, _ = neighbour_weights(graph, None, node, head, graph_index, side)
    return keys


@accepts_old_names
def neighbour_weights(
    graph: SampledGraph,
    weights: Tensor | None,
    node: int,
    head: int = 0,
    graph_index: int = 0,
    side: str = "query",
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`neighbours` and what each edge weighs.

    Args:
        graph (SampledGraph): The sampled graphs.
        weights (Tensor, optional): A value for every edge, of shape :obj:`[E]`, for instance the
            attention weights of ``edge_attention(…, return_weights=True)``. :obj:`None` is ones.
        node (int): The token, numbered inside its graph.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        side (str, optional): See :func:`neighbours`. (default: :obj:`"query"`)

    Raises:
        ValueError: If the node, the head or the graph does not exist, ``side`` is unknown or
            ``weights`` does not fit.
    """
    check_choice("side", side, SIDES)
    check_sampled(graph)
    if side == "key":
        matrix = biadjacency_matrix(graph, head, graph_index, weights)
        check_index("node", node, matrix.shape[1])
        position = np.flatnonzero(matrix.indices == node)
        query = np.searchsorted(matrix.indptr, position, side="right") - 1
        return query.astype(np.int64), matrix.data[position]
    check_index("head", head, graph.heads)
    check_index("graph_index", graph_index, graph.num_graphs)
    first, last = (int(query) for query in graph.query_ptr[graph_index : graph_index + 2])
    check_index("node", node, last - first)
    vertex = (first + int(node)) * graph.heads + head
    start, stop = (int(edge) for edge in graph.rowptr[vertex : vertex + 2])
    keys = to_numpy(graph.col[start:stop]).astype(np.int64) - int(graph.key_ptr[graph_index])
    if weights is None:
        return keys, np.ones(keys.size)
    return keys, edge_values(graph, "weights", weights)[start:stop]


class AttentionMass(NamedTuple):
    """Where one head's attention goes on one graph.

    Attributes:
        received: Attention that each key gets from all queries, of shape :obj:`[m]`.
        effective_keys: Number of keys that each query effectively attends to, :math:`e^H` of its
            weights, of shape :obj:`[n]`; 0 for a query without an edge.
        largest: Largest weight of each query, of shape :obj:`[n]`.
    """

    received: np.ndarray
    effective_keys: np.ndarray
    largest: np.ndarray


@accepts_old_names
def attention_mass(
    graph: SampledGraph, weights: Tensor, head: int = 0, graph_index: int = 0
) -> AttentionMass:
    """Attention mass by key and by query; :func:`block_mass` with ``weights`` gives it by block.

    Args:
        graph (SampledGraph): The sampled graphs.
        weights (Tensor): The attention weight of every edge, of shape :obj:`[E]`, as
            ``edge_attention(…, return_weights=True)`` returns them.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)

    Raises:
        ValueError: If the head or the graph does not exist or ``weights`` does not fit.
    """
    matrix = biadjacency_matrix(graph, head, graph_index, weights).astype(np.float64)
    as_weights("weights", matrix.data)
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    weight = matrix.data
    term = weight * np.log(np.where(weight > 0, weight, 1.0))
    total = np.bincount(row, weights=weight, minlength=matrix.shape[0])
    score = np.bincount(row, weights=term, minlength=matrix.shape[0])
    attends = total > 0
    safe = np.where(attends, total, 1.0)
    effective = np.where(attends, np.exp(np.log(safe) - score / safe), 0.0)
    largest = np.zeros(matrix.shape[0])
    np.maximum.at(largest, row, weight)
    return AttentionMass(matrix.sum(axis=0), effective, largest)


@accepts_old_names
def graph_statistics(graph: SampledGraph, sbm: SBM | None = None) -> pd.DataFrame:
    """One row of statistics for each graph and head.

    Columns: ``graph``, ``head``, ``num_queries``, ``num_keys``, ``num_edges``, ``density``;
    ``query_degree_mean``, ``_std``, ``_min``, ``_max`` and the same of ``key_degree``;
    ``isolated_queries`` and ``isolated_keys``, which have no edge; ``components`` (weakly
    connected) and ``largest_component``, its share of the tokens; ``self_edges``, the share of
    tokens with one, and ``reciprocity``, NaN unless there are as many queries as keys; with ``sbm``
    ``block_assortativity``.

    Args:
        graph (SampledGraph): The sampled graphs.
        sbm (SBM, optional): Their block models. (default: :obj:`None`)

    Raises:
        ValueError: If ``graph`` does not fit ``sbm``.
    """
    import pandas as pd

    check_sampled(graph)
    if sbm is not None:
        check_pair(sbm, graph)
    rows = [
        _statistics(graph, sbm, head, graph_index)
        for graph_index, head in np.ndindex(graph.num_graphs, graph.heads)
    ]
    return pd.DataFrame(rows)


def _statistics(
    graph: SampledGraph, sbm: SBM | None, head: int, graph_index: int
) -> dict[str, float]:
    matrix = biadjacency_matrix(graph, head, graph_index)
    num_queries, num_keys = matrix.shape
    square = num_queries == num_keys
    out: dict[str, float] = {
        "graph": graph_index,
        "head": head,
        "num_queries": num_queries,
        "num_keys": num_keys,
        "num_edges": matrix.nnz,
        "density": matrix.nnz / max(num_queries * num_keys, 1),
    }
    for side, degree in zip(SIDES, _degrees(matrix), strict=True):
        for name in ("mean", "std", "min", "max"):
            value = float(getattr(degree, name)()) if degree.size else float("nan")
            out[f"{side}_degree_{name}"] = value
        plural = "queries" if side == "query" else "keys"
        out[f"isolated_{plural}"] = int(np.sum(degree == 0))
    component = connected_components(graph, head, graph_index)
    sizes = np.bincount(component)
    out["components"] = sizes.size
    out["largest_component"] = sizes[0] / component.size if component.size else float("nan")
    out["self_edges"] = float("nan")
    if square and num_queries:
        out["self_edges"] = float((matrix.diagonal() > 0).mean())
    out["reciprocity"] = _reciprocity(matrix) if square else float("nan")
    if sbm is not None:
        blocks = assign_blocks(sbm, head, graph_index)
        out["block_assortativity"] = assortativity(mixing_matrix(matrix, *blocks, sbm.num_clusters))
    return out


def _degrees(matrix: csr_array) -> tuple[np.ndarray, np.ndarray]:
    query = np.diff(matrix.indptr).astype(np.int64)
    return query, np.bincount(matrix.indices, minlength=matrix.shape[1])


def _reciprocity(matrix: csr_array) -> float:
    loops = int((matrix.diagonal() > 0).sum())
    if matrix.nnz == loops:
        return float("nan")
    both = matrix.multiply(matrix.T.tocsr()).nnz
    return (both - loops) / (matrix.nnz - loops)


def _components(matrix: csr_array, connection: str) -> np.ndarray:
    """Component labels, renumbered so that the largest comes first."""
    from scipy.sparse import csgraph

    _, label = csgraph.connected_components(matrix, directed=True, connection=connection)
    rank = np.argsort(np.argsort(-np.bincount(label), kind="stable"))
    return rank[label] if label.size else label
