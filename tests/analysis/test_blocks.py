from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
import torch

from sbmgraph import SBM, sample
from sbmgraph import analysis as sa
from tests.planted import PROB, SIZES, planted_sbm


def brute_force_mass(sbm, head, graph):
    """The expected mass of every block pair by loops over token pairs."""
    query, key, affinity = sa.factors(sbm, head, graph)
    blocks = range(sbm.num_clusters)
    return np.array(
        [
            [sum(y[u] * affinity[u, v] * z[v] for y in query for z in key) for v in blocks]
            for u in blocks
        ]
    )


def test_expected_mass_equals_brute_force(bipartite):
    for graph, head in np.ndindex(2, 3):
        mass = sa.block_mass(bipartite, head=head, graph_index=graph)
        np.testing.assert_allclose(mass, brute_force_mass(bipartite, head, graph))
        expected = float(bipartite.expected_edges()[graph, head])
        assert mass.sum() == pytest.approx(expected, rel=1e-5)


def test_posterior_mass_equals_brute_force(bipartite, dense):
    sampled = sample(bipartite, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(sampled.num_edges, dtype=torch.float64)
    query, key, affinity = sa.factors(bipartite, 1, 1)
    expected = np.zeros((4, 4))
    weighted = dense(sampled, 1, 1, weights.tolist())
    for i, j in np.argwhere(weighted):
        pair = query[i][:, None] * affinity * key[j]
        expected += weighted[i, j] * pair / pair.sum()
    mass = sa.block_mass(bipartite, sampled, 1, 1, weights=weights)
    np.testing.assert_allclose(mass, expected)
    plain = sa.block_mass(bipartite, sampled, 1, 1)
    assert plain.sum() == pytest.approx(dense(sampled, 1, 1).sum())


@pytest.mark.parametrize("exploration", [0.0, 0.2])
def test_posterior_mass_is_unbiased(exploration):
    """Each of 9 cells within 4.5 standard errors over 400 draws: family-wise error below 1e-4."""
    generator = torch.Generator().manual_seed(0)
    factors = [torch.rand(12, 1, 3, generator=generator) for _ in range(2)]
    sbm = SBM(*factors, torch.rand(1, 3, 3, generator=generator) / 5)
    draws = np.stack(
        [
            sa.block_mass(
                sbm,
                sample(sbm, exploration=exploration, generator=generator),
                exploration=exploration,
            )
            for _ in range(400)
        ]
    )
    error = (draws.mean(axis=0) - sa.block_mass(sbm)) / (draws.std(axis=0) / math.sqrt(400))
    assert np.abs(error).max() < 4.5


@pytest.mark.parametrize("by", ["membership", "edges"])
def test_hard_mass_equals_brute_force(batched, dense, by):
    sampled = sample(batched, generator=torch.Generator().manual_seed(0))
    query_block, key_block = sa.assign_blocks(batched, 1, 2, by)
    expected = np.zeros((4, 4))
    for i, j in np.argwhere(dense(sampled, 1, 2)):
        expected[query_block[i], key_block[j]] += 1
    np.testing.assert_array_equal(sa.block_mass(batched, sampled, 1, 2, by), expected)


def test_edge_shares_equal_brute_force(bipartite):
    query, key, affinity = sa.factors(bipartite, 0, 1)
    edges = np.einsum("iu,uv,jv->iujv", query, affinity, key)
    prob = edges.sum(axis=(1, 3))
    query_share, key_share = sa.edge_shares(bipartite, 0, 1)
    np.testing.assert_allclose(query_share, edges.sum((2, 3)) / prob.sum(1, keepdims=True))
    np.testing.assert_allclose(key_share, edges.sum((0, 1)) / prob.sum(0)[:, None])
    degree = sa.expected_degrees(bipartite, 0, 1)
    np.testing.assert_allclose(degree[0], prob.sum(1))
    np.testing.assert_allclose(degree[1], prob.sum(0))


def test_entropy_and_effective_number():
    weights = np.array([[1, 1, 1, 1], [5, 0, 0, 0], [0, 0, 0, 0], [3, 3, 0, 0]])
    np.testing.assert_allclose(sa.entropy(weights), [math.log(4), 0, 0, math.log(2)])
    np.testing.assert_allclose(sa.effective_number(weights), [4, 1, 0, 2])


def test_planted_order_recovers_the_blocks():
    sbm, blocks = planted_sbm()
    order = sa.block_order(sbm)
    np.testing.assert_array_equal(order.blocks, [0, 1, 2])
    np.testing.assert_array_equal(order.query_sizes, SIZES)
    np.testing.assert_array_equal(order.key_sizes, SIZES)
    for side in (order.query_order, order.key_order):
        np.testing.assert_array_equal(blocks[side], np.repeat([0, 1, 2], SIZES))


def test_order_sorts_by_size_then_block_then_degree():
    membership = torch.tensor([[0.9, 0.1], [0.2, 0.7], [0.1, 0.9], [0.3, 0.8]]).unsqueeze(1)
    sbm = SBM(membership, membership, torch.eye(2).unsqueeze(0))
    order = sa.block_order(sbm)
    np.testing.assert_array_equal(order.blocks, [1, 0])
    np.testing.assert_array_equal(order.query_order, [3, 2, 1, 0])
    np.testing.assert_array_equal(order.query_sizes, [3, 1])


def test_assignment_by_edges_ignores_blocks_without_affinity():
    membership = torch.tensor([[0.9, 0.5], [0.8, 0.3]]).unsqueeze(1)
    affinity = torch.tensor([[0.0, 0.0], [0.0, 1.0]]).unsqueeze(0)
    sbm = SBM(membership, membership, affinity)
    np.testing.assert_array_equal(sa.assign_blocks(sbm)[0], [0, 0])
    np.testing.assert_array_equal(sa.assign_blocks(sbm, by="edges")[0], [1, 1])
    np.testing.assert_array_equal(sa.dead_blocks(sbm), [0])
    assert sa.effective_blocks(sbm) == pytest.approx(1.0)


def test_planted_masses_and_graph():
    sbm, blocks = planted_sbm()
    sizes = np.array(SIZES)
    expected = sizes[:, None] * np.array(PROB) * sizes
    np.testing.assert_allclose(sa.block_mass(sbm), expected)

    graph = sa.block_graph(sbm)
    assert set(graph.edges) == {(v, u) for u, v in np.argwhere(expected)}
    assert graph.edges[0, 1]["weight"] == pytest.approx(24 * 16 * 0.3)
    assert graph.edges[1, 0]["weight"] == pytest.approx(24 * 16 * 0.05)
    assert graph.nodes[2] == pytest.approx(
        {
            "num_queries": 8,
            "num_keys": 8,
            "query_membership": 8.0,
            "key_membership": 8.0,
            "share": (expected[2].sum() + expected[:, 2].sum()) / 2 / expected.sum(),
        }
    )
    assert graph.graph["total"] == pytest.approx(expected.sum())

    sampled = sample(sbm, generator=torch.Generator().manual_seed(0))
    sampled_graph = sa.block_graph(sbm, sampled)
    counted = nx.DiGraph()
    for j, i in sampled.edges_of().T.tolist():
        pair = (int(blocks[j]), int(blocks[i]))
        weight = counted.edges[pair]["weight"] if counted.has_edge(*pair) else 0
        counted.add_edge(*pair, weight=weight + 1)
    for source, target, weight in counted.edges(data="weight"):
        assert sampled_graph.edges[source, target]["weight"] == pytest.approx(weight)
        prob = PROB[target][source]
        pairs = SIZES[source] * SIZES[target]
        assert abs(weight - prob * pairs) < 5 * math.sqrt(pairs * prob * (1 - prob))


def test_block_graph_leaves_out_small_shares():
    sbm, _ = planted_sbm()
    share = nx.get_edge_attributes(sa.block_graph(sbm), "share")
    assert sum(share.values()) == pytest.approx(1.0)
    pruned = sa.block_graph(sbm, min_share=0.1)
    assert set(pruned.edges) == {pair for pair, value in share.items() if value >= 0.1}
    assert 0 < pruned.number_of_edges() < len(share)


def test_block_table():
    sbm, _ = planted_sbm(sizes=(24, 16, 0))
    table = sa.block_table(sbm).set_index("block")
    assert table["num_queries"].tolist() == [24, 16, 0]
    assert table["dead"].tolist() == [False, False, True]
    assert table["share"].sum() == pytest.approx(1.0)


def test_assortativity_equals_networkx(batched):
    sampled = sample(batched, generator=torch.Generator().manual_seed(0))
    for graph in (0, 2):
        reference = nx.attribute_assortativity_coefficient(
            sa.to_networkx(sampled, batched, head=1, graph_index=graph), "block"
        )
        value = sa.block_assortativity(sampled, batched, head=1, graph_index=graph)
        assert value == pytest.approx(reference)


def test_assortativity_limits():
    assert sa.assortativity(np.diag([3.0, 5.0])) == pytest.approx(1.0)
    assert sa.assortativity(np.ones((2, 2))) == pytest.approx(0.0)
    assert sa.assortativity(np.array([[0.0, 2.0], [2.0, 0.0]])) == pytest.approx(-1.0)
    assert math.isnan(sa.assortativity(np.zeros((2, 2))))
    assert math.isnan(sa.assortativity(np.diag([3.0, 0.0])))


def test_graph_without_tokens_and_one_block(batched):
    assert sa.block_mass(batched, graph_index=1).sum() == 0
    assert sa.block_order(batched, graph_index=1).blocks.size == 0
    assert sa.effective_blocks(batched, graph_index=1) == 0
    one = SBM(torch.rand(5, 1, 1), torch.rand(5, 1, 1), torch.ones(1, 1, 1))
    assert sa.effective_blocks(one) == pytest.approx(1.0)
    assert sa.block_graph(one).number_of_nodes() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda sbm: sa.block_mass(sbm, assignment="soft"), "'assignment' must be one of"),
        (lambda sbm: sa.block_mass(sbm, weights=torch.ones(3)), "'weights' needs 'graph'"),
        (lambda sbm: sa.assign_blocks(sbm, by="degree"), "'by' must be one of"),
        (lambda sbm: sa.block_graph(sbm, min_share=2.0), "'min_share'"),
        (lambda sbm: sa.dead_blocks(sbm, threshold=-1.0), "'threshold'"),
        (lambda sbm: sa.block_mass(sbm, sample(planted_sbm()[0])), "'graph' must have"),
    ],
)
def test_bad_arguments(batched, call, message):
    with pytest.raises(ValueError, match=message):
        call(batched)


