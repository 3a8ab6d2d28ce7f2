"""Blocks: which a head learned, who belongs to them, and how much of its attention each carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from sbmgraph.checks import check_choice, check_range
from sbmgraph.analysis._kernels import edge_dot
from sbmgraph.analysis.select import (
    Factors,
    biadjacency_matrix,
    check_pair,
    check_sampled,
    factors,
)
from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd

ASSIGNMENTS = ("membership", "edges")
SIDES = ("query", "key")


def memberships(sbm: SBM, head: int = 0, graph: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""Query and key memberships :math:`\mathbf{Y}` [n, K] and :math:`\mathbf{Z}` [m, K] of one
    head on one graph.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    query, key, _ = factors(sbm, head, graph)
    return query, key


def edge_shares(sbm: SBM, head: int = 0, graph: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""The distribution over blocks that each token's expected edges come from.

    Query :math:`i` expects :math:`y_{iu} (\mathbf{B} \sum_j \mathbf{z}_j)_u` edges by its block
    :math:`u`, key :math:`j` expects :math:`(\sum_i \mathbf{y}_i \mathbf{B})_v z_{jv}` by block
    :math:`v`. A membership that no affinity uses counts for nothing here.

    Returns:
        Arrays of shapes :obj:`[n, K]` and :obj:`[m, K]`; rows sum to 1, or to 0 for a token that
        expects no edge.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    model = factors(sbm, head, graph)
    query = model.query * (model.affinity @ model.key.sum(axis=0))
    key = model.key * (model.query.sum(axis=0) @ model.affinity)
    return _normalize(query), _normalize(key)


def entropy(weights: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats of non-negative weights [..., K], normalised over the last dimension;
    0 where all weights are 0."""
    share = _normalize(np.asarray(weights, dtype=np.float64))
    return -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=-1)


def effective_number(weights: np.ndarray) -> np.ndarray:
    """The number of equal parts with the same entropy, :math:`e^{H}`, of non-negative weights
    [..., K]: K where all are equal, 1 where one has everything, 0 where all are 0."""
    weights = np.asarray(weights, dtype=np.float64)
    return np.where(weights.sum(axis=-1) > 0, np.exp(entropy(weights)), 0.0)


