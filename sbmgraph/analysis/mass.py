"""Edge mass between blocks: expected or sampled, as a matrix and as a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from sbmgraph.analysis._kernels import edge_dot
from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.blocks import (
    ASSIGNMENTS,
    assign_blocks,
    effective_number,
    memberships,
    normalize,
)
from sbmgraph.analysis.select import (
    Factors,
    as_weights,
    biadjacency_matrix,
    check_pair,
    check_sampled,
    factors,
)
from sbmgraph.analysis.strength import block_strength
from sbmgraph.checks import check_choice, check_range
from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM

if TYPE_CHECKING:
    import networkx as nx
    from scipy.sparse import csr_array


@accepts_old_names
def block_mass(
    sbm: SBM,
    graph: SampledGraph | None = None,
    head: int = 0,
    graph_index: int = 0,
    assignment: str = "posterior",
    weights: Tensor | None = None,
    exploration: float = 0.0,
) -> np.ndarray:
    r"""Edge mass between blocks.

    From the expectation (without ``graph``) block pair :math:`(u, v)` has :math:`(\sum_i y_{iu})
    B_{uv} (\sum_j z_{jv})`; the sum is the expected number of edges.

    From a sample, every edge :math:`(i, j)` is shared between the block pairs by its posterior
    :math:`y_{iu} B_{uv} z_{jv} / (p_{ij} + \delta)`. Over samples of the Bernoulli law its mean is
    the expectation above, block pair by block pair; without exploration it adds up to the number of
    edges, with it the rest is the mass that exploration brought.

    Args:
        sbm (SBM): The block models.
        graph (SampledGraph, optional): The sampled graphs. (default: the expectation)
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        assignment (str, optional): :obj:`"posterior"` as above; with :obj:`"membership"` or
            :obj:`"edges"` an edge counts wholly for the strongest blocks of its ends (see
            :func:`assign_blocks`). (default: :obj:`"posterior"`)
        weights (Tensor, optional): What every edge of ``graph`` counts, of shape :obj:`[E]`, for
            instance its attention weight. (default: one)
        exploration (float, optional): The :math:`\delta` that ``graph`` was drawn with.
            (default: :obj:`0.0`)

    Returns:
        float64 array of shape :obj:`[K, K]`: rows are query blocks, columns key blocks, like
        :math:`\mathbf{B}`.

    Raises:
        ValueError: If the head or the graph does not exist, ``graph`` does not fit ``sbm``,
            ``assignment`` is unknown or ``weights`` comes without ``graph``.
    """
    check_choice("assignment", assignment, ("posterior", *ASSIGNMENTS))
    check_range("exploration", exploration, 0.0, 1.0)
    model = factors(sbm, head, graph_index)
    if graph is None:
        if weights is not None:
            raise ValueError("'weights' needs 'graph', whose edges it weighs, got it alone")
        return np.outer(model.query.sum(axis=0), model.key.sum(axis=0)) * model.affinity
    check_pair(sbm, graph)
    matrix = biadjacency_matrix(graph, head, graph_index, weights)
    as_weights("weights", matrix.data)
    if assignment != "posterior":
        query_block, key_block = assign_blocks(sbm, head, graph_index, assignment)
        return mixing_matrix(matrix, query_block, key_block, sbm.num_clusters)
    prob = edge_probabilities(matrix, model) + exploration
    possible = prob > 0
    value = np.divide(matrix.data, prob, out=np.zeros_like(prob), where=possible)
    shared = type(matrix)((value, matrix.indices, matrix.indptr), shape=matrix.shape)
    return (model.query.T @ (shared @ model.key)) * model.affinity


def edge_probabilities(matrix: csr_array, model: Factors) -> np.ndarray:
    r"""The probability :math:`y_i \mathbf{B} z_j^{\top}` (not clamped to 1) of every entry of a
    biadjacency matrix, of shape :obj:`[nnz]`."""
    return edge_dot(matrix.indptr, matrix.indices, model.query @ model.affinity, model.key)


def mixing_matrix(
    matrix: csr_array, query_block: np.ndarray, key_block: np.ndarray, num_blocks: int
) -> np.ndarray:
    """The entries of ``matrix`` added up by the blocks of their row and column."""
    rows = np.repeat(query_block, np.diff(matrix.indptr))
    pair = rows * num_blocks + key_block[matrix.indices]
    mass = np.bincount(pair, weights=matrix.data, minlength=num_blocks**2)
    return mass.reshape(num_blocks, num_blocks)


@accepts_old_names
def block_share(sbm: SBM, head: int = 0, graph_index: int = 0) -> np.ndarray:
    """The share of the expected edges that starts or ends at each block (the mean of both), of
    shape :obj:`[K]`; all 0 where no edge is expected.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    mass = block_mass(sbm, head=head, graph_index=graph_index)
    return normalize(mass.sum(axis=1) + mass.sum(axis=0))


