"""What the page shows of one head on one input, as arrays and facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sbmgraph.analysis import (
    BlockOrder,
    biadjacency_matrix,
    block_mass,
    block_order,
    block_strength,
    dead_blocks,
    effective_blocks,
    expected_matrix,
    membership_margin,
    memberships,
    sampled_matrix,
)
from sbmgraph.analysis.matrix import bin_edges, bin_means
from sbmgraph.analysis.strength import strength_sentence
from sbmgraph.record import LayerSample

if TYPE_CHECKING:
    from scipy.sparse import csr_array

EXPECTED_CELLS = 192
MEMBERSHIP_CELLS = 256
THUMBNAIL_CELLS = 40
TOP_BLOCKS = 12
MEMBERSHIP_BLOCKS = 32
NEIGHBOUR_ENTRIES = 16_384


@dataclass
class View:
    """What the page shows of one head on one input; arrays are packed, the rest is JSON."""

    info: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def head_view(
    run: LayerSample, head: int, graph_index: int = 0, weights: Tensor | None = None
) -> View:
    """Everything the page shows of one head on one graph, but for its sampled adjacency.

    Args:
        run (LayerSample): A recorded layer call.
        head (int): The head.
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        weights (Tensor, optional): Attention weight of every edge, of shape :obj:`[E]`; ranks the
            neighbours. (default: all the same)

    Raises:
        ValueError: If the head or the graph does not exist, or ``weights`` does not fit.
    """
    sbm, graph = run.sbm, run.graph
    order = block_order(sbm, head, graph_index, by="edges")
    edges = biadjacency_matrix(graph, head, graph_index)
    weighted = edges if weights is None else biadjacency_matrix(graph, head, graph_index, weights)
    num_queries, num_keys = edges.shape
    expected = expected_matrix(
        sbm, head, graph_index, order.query_order, order.key_order, EXPECTED_CELLS, run.exploration
    ).values
    scale = float(expected.max(initial=0.0))
    thumbnail = sampled_matrix(
        graph, head, graph_index, order.query_order, order.key_order, THUMBNAIL_CELLS
    ).values
    mass = block_mass(sbm, head=head, graph_index=graph_index)
    sampled_mass = block_mass(sbm, graph, head, graph_index, exploration=run.exploration)
    share = mass.sum(axis=0) + mass.sum(axis=1)
    strongest = np.argsort(-share, kind="stable")
    top, shown = strongest[:TOP_BLOCKS], strongest[:MEMBERSHIP_BLOCKS]
    query, key = memberships(sbm, head, graph_index)
    degree = np.diff(edges.indptr)
    neighbour, relative, largest = _strongest_neighbours(weighted)
    received = np.bincount(weighted.indices, weighted.data, minlength=num_keys)
    pairs = max(num_queries * num_keys, 1)
    expected_edges = float(mass.sum()) + run.exploration * num_queries * num_keys
    square = num_queries == num_keys
    strength = float(block_strength(sbm)[graph_index, head])
    margins = np.concatenate(membership_margin(sbm, head, graph_index))
    info = {
        "queries": num_queries,
        "keys": num_keys,
        "clusters": sbm.num_clusters,
        "edges": int(edges.nnz),
        "expected": expected_edges / pairs,
        "sampled": edges.nnz / pairs,
        "strength": strength,
        "sentence": strength_sentence(strength, margins),
        "effectiveBlocks": effective_blocks(sbm, head, graph_index),
        "deadBlocks": int(dead_blocks(sbm, head, graph_index).size),
        "selfEdges": float((edges.diagonal() > 0).mean()) if square and num_queries else None,
        "isolated": int((degree == 0).sum()),
        "order": _order_info(order),
        "thumbnail": list(thumbnail.shape),
        "scale": scale,
        "attention": weights is not None,
        "blocks": {
            "top": top.tolist(),
            "share": _shares(share)[top].tolist(),
            "expected": _shares(mass)[np.ix_(top, top)].round(6).tolist(),
            "sampled": _shares(sampled_mass)[np.ix_(top, top)].round(6).tolist(),
            "membership": shown.tolist(),
        },
    }
    arrays = {
        "queryOrder": order.query_order.astype(_index_type(num_queries)),
        "keyOrder": order.key_order.astype(_index_type(num_keys)),
        "expected": _to_bytes(expected / scale if scale > 0 else expected),
        "query": _membership_cells(query, shown),
        "key": _membership_cells(key, shown),
        "degree": degree.astype(_index_type(num_keys + 1)),
        "neighbour": neighbour.astype(_index_type(num_keys)),
        "weight": relative,
        "received": _to_bytes(received / max(received.max(initial=0.0), 1e-12)),
        "largest": largest.astype(np.float32),
        "thumbnail": _to_bytes(thumbnail / max(thumbnail.max(initial=0.0), 1e-12)),
    }
    return View(info, arrays)


def _order_info(order: BlockOrder) -> dict[str, list[int]]:
    return {
        "blocks": order.blocks.tolist(),
        "querySizes": order.query_sizes.tolist(),
        "keySizes": order.key_sizes.tolist(),
    }


def _shares(mass: np.ndarray) -> np.ndarray:
    total = mass.sum()
    return mass / total if total > 0 else np.zeros_like(mass)


def _membership_cells(membership: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Memberships in ``blocks``, mean over bins of consecutive tokens, as bytes."""
    edges = bin_edges(len(membership), MEMBERSHIP_CELLS)
    return _to_bytes(bin_means(membership[:, blocks], "order", None, edges))


