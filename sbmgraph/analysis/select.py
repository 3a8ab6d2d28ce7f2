"""One head on one input: what every analysis starts from.

Sampled graphs and block models hold all heads of a batch together. These functions cut out one head
on one graph of the batch as NumPy arrays and a SciPy matrix on the host, checked once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.checks import describe
from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Factors(NamedTuple):
    r"""The block model of one head on one input, float64.

    Attributes:
        query: :math:`\mathbf{Y}` of shape :obj:`[n, K]`.
        key: :math:`\mathbf{Z}` of shape :obj:`[m, K]`.
        affinity: :math:`\mathbf{B}` of shape :obj:`[K, K]`, rows are query blocks.
    """

    query: np.ndarray
    key: np.ndarray
    affinity: np.ndarray


@accepts_old_names
def factors(sbm: SBM, head: int = 0, graph_index: int = 0) -> Factors:
    """The block model of one head on one graph of the batch.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    check_sbm(sbm)
    check_index("head", head, sbm.heads)
    check_index("graph_index", graph_index, sbm.num_graphs)
    query = sbm.query_membership[_nodes(sbm.query_ptr, graph_index), head]
    key = sbm.key_membership[_nodes(sbm.key_ptr, graph_index), head]
    return Factors(
        *(to_numpy(value).astype(np.float64) for value in (query, key, sbm.affinity[head]))
    )


@accepts_old_names
def biadjacency_matrix(
    graph: SampledGraph,
    head: int | None = 0,
    graph_index: int = 0,
    weights: Tensor | None = None,
) -> csr_array:
    """The edges of one head on one graph as a sparse matrix, as
    :func:`networkx.bipartite.biadjacency_matrix` would give it.

    Args:
        graph (SampledGraph): The sampled graphs.
        head (int, optional): The head; :obj:`None` is the union of all heads. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        weights (Tensor, optional): A value for every edge of ``graph``, of shape :obj:`[E]`, for
            instance attention weights; added up where heads share an edge. (default: ones)

    Returns:
        A :class:`scipy.sparse.csr_array` of shape :obj:`[n, m]`, rows are queries.

    Raises:
        ValueError: If the head or the graph does not exist, or ``weights`` does not fit.
    """
    from scipy.sparse import csr_array

    check_sampled(graph)
    check_index("graph_index", graph_index, graph.num_graphs)
    if head is None:
        return _union(graph, graph_index, weights)
    check_index("head", head, graph.heads)
    first, last = (int(node) for node in graph.query_ptr[graph_index : graph_index + 2])
    low, high = (int(node) for node in graph.key_ptr[graph_index : graph_index + 2])
    rowptr = to_numpy(graph.rowptr[first * graph.heads : last * graph.heads + 1])
    start, stop = rowptr[0], rowptr[-1]
    vertex_degree = np.diff(rowptr)
    indptr = np.concatenate([[0], np.cumsum(vertex_degree[head :: graph.heads])])
    chosen: slice | np.ndarray = slice(None)
    if graph.heads > 1:
        mine = np.arange(vertex_degree.size) % graph.heads == head
        chosen = np.repeat(mine, vertex_degree)
    indices = to_numpy(graph.col[start:stop])[chosen] - np.int32(low)
    data = np.ones(indices.size, dtype=np.int8)
    if weights is not None:
        data = edge_values(graph, "weights", weights)[start:stop][chosen]
    if indices.size < 2**31:
        indptr = indptr.astype(np.int32)
    return csr_array((data, indices, indptr), shape=(last - first, high - low))


def _union(graph: SampledGraph, graph_index: int, weights: Tensor | None) -> csr_array:
    """The union of all heads: ones, or the sum of the heads' values."""
    parts = [biadjacency_matrix(graph, head, graph_index, weights) for head in range(graph.heads)]
    out = parts[0].astype(np.int32) if weights is None else parts[0]
    for part in parts[1:]:
        out = out + part
    if weights is None:
        out.data = np.ones(out.data.size, dtype=np.int8)
    out.sort_indices()
    return out