@pytest.mark.parametrize("by", ["membership", "edges"])
def test_block_graph_of_hard_blocks_is_networkxs_quotient_graph(batched, by):
    sampled = sample(batched, generator=torch.Generator().manual_seed(0))
    graph = sa.to_networkx(sampled, head=1, graph_index=2)
    queries, keys = sa.assign_blocks(batched, 1, 2, by)
    # Edges run from keys to queries, so the two sides of a block are parts of their own.
    parts = [{f"key_{j}" for j in np.flatnonzero(keys == b)} for b in range(4)]
    parts += [{f"query_{i}" for i in np.flatnonzero(queries == b)} for b in range(4)]
    used = [part for part in parts if part]
    number = {frozenset(part): i % 4 for i, part in enumerate(parts) if part}
    quotient = nx.quotient_graph(graph, used)
    truth = {
        (number[source], number[target]): data["weight"]
        for source, target, data in quotient.edges(data=True)
    }
    found = sa.block_graph(batched, sampled, 1, 2, by)
    assert {(u, v): w for u, v, w in found.edges(data="weight")} == truth
    assert found.graph["strength"] == sa.block_strength(batched)[2, 1]


@pytest.mark.parametrize("shape", [(5,), (3, 7), (0, 4), (2, 0)])
def test_entropy_of_any_shape(shape):
    weights = np.random.default_rng(0).random(shape)
    share = weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    truth = -np.sum(np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), 0), axis=-1)
    np.testing.assert_allclose(sa.entropy(weights), truth, atol=1e-14)