def _index_type(size: int) -> type[np.unsignedinteger]:
    """The smallest type for indices below ``size``."""
    return np.uint16 if size <= 1 << 16 else np.uint32


def _to_bytes(fraction: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1] as bytes."""
    return np.clip(np.rint(fraction * 255), 0, 255).astype(np.uint8)


def _strongest_neighbours(weighted: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The keys of largest weight of each query, strongest first.

    Returns:
        Keys of shape :obj:`[n, T]`; their weights relative to the query's largest, as bytes
        (0 where a query has fewer edges); and the largest weights, of shape :obj:`[n]`.
    """
    num_queries = weighted.shape[0]
    degree = np.diff(weighted.indptr)
    kept = min(int(degree.max(initial=0)), max(8, NEIGHBOUR_ENTRIES // max(num_queries, 1)))
    key = np.zeros((num_queries, kept), dtype=np.int64)
    weight = np.zeros((num_queries, kept), dtype=np.float32)
    for first in range(0, num_queries, 1024):
        rows = slice(first, min(first + 1024, num_queries))
        key[rows], weight[rows] = _largest_entries(weighted[rows], kept)
    largest = weight[:, 0] if kept else np.zeros(num_queries)
    relative = _to_bytes(weight / np.where(largest > 0, largest, 1.0)[:, None])
    present = np.arange(kept) < degree[:, None]
    return key, np.where(present, np.maximum(relative, 1), 0).astype(np.uint8), largest


def _largest_entries(matrix: csr_array, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the ``kept`` largest entries of each row, largest first."""
    degree = np.diff(matrix.indptr)
    width = max(int(degree.max(initial=0)), kept)
    row = np.repeat(np.arange(degree.size), degree)
    place = np.arange(row.size) - np.repeat(matrix.indptr[:-1], degree)
    value = torch.full((degree.size, width), -torch.inf)
    value[row, place] = torch.from_numpy(matrix.data.astype(np.float32))
    column = np.zeros((degree.size, width), dtype=np.int64)
    column[row, place] = matrix.indices
    top, where = value.topk(kept, dim=1)
    return np.take_along_axis(column, where.numpy(), axis=1), top.clamp(min=0).numpy()


def sample_cells(run: LayerSample, head: int, graph_index: int) -> Callable[[int], View]:
    """The sorted sampled adjacency at any resolution: exact bits, or counts in bins."""
    order = block_order(run.sbm, head, graph_index, by="edges")

    def cells(resolution: int) -> View:
        matrix = sampled_matrix(
            run.graph, head, graph_index, order.query_order, order.key_order, resolution
        )
        info = {"cells": list(matrix.values.shape)}
        if not matrix.binned:
            return View(info, {"sample": np.packbits(matrix.values > 0, axis=1)})
        area = np.outer(np.diff(matrix.query_edges), np.diff(matrix.key_edges))
        counts = np.rint(matrix.values * area)
        dtype = np.uint8 if area.max() < 1 << 8 else np.uint32
        return View(info, {"sample": counts.astype(dtype)})

    return cells