def membership_entropy(sbm: SBM, head: int = 0, graph: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The entropy in nats of each query's [n] and each key's [m] memberships over the blocks; at
    most log K, 0 for a token of one block.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    query, key = memberships(sbm, head, graph)
    return entropy(query), entropy(key)


def block_share(sbm: SBM, head: int = 0, graph: int = 0) -> np.ndarray:
    """The share of the expected edges that starts or ends at each block (the mean of both), of
    shape :obj:`[K]`; all 0 where no edge is expected.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    mass = block_mass(sbm, head=head, graph=graph)
    return _normalize(mass.sum(axis=1) + mass.sum(axis=0))


def effective_blocks(sbm: SBM, head: int = 0, graph: int = 0) -> float:
    """The effective number of blocks of a head on one graph: :math:`e^H` of :func:`block_share`.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    return float(effective_number(block_share(sbm, head, graph)))


def dead_blocks(sbm: SBM, head: int = 0, graph: int = 0, threshold: float = 0.01) -> np.ndarray:
    """The blocks that carry next to no edges: a share below ``threshold`` of the equal one, 1/K.

    Args:
        sbm (SBM): The block models.
        head (int, optional): The head. (default: :obj:`0`)
        graph (int, optional): The graph of the batch. (default: :obj:`0`)
        threshold (float, optional): Fraction of the equal share. (default: :obj:`0.01`)

    Returns:
        Ascending block numbers.

    Raises:
        ValueError: If the head or the graph does not exist or ``threshold`` is out of range.
    """
    check_range("threshold", threshold, 0.0, 1.0)
    share = block_share(sbm, head, graph)
    return np.flatnonzero(share < threshold / share.size)


def assign_blocks(
    sbm: SBM, head: int = 0, graph: int = 0, by: str = "membership"
) -> tuple[np.ndarray, np.ndarray]:
    """The strongest block of each query [n] and each key [m].

    Args:
        sbm (SBM): The block models.
        head (int, optional): The head. (default: :obj:`0`)
        graph (int, optional): The graph of the batch. (default: :obj:`0`)
        by (str, optional): :obj:`"membership"` takes the largest membership, :obj:`"edges"` the
            block that most of the token's expected edges come from (see :func:`edge_shares`).
            (default: :obj:`"membership"`)

    Raises:
        ValueError: If the head or the graph does not exist or ``by`` is unknown.
    """
    check_choice("by", by, ASSIGNMENTS)
    weigh = memberships if by == "membership" else edge_shares
    query, key = weigh(sbm, head, graph)
    return query.argmax(axis=1), key.argmax(axis=1)


class BlockOrder(NamedTuple):
    """Tokens sorted by block, for pictures.

    Attributes:
        blocks: The blocks that have tokens, largest first, of shape :obj:`[b]`.
        query_order: Query at each position, of shape :obj:`[n]`.
        key_order: Key at each position, of shape :obj:`[m]`.
        query_sizes: Number of queries in each of ``blocks``.
        key_sizes: Number of keys in each of ``blocks``.
    """

    blocks: np.ndarray
    query_order: np.ndarray
    key_order: np.ndarray
    query_sizes: np.ndarray
    key_sizes: np.ndarray


def block_order(sbm: SBM, head: int = 0, graph: int = 0, by: str = "membership") -> BlockOrder:
    """Sorts queries and keys by block: blocks with more tokens first (then by number), inside a
    block tokens with more expected edges first (then by number).

    Both sides list the blocks in the same order, so that a block's queries face its keys.

    Args:
        sbm (SBM): The block models.
        head (int, optional): The head. (default: :obj:`0`)
        graph (int, optional): The graph of the batch. (default: :obj:`0`)
        by (str, optional): How tokens get their block, see :func:`assign_blocks`.
            (default: :obj:`"membership"`)

    Raises:
        ValueError: If the head or the graph does not exist or ``by`` is unknown.
    """
    query_block, key_block = assign_blocks(sbm, head, graph, by)
    num_blocks = sbm.num_clusters
    query_sizes = np.bincount(query_block, minlength=num_blocks)
    key_sizes = np.bincount(key_block, minlength=num_blocks)
    size = query_sizes + key_sizes
    blocks = np.argsort(-size, kind="stable")
    rank = np.argsort(blocks)
    query_degree, key_degree = expected_degrees(sbm, head, graph)
    used = blocks[size[blocks] > 0]
    return BlockOrder(
        used,
        np.lexsort((-query_degree, rank[query_block])),
        np.lexsort((-key_degree, rank[key_block])),
        query_sizes[used],
        key_sizes[used],
    )


def expected_degrees(sbm: SBM, head: int = 0, graph: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""The expected number of edges of each query, :math:`\sum_j p_{ij}` [n], and of each key,
    :math:`\sum_i p_{ij}` [m], in :math:`\mathcal{O}((n + m) K + K^2)`.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    model = factors(sbm, head, graph)
    query = model.query @ (model.affinity @ model.key.sum(axis=0))
    key = model.key @ (model.query.sum(axis=0) @ model.affinity)
    return query, key


def block_mass(
    sbm: SBM,
    sampled: SampledGraph | None = None,
    head: int = 0,
    graph: int = 0,
    assignment: str = "posterior",
    weights: Tensor | None = None,
    exploration: float = 0.0,
) -> np.ndarray:
    r"""Edge mass between blocks.

    From the expectation (without ``sampled``) block pair :math:`(u, v)` has :math:`(\sum_i y_{iu})
    B_{uv} (\sum_j z_{jv})`; the sum is the expected number of edges.

    From a sample, every edge :math:`(i, j)` is shared between the block pairs by its posterior
    :math:`y_{iu} B_{uv} z_{jv} / (p_{ij} + \delta)`. Over samples of the Bernoulli law its mean is
    the expectation above, block pair by block pair; without exploration it adds up to the number of
    edges, with it the rest is the mass that exploration brought.

    Args:
        sbm (SBM): The block models.
        sampled (SampledGraph, optional): The sampled graphs. (default: the expectation)
        head (int, optional): The head. (default: :obj:`0`)
        graph (int, optional): The graph of the batch. (default: :obj:`0`)
        assignment (str, optional): :obj:`"posterior"` as above; with :obj:`"membership"` or
            :obj:`"edges"` an edge counts wholly for the strongest blocks of its ends (see
            :func:`assign_blocks`). (default: :obj:`"posterior"`)
        weights (Tensor, optional): What every edge of ``sampled`` counts, of shape :obj:`[E]`, for
            instance its attention weight. (default: one)
        exploration (float, optional): The :math:`\delta` that ``sampled`` was drawn with.
            (default: :obj:`0.0`)

    Returns:
        float64 array of shape :obj:`[K, K]`: rows are query blocks, columns key blocks, like
        :math:`\mathbf{B}`.

    Raises:
        ValueError: If the head or the graph does not exist, ``sampled`` does not fit ``sbm``,
            ``assignment`` is unknown or ``weights`` comes without ``sampled``.
    """
    check_choice("assignment", assignment, ("posterior", *ASSIGNMENTS))
    check_range("exploration", exploration, 0.0, 1.0)
    model = factors(sbm, head, graph)
    if sampled is None:
        if weights is not None:
            raise ValueError("'weights' needs 'sampled', whose edges it weighs")
        return np.outer(model.query.sum(axis=0), model.key.sum(axis=0)) * model.affinity
    check_pair(sbm, sampled)
    matrix = biadjacency_matrix(sampled, head, graph, weights)
    if assignment != "posterior":
        query_block, key_block = assign_blocks(sbm, head, graph, assignment)
        return mixing_matrix(matrix, query_block, key_block, sbm.num_clusters)
    prob = edge_probabilities(matrix, model) + exploration
    possible = prob > 0
    value = np.divide(matrix.data, prob, out=np.zeros_like(prob), where=possible)
    shared = type(matrix)((value, matrix.indices, matrix.indptr), shape=matrix.shape)
    return (model.query.T @ (shared @ model.key)) * model.affinity


def edge_probabilities(matrix, model: Factors) -> np.ndarray:
    r"""The probability :math:`y_i \mathbf{B} z_j^{\top}` (not clamped to 1) of every entry of a
    biadjacency matrix, of shape :obj:`[nnz]`."""
    return edge_dot(matrix.indptr, matrix.indices, model.query @ model.affinity, model.key)


def mixing_matrix(
    matrix, query_block: np.ndarray, key_block: np.ndarray, num_blocks: int
) -> np.ndarray:
    """The entries of ``matrix`` added up by the blocks of their row and column."""
    rows = np.repeat(query_block, np.diff(matrix.indptr))
    pair = rows * num_blocks + key_block[matrix.indices]
    mass = np.bincount(pair, weights=matrix.data, minlength=num_blocks**2)
    return mass.reshape(num_blocks, num_blocks)


def block_graph(
    sbm: SBM,
    sampled: SampledGraph | None = None,
    head: int = 0,
    graph: int = 0,
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
        sampled (SampledGraph, optional): See :func:`block_mass`.
        head (int, optional): The head. (default: :obj:`0`)
        graph (int, optional): The graph of the batch. (default: :obj:`0`)
        assignment (str, optional): See :func:`block_mass`.
        weights (Tensor, optional): See :func:`block_mass`.
        exploration (float, optional): See :func:`block_mass`.
        min_share (float, optional): Leaves out edges with a smaller share. (default: :obj:`0.0`)

    Raises:
        ValueError: As :func:`block_mass`.
    """
    import networkx as nx

    check_range("min_share", min_share, 0.0, 1.0)
    mass = block_mass(sbm, sampled, head, graph, assignment, weights, exploration)
    total = mass.sum()
    share = mass / total if total > 0 else mass
    out = nx.DiGraph(head=head, graph=graph, total=float(total))
    for row in _block_rows(sbm, head, graph, mass):
        out.add_node(row.pop("block"), **row)
    for u, v in np.argwhere((mass > 0) & (share >= min_share)).tolist():
        out.add_edge(v, u, weight=float(mass[u, v]), share=float(share[u, v]))
    return out


def block_table(sbm: SBM, head: int = 0, graph: int = 0, threshold: float = 0.01) -> pd.DataFrame:
    """One row per block: ``block``, ``num_queries``, ``num_keys`` (tokens whose strongest block it
    is), ``query_membership``, ``key_membership`` (sums over the tokens), ``share`` of the expected
    edges and whether it is ``dead`` (see :func:`dead_blocks`).

    Raises:
        ValueError: If the head or the graph does not exist or ``threshold`` is out of range.
    """
    import pandas as pd

    check_range("threshold", threshold, 0.0, 1.0)
    table = pd.DataFrame(_block_rows(sbm, head, graph, block_mass(sbm, head=head, graph=graph)))
    return table.assign(dead=table["share"] < threshold / sbm.num_clusters)


def _block_rows(sbm: SBM, head: int, graph: int, mass: np.ndarray) -> list[dict]:
    query, key = memberships(sbm, head, graph)
    columns = {
        "block": np.arange(sbm.num_clusters),
        "num_queries": np.bincount(query.argmax(axis=1), minlength=sbm.num_clusters),
        "num_keys": np.bincount(key.argmax(axis=1), minlength=sbm.num_clusters),
        "query_membership": query.sum(axis=0),
        "key_membership": key.sum(axis=0),
        "share": _normalize(mass.sum(axis=1) + mass.sum(axis=0)),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def block_assortativity(
    sampled: SampledGraph,
    sbm: SBM,
    head: int = 0,
    graph: int = 0,
    by: str = "membership",
) -> float:
    """Newman's assortativity of a head's edges by block, as
    :func:`networkx.attribute_assortativity_coefficient`: 1 where every edge stays inside a block, 0
    where blocks mix at random, negative where they avoid themselves, NaN where it is undefined (no
    edge, or all edges between one pair of blocks).

    Raises:
        ValueError: If the head or the graph does not exist, ``sampled`` does not fit ``sbm`` or
            ``by`` is unknown.
    """
    check_choice("by", by, ASSIGNMENTS)
    check_sampled(sampled)
    return assortativity(block_mass(sbm, sampled, head, graph, by))


def assortativity(mass: np.ndarray) -> float:
    """Newman's assortativity coefficient of a mixing matrix [K, K]; NaN where undefined."""
    total = mass.sum()
    if total == 0:
        return float("nan")
    mixing = mass / total
    chance = float(mixing.sum(axis=0) @ mixing.sum(axis=1))
    if np.isclose(chance, 1.0, rtol=0, atol=1e-12):
        return float("nan")
    return (float(np.trace(mixing)) - chance) / (1.0 - chance)


def _normalize(weights: np.ndarray) -> np.ndarray:
    """``weights`` divided by their sum over the last dimension; all 0 stays 0."""
    total = weights.sum(axis=-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
