from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
import torch

from sbmgraph import SBM, SampledGraph, sample
from sbmgraph import analysis as sa
from sbmgraph.ops import edge_attention


def tied_networkx(matrix: np.ndarray) -> nx.DiGraph:
    """Tokens as nodes, an edge from key to query."""
    out = nx.DiGraph()
    out.add_nodes_from(range(len(matrix)))
    out.add_edges_from((int(j), int(i)) for i, j in np.argwhere(matrix))
    return out


@pytest.fixture
def sparse() -> SampledGraph:
    """Two heads on two graphs of 30 and 20 tokens, sparse enough to fall apart."""
    generator = torch.Generator().manual_seed(5)
    batch = torch.tensor([0] * 30 + [1] * 20)
    member = torch.rand(50, 2, 3, generator=generator)
    return sample(
        SBM(member, member, torch.full((2, 3, 3), 0.01), batch, batch), generator=generator
    )


def test_degrees_equal_networkx(bipartite):
    sampled = sample(bipartite, generator=torch.Generator().manual_seed(0))
    for graph, head in np.ndindex(2, 3):
        reference = sa.to_networkx(sampled, head=head, graph_index=graph)
        query, key = sa.degrees(sampled, head, graph)
        assert query.tolist() == [reference.in_degree(f"query_{i}") for i in range(len(query))]
        assert key.tolist() == [reference.out_degree(f"key_{j}") for j in range(len(key))]
    values, counts = sa.degree_distribution(np.array([3, 0, 3, 1]))
    assert (values.tolist(), counts.tolist()) == ([0, 1, 3], [1, 1, 2])


def test_reciprocity_and_components_equal_networkx(sparse, dense):
    for graph, head in np.ndindex(2, 2):
        reference = tied_networkx(dense(sparse, head, graph))
        weak = sa.connected_components(sparse, head, graph)
        strong = sa.connected_components(sparse, head, graph, connection="strong")
        for label, components in (
            (weak, nx.weakly_connected_components(reference)),
            (strong, nx.strongly_connected_components(reference)),
        ):
            mine = {frozenset(np.flatnonzero(label == c).tolist()) for c in set(label.tolist())}
            assert mine == {frozenset(component) for component in components}
            assert (np.diff(np.bincount(label)) <= 0).all()
        loops = list(nx.selfloop_edges(reference))
        assert sa.self_edges(sparse, head, graph).sum() == len(loops)
        reference.remove_edges_from(loops)
        assert sa.reciprocity(sparse, head, graph) == pytest.approx(
            nx.overall_reciprocity(reference)
        )


def test_bipartite_components_equal_networkx(bipartite):
    sampled = SampledGraph.from_edge_index(torch.tensor([[0, 1, 4], [0, 0, 2]]), 3, 5)
    label = sa.connected_components(sampled)
    reference = nx.weakly_connected_components(sa.to_networkx(sampled))
    names = [f"key_{j}" for j in range(5)] + [f"query_{i}" for i in range(3)]
    mine = {frozenset(n for n, c in zip(names, label, strict=True) if c == k) for k in set(label)}
    assert mine == {frozenset(component) for component in reference}
    assert label[0] == 0


