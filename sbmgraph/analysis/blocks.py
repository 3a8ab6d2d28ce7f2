"""Blocks: who belongs to them, and the order of tokens that shows them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.select import as_weights, factors
from sbmgraph.checks import check_choice
from sbmgraph.sbm import SBM

ASSIGNMENTS = ("membership", "edges")
SIDES = ("query", "key")


@accepts_old_names
def memberships(sbm: SBM, head: int = 0, graph_index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""Query and key memberships :math:`\mathbf{Y}` [n, K] and :math:`\mathbf{Z}` [m, K] of one
    head on one graph.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    query, key, _ = factors(sbm, head, graph_index)
    return query, key


@accepts_old_names
def edge_shares(sbm: SBM, head: int = 0, graph_index: int = 0) -> tuple[np.ndarray, np.ndarray]:
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
    model = factors(sbm, head, graph_index)
    query = model.query * (model.affinity @ model.key.sum(axis=0))
    key = model.key * (model.query.sum(axis=0) @ model.affinity)
    return normalize(query), normalize(key)


def entropy(weights: Any) -> np.ndarray:
    """Shannon entropy in nats of weights [..., K], normalised over the last dimension; 0 where all
    weights are 0.

    Raises:
        ValueError: If a weight is negative, not finite or not a real number.
    """
    from scipy import stats

    share = normalize(as_weights("weights", weights, least=1))
    # SciPy's entropy divides by the sum, which is 0 for a row without weight.
    empty = share.sum(axis=-1, keepdims=True) == 0
    return stats.entropy(np.where(empty, 1.0, share), axis=-1) * ~empty[..., 0]


def effective_number(weights: Any) -> np.ndarray:
    """The number of equal parts with the same entropy, :math:`e^{H}`, of weights [..., K]: K where
    all are equal, 1 where one has everything, 0 where all are 0.

    Raises:
        ValueError: If a weight is negative, not finite or not a real number.
    """
    weights = as_weights("weights", weights, least=1)
    return np.where(weights.sum(axis=-1) > 0, np.exp(entropy(weights)), 0.0)


@accepts_old_names
def membership_entropy(
    sbm: SBM, head: int = 0, graph_index: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The entropy in nats of each query's [n] and each key's [m] memberships over the blocks; at
    most log K, 0 for a token of one block.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    query, key = memberships(sbm, head, graph_index)
    return entropy(query), entropy(key)


@accepts_old_names
def assign_blocks(
    sbm: SBM, head: int = 0, graph_index: int = 0, by: str = "membership"
) -> tuple[np.ndarray, np.ndarray]:
    """The strongest block of each query [n] and each key [m].

    Args:
        sbm (SBM): The block models.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        by (str, optional): :obj:`"membership"` takes the largest membership, :obj:`"edges"` the
            block that most of the token's expected edges come from (see :func:`edge_shares`).
            (default: :obj:`"membership"`)

    Raises:
        ValueError: If the head or the graph does not exist or ``by`` is unknown.
    """
    check_choice("by", by, ASSIGNMENTS)
    weigh = memberships if by == "membership" else edge_shares
    query, key = weigh(sbm, head, graph_index)
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


@accepts_old_names
def block_order(
    sbm: SBM, head: int = 0, graph_index: int = 0, by: str = "membership"
) -> BlockOrder:
    """Sorts queries and keys by block: blocks with more tokens first (then by number), inside a
    block tokens with more expected edges first (then by number).

    Both sides list the blocks in the same order, so that a block's queries face its keys.

    Args:
        sbm (SBM): The block models.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        by (str, optional): How tokens get their block, see :func:`assign_blocks`.
            (default: :obj:`"membership"`)

    Raises:
        ValueError: If the head or the graph does not exist or ``by`` is unknown.
    """
    query_block, key_block = assign_blocks(sbm, head, graph_index, by)
    num_blocks = sbm.num_clusters
    query_sizes = np.bincount(query_block, minlength=num_blocks)
    key_sizes = np.bincount(key_block, minlength=num_blocks)
    size = query_sizes + key_sizes
    blocks = np.argsort(-size, kind="stable")
    rank = np.argsort(blocks)
    query_degree, key_degree = expected_degrees(sbm, head, graph_index)
    used = blocks[size[blocks] > 0]
    return BlockOrder(
        used,
        np.lexsort((-query_degree, rank[query_block])),
        np.lexsort((-key_degree, rank[key_block])),
        query_sizes[used],
        key_sizes[used],
    )


@accepts_old_names
def expected_degrees(
    sbm: SBM, head: int = 0, graph_index: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    r"""The expected number of edges of each query, :math:`\sum_j p_{ij}` [n], and of each key,
    :math:`\sum_i p_{ij}` [m], in :math:`\mathcal{O}((n + m) K + K^2)`.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    model = factors(sbm, head, graph_index)
    query = model.query @ (model.affinity @ model.key.sum(axis=0))
    key = model.key @ (model.query.sum(axis=0) @ model.affinity)
    return query, key


def normalize(weights: np.ndarray) -> np.ndarray:
    """``weights`` divided by their sum over the last dimension; all 0 stays 0."""
    total = weights.sum(axis=-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
