from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from sbmgraph import analysis as sa
from sbmgraph import sample
from tests.planted import PROB, planted_sbm


def binned(matrix: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    return np.array(
        [[matrix[a:b, c:d].mean() for c, d in pairwise(cols)] for a, b in pairwise(rows)]
    )


@pytest.mark.parametrize("max_size", [3, 5, 100])
def test_matrices_equal_dense_binning(bipartite, dense, max_size):
    sampled = sample(bipartite, generator=torch.Generator().manual_seed(0))
    order = np.random.default_rng(0).permutation(7), np.random.default_rng(1).permutation(6)
    image = sa.sampled_matrix(sampled, 1, 1, *order, max_size=max_size)
    full = dense(sampled, 1, 1)[order[0]][:, order[1]]
    np.testing.assert_allclose(image.values, binned(full, image.query_edges, image.key_edges))
    assert image.binned == (max_size < 7)
    query, key, affinity = sa.factors(bipartite, 1, 1)
    prob = (query @ affinity @ key.T + 0.05)[order[0]][:, order[1]]
    expected = sa.expected_matrix(bipartite, 1, 1, *order, max_size, exploration=0.05)
    np.testing.assert_allclose(
        expected.values, binned(prob, expected.query_edges, expected.key_edges)
    )


def test_planted_blocks_appear_as_constant_rectangles():
    sbm, _ = planted_sbm()
    order = sa.block_order(sbm)
    image = sa.expected_matrix(sbm, 0, 0, order.query_order, order.key_order)
    stops = np.cumsum(order.query_sizes)
    starts = stops - order.query_sizes
    for u, v in np.ndindex(3, 3):
        part = image.values[starts[u] : stops[u], starts[v] : stops[v]]
        np.testing.assert_allclose(part, PROB[u][v])


def test_empty_graph(batched):
    assert sa.sampled_matrix(sample(batched), graph_index=1).values.shape == (0, 0)
    assert sa.expected_matrix(batched, graph_index=1).values.shape == (0, 0)


def test_bad_arguments(batched):
    sampled = sample(batched)
    with pytest.raises(ValueError, match="'query_order' must be a permutation of 9 tokens"):
        sa.sampled_matrix(sampled, query_order=np.zeros(9, dtype=int))
    with pytest.raises(ValueError, match="'key_order' must be a permutation"):
        sa.expected_matrix(batched, key_order=np.arange(3))
    with pytest.raises(ValueError, match="'max_size'"):
        sa.sampled_matrix(sampled, max_size=0)