def test_neighbours_equal_dense(bipartite, dense):
    sampled = sample(bipartite, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(sampled.num_edges, dtype=torch.float64)
    for graph, head in np.ndindex(2, 3):
        adjacency = dense(sampled, head, graph)
        weighted = dense(sampled, head, graph, weights.tolist())
        for i, row in enumerate(adjacency):
            np.testing.assert_array_equal(
                sa.neighbours(sampled, i, head, graph), np.flatnonzero(row)
            )
            keys, weight = sa.neighbour_weights(sampled, weights, i, head, graph)
            np.testing.assert_array_equal(weight, weighted[i, keys])
        for j, column in enumerate(adjacency.T):
            queries, weight = sa.neighbour_weights(sampled, weights, j, head, graph, side="key")
            np.testing.assert_array_equal(queries, np.flatnonzero(column))
            np.testing.assert_array_equal(weight, weighted[queries, j])


def test_attention_mass_of_real_attention(batched):
    sampled = sample(batched, generator=torch.Generator().manual_seed(0))
    query, key, value = (torch.randn(23, 2, 5, dtype=torch.float64) for _ in range(3))
    _, alpha = edge_attention(query, key, value, sampled, return_weights=True)
    weight = sa.biadjacency_matrix(sampled, 1, 2, alpha).toarray()
    mass = sa.attention_mass(sampled, alpha, 1, 2)
    np.testing.assert_allclose(mass.received, weight.sum(axis=0))
    np.testing.assert_allclose(mass.effective_keys, sa.effective_number(weight))
    np.testing.assert_allclose(mass.largest, weight.max(axis=1))
    attending = np.count_nonzero(weight.any(axis=1))
    assert mass.received.sum() == pytest.approx(attending)
    block = sa.block_mass(batched, sampled, 1, 2, weights=alpha)
    assert block.sum() == pytest.approx(attending)


def test_attention_mass_of_a_query_without_edges():
    sampled = SampledGraph.from_edge_index(torch.tensor([[0, 1], [1, 1]]), 2, 2)
    mass = sa.attention_mass(sampled, torch.tensor([0.5, 0.5]))
    np.testing.assert_allclose(mass.effective_keys, [0, 2])
    np.testing.assert_allclose(mass.largest, [0, 0.5])


def test_graph_statistics_equal_the_single_functions(batched):
    sampled = sample(batched, generator=torch.Generator().manual_seed(0))
    table = sa.graph_statistics(sampled, batched).set_index(["graph", "head"])
    assert len(table) == 6
    row = table.loc[2, 1]
    query, key = sa.degrees(sampled, 1, 2)
    assert row["num_edges"] == query.sum()
    assert row["density"] == pytest.approx(float(sampled.density()[2, 1]))
    assert row["query_degree_std"] == pytest.approx(query.std())
    assert row["key_degree_max"] == key.max()
    assert row["isolated_keys"] == (key == 0).sum()
    assert row["reciprocity"] == pytest.approx(sa.reciprocity(sampled, 1, 2))
    assert row["block_assortativity"] == pytest.approx(
        sa.block_assortativity(sampled, batched, 1, 2)
    )
    assert row["self_edges"] == pytest.approx(sa.self_edges(sampled, 1, 2).mean())
    assert table.loc[1, 0]["num_edges"] == 0
    assert math.isnan(table.loc[1, 0]["largest_component"])


def test_statistics_of_bipartite_graphs_leave_out_what_needs_a_square(bipartite):
    table = sa.graph_statistics(sample(bipartite))
    assert table["reciprocity"].isna().all()
    assert table["self_edges"].isna().all()
    assert table["components"].min() >= 1


def test_reciprocity_without_edges_is_nan():
    loops = SampledGraph.from_edge_index(torch.tensor([[0, 1], [0, 1]]), 3, 3)
    assert math.isnan(sa.reciprocity(loops))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: sa.reciprocity(g), "as many queries as keys, got 5 queries and 11 keys"),
        (lambda g: sa.connected_components(g, tied=True), "as many queries as keys"),
        (lambda g: sa.connected_components(g, connection="loose"), "'connection' must be one of"),
        (lambda g: sa.neighbours(g, 5), r"'node' must be an integer in \[0, 5\), got 5"),
        (lambda g: sa.neighbours(g, 11, side="key"), "'node'"),
        (lambda g: sa.neighbours(g, 0, side="left"), "'side' must be one of"),
        (
            lambda g: sa.neighbour_weights(g, torch.ones(1), 0),
            "'weights' must be a tensor with one entry",
        ),
        (lambda g: sa.degrees(g, head=9), "'head'"),
    ],
)
def test_bad_arguments(bipartite, call, message):
    with pytest.raises(ValueError, match=message):
        call(sample(bipartite))