def edge_values(graph: SampledGraph, name: str, value: Tensor) -> np.ndarray:
    """``value``, which must hold a number for every edge of ``graph``, on the host."""
    if not isinstance(value, Tensor) or value.shape != graph.col.shape:
        raise ValueError(
            f"'{name}' must be a tensor with one entry for each of {graph.num_edges} edges, "
            f"got {describe(value)}"
        )
    if value.layout != torch.strided or value.is_complex() or value.is_meta:
        raise ValueError(f"'{name}' must be a dense tensor of real numbers, got {describe(value)}")
    out = to_numpy(value)
    # Sums of heads or blocks would wrap in a type of few bits.
    out = out if out.dtype.kind == "f" else out.astype(np.float64)
    if not np.isfinite(out).all():
        raise ValueError(f"'{name}' must hold finite numbers, got NaN or infinity")
    return out


def as_weights(name: str, weights: Any, least: int = 0) -> np.ndarray:
    """``weights`` as float64: finite numbers of at least 0, of ``least`` or more dimensions.

    Raises:
        ValueError: If they are not.
    """
    expected = f"'{name}' must hold finite numbers >= 0"
    array = to_array(expected, weights)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{expected}, got values of type {array.dtype}")
    if array.ndim < least:
        raise ValueError(f"{expected} in {least} dimensions, got {array.ndim}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{expected}, got NaN or infinity")
    if array.size and array.min() < 0:
        raise ValueError(f"{expected}, got {array.min():g}")
    return array


def to_array(expected: str, value: Any) -> np.ndarray:
    """``value`` as an array of whatever type.

    Args:
        expected: Name and nature of the argument, for messages.
        value: An array, a tensor on any device, or what is neither.

    Raises:
        ValueError: If it is none.
    """
    try:
        return to_numpy(value) if isinstance(value, Tensor) else np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # sparse, without values, of several lengths
        raise ValueError(f"{expected}, got {describe(value)}") from None


def to_list(expected: str, value: Any, size: int) -> list[Any]:
    """``value`` as a list of ``size`` entries.

    Args:
        expected: Name and length of the argument, for messages.
        value: A sequence, array or tensor.
        size: Its length.

    Raises:
        ValueError: If it is none, or of another length.
    """
    if isinstance(value, Tensor | np.ndarray):
        value = to_array(expected, value).tolist()
    try:
        out = list(value)
    except TypeError:
        raise ValueError(f"{expected}, got {describe(value)}") from None
    if len(out) != size:
        raise ValueError(f"{expected}, got {len(out)}")
    return out


def check_order(name: str, order: Any, size: int) -> np.ndarray:
    """``order`` must be a permutation of ``size`` tokens."""
    expected = f"'{name}' must be a permutation of {size} tokens"
    array = to_array(expected, order)
    whole = array.shape == (size,) and array.dtype.kind in "iu"
    if not whole or not np.array_equal(np.sort(array), np.arange(size)):
        raise ValueError(f"{expected}, got {array!r}")
    return array


def check_sbm(sbm: Any) -> None:
    """``sbm`` must be an SBM."""
    if not isinstance(sbm, SBM):
        raise ValueError(f"'sbm' must be an SBM, got {describe(sbm)}")


def check_sampled(graph: Any) -> None:
    """``graph`` must be a SampledGraph."""
    if not isinstance(graph, SampledGraph):
        raise ValueError(f"'graph' must be a SampledGraph, got {describe(graph)}")


def check_pair(sbm: Any, graph: Any) -> None:
    """``graph`` must be a graph over the nodes and heads of ``sbm``."""
    check_sbm(sbm)
    check_sampled(graph)
    sbm.nodes.check_same("graph", graph.nodes)


def check_index(name: str, value: Any, size: int) -> None:
    """``value`` must be an integer in [0, ``size``)."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or not 0 <= value < size:
        raise ValueError(f"'{name}' must be an integer in [0, {size}), got {value!r}")


def check_square(matrix: csr_array) -> None:
    """The graph must be one of self-attention: as many queries as keys."""
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            "'graph' must be a graph of self-attention, with as many queries as keys, "
            f"got {matrix.shape[0]} queries and {matrix.shape[1]} keys"
        )


def to_numpy(value: Tensor) -> np.ndarray:
    """``value`` on the host, without its gradient."""
    value = value.detach().cpu()
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    return value.numpy()


def _nodes(ptr: Tensor, graph_index: int) -> slice:
    return slice(int(ptr[graph_index]), int(ptr[graph_index + 1]))
