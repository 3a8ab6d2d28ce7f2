"""Adjacency matrices as pictures see them: in block order, and binned where they are large."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.select import biadjacency_matrix, check_order, factors
from sbmgraph.checks import check_positive_int, check_range
from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class BinnedMatrix(NamedTuple):
    """A matrix over queries and keys, averaged over rectangles of tokens.

    Attributes:
        values: Mean of each rectangle, of shape :obj:`[rows, columns]`.
        query_edges: Positions in the query order where the rows start, then n, of shape
            :obj:`[rows + 1]`.
        key_edges: Positions in the key order where the columns start, then m.
    """

    values: np.ndarray
    query_edges: np.ndarray
    key_edges: np.ndarray

    @property
    def binned(self) -> bool:
        """Whether a cell stands for more than one pair of tokens."""
        shape = (self.query_edges[-1], self.key_edges[-1])
        return self.values.shape != tuple(int(size) for size in shape)


@accepts_old_names
def sampled_matrix(
    graph: SampledGraph,
    head: int | None = 0,
    graph_index: int = 0,
    query_order: np.ndarray | None = None,
    key_order: np.ndarray | None = None,
    max_size: int = 512,
    weights: Tensor | None = None,
) -> BinnedMatrix:
    """The sampled adjacency matrix, rows are queries; cells are densities where it is binned.

    Args:
        graph (SampledGraph): The sampled graphs.
        head (int, optional): The head; :obj:`None` is the union of all heads. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        query_order (array, optional): Query at each row, for instance of :func:`block_order`.
            (default: the natural order)
        key_order (array, optional): Key at each column. (default: the natural order)
        max_size (int, optional): The largest number of rows or columns. (default: :obj:`512`)
        weights (Tensor, optional): A value for every edge, of shape :obj:`[E]`. (default: ones)

    Raises:
        ValueError: If the head or the graph does not exist or an order is no permutation.
    """
    check_positive_int("max_size", max_size)
    matrix = biadjacency_matrix(graph, head, graph_index, weights)
    query_edges, key_edges = (bin_edges(size, max_size) for size in matrix.shape)
    return bin_matrix(matrix, query_edges, key_edges, query_order, key_order)


@accepts_old_names
def expected_matrix(
    sbm: SBM,
    head: int = 0,
    graph_index: int = 0,
    query_order: np.ndarray | None = None,
    key_order: np.ndarray | None = None,
    max_size: int = 512,
    exploration: float = 0.0,
) -> BinnedMatrix:
    r"""The edge probabilities, mean over each cell, without forming the n×m matrix: a cell's mean
    is the product of the mean memberships of its rows and columns.

    Args:
        sbm (SBM): The block models.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        query_order (array, optional): Query at each row. (default: the natural order)
        key_order (array, optional): Key at each column. (default: the natural order)
        max_size (int, optional): The largest number of rows or columns. (default: :obj:`512`)
        exploration (float, optional): :math:`\delta` added to every probability.
            (default: :obj:`0.0`)

    Raises:
        ValueError: If the head or the graph does not exist or an order is no permutation.
    """
    check_positive_int("max_size", max_size)
    check_range("exploration", exploration, 0.0, 1.0)
    model = factors(sbm, head, graph_index)
    query_edges = bin_edges(len(model.query), max_size)
    key_edges = bin_edges(len(model.key), max_size)
    query = bin_means(model.query, "query_order", query_order, query_edges)
    key = bin_means(model.key, "key_order", key_order, key_edges)
    values = np.minimum(query @ model.affinity @ key.T + exploration, 1.0)
    return BinnedMatrix(values, query_edges, key_edges)


def bin_matrix(
    matrix: csr_array,
    query_edges: np.ndarray,
    key_edges: np.ndarray,
    query_order: np.ndarray | None = None,
    key_order: np.ndarray | None = None,
) -> BinnedMatrix:
    """Means of a biadjacency matrix, taken in the given orders, over rectangles of tokens.

    Raises:
        ValueError: If an order is no permutation.
    """
    row_of = _bin_of("query_order", query_order, query_edges)
    col_of = _bin_of("key_order", key_order, key_edges)
    num_cols = key_edges.size - 1
    cell = np.repeat(row_of * num_cols, np.diff(matrix.indptr)) + col_of[matrix.indices]
    area = np.outer(np.diff(query_edges), np.diff(key_edges))
    total = np.bincount(cell, weights=matrix.data, minlength=area.size).reshape(area.shape)
    return BinnedMatrix(total / area, query_edges, key_edges)


def bin_edges(size: int, max_size: int) -> np.ndarray:
    """Splits ``size`` positions into at most ``max_size`` bins of nearly equal width."""
    bins = min(size, max_size)
    return np.arange(bins + 1) * size // max(bins, 1)


def bin_means(
    values: np.ndarray, name: str, order: np.ndarray | None, edges: np.ndarray
) -> np.ndarray:
    """Means of the rows of ``values`` [n, …], taken in ``order``, over the bins → [bins, …]."""
    if edges.size < 2:
        return values[:0]
    width = np.diff(edges).reshape(-1, *[1] * (values.ndim - 1))
    ordered = values if order is None else values[check_order(name, order, len(values))]
    return np.add.reduceat(ordered, edges[:-1], axis=0) / width


def _bin_of(name: str, order: np.ndarray | None, edges: np.ndarray) -> np.ndarray:
    """The bin of every token."""
    size = int(edges[-1])
    bins = np.repeat(np.arange(edges.size - 1), np.diff(edges))
    if order is None:
        return bins
    out = np.empty(size, dtype=bins.dtype)
    out[check_order(name, order, size)] = bins
    return out