@accepts_old_names
def effective_blocks(sbm: SBM, head: int = 0, graph_index: int = 0) -> float:
    """The effective number of blocks of a head on one graph: :math:`e^H` of :func:`block_share`.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    return float(effective_number(block_share(sbm, head, graph_index)))


@accepts_old_names
def dead_blocks(
    sbm: SBM, head: int = 0, graph_index: int = 0, threshold: float = 0.01
) -> np.ndarray:
    """The blocks that carry next to no edges: a share below ``threshold`` of the equal one, 1/K.

    Args:
        sbm (SBM): The block models.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        threshold (float, optional): Fraction of the equal share. (default: :obj:`0.01`)

    Returns:
        Ascending block numbers.

    Raises:
        ValueError: If the head or the graph does not exist or ``threshold`` is out of range.
    """
    check_range("threshold", threshold, 0.0, 1.0)
    share = block_share(sbm, head, graph_index)
    return np.flatnonzero(share < threshold / share.size)


@accepts_old_names
def block_graph(
    sbm: SBM,
    graph: SampledGraph | None = None,
    head: int = 0,
    graph_index: int = 0,
    assignment: str = "posterior",
    weights: Tensor | None = None,
    exploration: float = 0.0,
    min_share: float = 0.0,
) -> nx.DiGraph:
    """The graph of the blocks: who attends to whom, and how much.

    Nodes are block numbers with attributes ``num_queries``, ``num_keys`` (tokens whose strongest
    block it is), ``query_membership``, ``key_membership`` (sums over the tokens) and ``share`` (of
    the mass). Edges run from key block to query block, like the sampled ones, with ``weight``, the
    mass of :func:`block_mass`, and ``share``, its fraction of the whole; pairs without mass have
    none.

    Args:
        sbm (SBM): The block models.
        graph (SampledGraph, optional): See :func:`block_mass`.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        assignment (str, optional): See :func:`block_mass`.
        weights (Tensor, optional): See :func:`block_mass`.
        exploration (float, optional): See :func:`block_mass`.
        min_share (float, optional): Leaves out edges with a smaller share. (default: :obj:`0.0`)

    Raises:
        ValueError: As :func:`block_mass`.
    """
    import networkx as nx

    check_range("min_share", min_share, 0.0, 1.0)
    mass = block_mass(sbm, graph, head, graph_index, assignment, weights, exploration)
    total = mass.sum()
    share = mass / total if total > 0 else mass
    # networkx reads rows as sources; ours are query blocks, where edges end.
    kept = np.where(share >= min_share, mass, 0.0)
    out = nx.from_numpy_array(kept.T, create_using=nx.DiGraph)
    out.graph.update(
        head=int(head), graph_index=int(graph_index), total=float(total),
        strength=float(block_strength(sbm)[graph_index, head]),
    )  # fmt: skip
    rows = block_rows(sbm, head, graph_index, mass)
    nx.set_node_attributes(out, {row.pop("block"): row for row in rows})
    nx.set_edge_attributes(out, {(v, u): float(share[u, v]) for v, u in out.edges}, "share")
    return out


def block_rows(sbm: SBM, head: int, graph_index: int, mass: np.ndarray) -> list[dict]:
    query, key = memberships(sbm, head, graph_index)
    columns = {
        "block": np.arange(sbm.num_clusters),
        "num_queries": np.bincount(query.argmax(axis=1), minlength=sbm.num_clusters),
        "num_keys": np.bincount(key.argmax(axis=1), minlength=sbm.num_clusters),
        "query_membership": query.sum(axis=0),
        "key_membership": key.sum(axis=0),
        "share": normalize(mass.sum(axis=1) + mass.sum(axis=0)),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


@accepts_old_names
def block_assortativity(
    graph: SampledGraph,
    sbm: SBM,
    head: int = 0,
    graph_index: int = 0,
    by: str = "membership",
) -> float:
    """Newman's assortativity of a head's edges by block, as
    :func:`networkx.attribute_assortativity_coefficient`: 1 where every edge stays inside a block, 0
    where blocks mix at random, negative where they avoid themselves, NaN where it is undefined (no
    edge, or all edges between one pair of blocks).

    Raises:
        ValueError: If the head or the graph does not exist, ``graph`` does not fit ``sbm`` or
            ``by`` is unknown.
    """
    check_choice("by", by, ASSIGNMENTS)
    check_sampled(graph)
    return assortativity(block_mass(sbm, graph, head, graph_index, by))


def assortativity(mass: np.ndarray) -> float:
    """Newman's assortativity coefficient of a mixing matrix [K, K]; NaN where undefined.

    Raises:
        ValueError: If ``mass`` is no square matrix of finite numbers of at least 0.
    """
    from networkx.algorithms.assortativity.correlation import attribute_ac

    mass = as_weights("mass", mass)
    if mass.ndim != 2 or mass.shape[0] != mass.shape[1]:
        raise ValueError(f"'mass' must have shape [K, K], got {list(mass.shape)}")
    total = mass.sum()
    if total == 0:
        return float("nan")
    mixing = mass / total
    if np.isclose(float(mixing.sum(axis=0) @ mixing.sum(axis=1)), 1.0, rtol=0, atol=1e-12):
        return float("nan")
    return float(attribute_ac(mixing))
