from __future__ import annotations

import numpy as np
import pytest
import torch

from sbmgraph import SampledGraph, sample
from sbmgraph.analysis import biadjacency_matrix, factors


@pytest.mark.parametrize("model", ["batched", "bipartite"])
def test_biadjacency_matrix_equals_loops(model, request, dense):
    sbm = request.getfixturevalue(model)
    sampled = sample(sbm, generator=torch.Generator().manual_seed(0))
    value = torch.rand(sampled.num_edges)
    for graph in range(sampled.num_graphs):
        parts = []
        for head in range(sampled.heads):
            parts.append(dense(sampled, head, graph))
            np.testing.assert_array_equal(
                biadjacency_matrix(sampled, head, graph).toarray(), parts[-1]
            )
            np.testing.assert_allclose(
                biadjacency_matrix(sampled, head, graph, value).toarray(),
                dense(sampled, head, graph, value.tolist()),
            )
        union = biadjacency_matrix(sampled, None, graph)
        np.testing.assert_array_equal(union.toarray(), np.maximum.reduce(parts))
        weighted = biadjacency_matrix(sampled, None, graph, value)
        total = sum(dense(sampled, h, graph, value.tolist()) for h in range(sampled.heads))
        np.testing.assert_allclose(weighted.toarray(), total, rtol=1e-6)


def test_factors_cut_out_one_head_of_one_graph(bipartite):
    query, key, affinity = factors(bipartite, head=2, graph_index=1)
    np.testing.assert_array_equal(query, bipartite.query_membership[5:, 2].double())
    np.testing.assert_array_equal(key, bipartite.key_membership[11:, 2].double())
    np.testing.assert_array_equal(affinity, bipartite.affinity[2].double())
    assert query.dtype == np.float64


def test_factors_detach():
    from sbmgraph import SBM

    member = torch.rand(3, 1, 2, requires_grad=True)
    sbm = SBM(member, member, torch.full((1, 2, 2), 0.25))
    assert factors(sbm).query.shape == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": 2}, r"'head' must be an integer in \[0, 2\), got 2"),
        ({"head": -1}, "'head'"),
        ({"head": "0"}, "'head'"),
        ({"graph_index": 3}, r"'graph_index' must be an integer in \[0, 3\), got 3"),
        ({"weights": torch.ones(2)}, "'weights' must be a tensor with one entry"),
    ],
)
def test_bad_arguments(batched, arguments, message):
    sampled = sample(batched)
    with pytest.raises(ValueError, match=message):
        biadjacency_matrix(sampled, **arguments)
    if "weights" not in arguments:
        with pytest.raises(ValueError, match=message):
            factors(batched, **arguments)


def test_wrong_types(batched):
    with pytest.raises(ValueError, match="'graph' must be a SampledGraph"):
        biadjacency_matrix(batched)
    with pytest.raises(ValueError, match="'sbm' must be an SBM"):
        factors(sample(batched))


def test_empty_graph():
    sampled = SampledGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 0, 0)
    assert biadjacency_matrix(sampled).shape == (0, 0)
