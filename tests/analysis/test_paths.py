from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
import torch

from sbmgraph import SampledGraph, sample
from sbmgraph import analysis as sa
from sbmgraph.analysis import paths


def graph_of(edges, size, heads=1, head=None) -> SampledGraph:
    """Edges as (key, query) pairs."""
    index = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T
    return SampledGraph.from_edge_index(index, size, size, heads=heads, head=head)


def random_graph(size: int, density: float, seed: int) -> SampledGraph:
    generator = torch.Generator().manual_seed(seed)
    edges = (torch.rand(size, size, generator=generator) < density).nonzero()
    return graph_of(edges.tolist(), size)


def dense_reach(matrices, residual):
    """Reach by boolean matrix powers: row i marks what token i sees."""
    seen = np.eye(len(matrices[0]), dtype=bool)
    out = [seen.sum(axis=1)]
    for matrix in matrices:
        spread = (matrix.astype(int) @ seen.astype(int)) > 0
        seen = seen | spread if residual else spread
        out.append(seen.sum(axis=1))
    return np.stack(out)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("chunk", [4096, 7])
def test_reach_equals_matrix_powers(monkeypatch, residual, chunk):
    monkeypatch.setattr(paths, "CHUNK", chunk)
    layers = [random_graph(70, 0.03, seed) for seed in range(3)]
    matrices = [sa.biadjacency_matrix(layer).toarray() for layer in layers]
    np.testing.assert_array_equal(
        sa.reach(layers, residual=residual), dense_reach(matrices, residual)
    )
    cycled = sa.reach(layers[:2], num_layers=5, residual=residual)
    np.testing.assert_array_equal(
        cycled, dense_reach([matrices[layer % 2] for layer in range(5)], residual)
    )


def test_reach_equals_shortest_paths_of_networkx():
    layer = random_graph(40, 0.05, 0)
    reference = nx.DiGraph(layer.edges_of().T.tolist())
    reference.add_nodes_from(range(40))
    lengths = dict(nx.single_target_shortest_path_length(reference, 7, cutoff=3))
    counted = [sum(length <= hops for length in lengths.values()) for hops in range(4)]
    assert sa.reach([layer], num_layers=3)[:, 7].tolist() == counted


def test_reach_takes_the_union_of_heads_and_recorded_runs(runs):
    layers = [run.graph for run in runs]
    union = [sa.biadjacency_matrix(layer, None, 2).toarray() for layer in layers]
    np.testing.assert_array_equal(sa.reach(runs, graph_index=2), dense_reach(union, True))
    single = [sa.biadjacency_matrix(layer, 1, 2).toarray() for layer in layers]
    np.testing.assert_array_equal(sa.reach(runs, head=1, graph_index=2), dense_reach(single, True))


def test_direction_of_a_chain():
    chain = graph_of([(0, 1), (1, 2)], 3)
    assert sa.reach([chain], num_layers=2).tolist() == [[1, 1, 1], [1, 2, 2], [1, 2, 3]]


def test_universality_of_a_cycle_with_self_edges():
    size = 6
    cycle = graph_of(
        [(i, i) for i in range(size)] + [(i, (i + 1) % size) for i in range(size)], size
    )
    found = sa.check_universality([cycle])
    assert found.holds is True
    assert found == sa.Universality(True, 0, True, 0, True, size - 1)
    backwards = sa.check_universality([cycle], order=range(size)[::-1])
    assert not backwards.chain
    assert backwards.missing_links == size - 1


def test_layers_share_the_chain_but_not_the_self_edges():
    loops = [(i, i) for i in range(4)]
    first = graph_of([*loops, (0, 1), (2, 3)], 4)
    second = graph_of([*loops[:-1], (1, 2), (3, 0)], 4)
    found = sa.check_universality([first, second])
    assert found.chain
    assert (found.self_edges, found.missing_self_edges) == (False, 1)
    assert found.holds is False


def test_layers_to_all_is_none_beyond_the_limit():
    size = 10
    cycle = [(i, i) for i in range(size)] + [(i, (i + 1) % size) for i in range(size)]
    assert sa.check_universality([graph_of(cycle, size)], max_layers=8).layers_to_all is None
    assert sa.check_universality([graph_of(cycle, size)], max_layers=9).layers_to_all == 9


def has_hamiltonian_path(matrix: np.ndarray) -> bool:
    size = len(matrix)
    return any(
        all(matrix[b, a] for a, b in itertools.pairwise(order))
        for order in itertools.permutations(range(size))
    )


def test_hamiltonian_path_verdicts_equal_brute_force():
    """Over 300 random graphs of 5 tokens every verdict is right, and all three occur."""
    verdicts = set()
    for seed in range(300):
        layer = random_graph(5, 0.15 + 0.7 * seed / 300, seed)
        verdict = sa.check_universality([layer]).hamiltonian_path
        verdicts.add(verdict)
        if verdict is not None:
            truth = has_hamiltonian_path(sa.biadjacency_matrix(layer).toarray())
            assert verdict == truth, seed
    assert verdicts == {True, False, None}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, b: sa.reach([]), "'layers' must hold at least one"),
        (lambda g, b: sa.reach([b]), "as many queries as keys"),
        (lambda g, b: sa.reach([g, graph_of([], 4)]), "'layers' must have the same tokens"),
        (lambda g, b: sa.reach([g], num_layers=-1), "'num_layers'"),
        (lambda g, b: sa.reach([3]), "'graph' must be a SampledGraph"),
        (lambda g, b: sa.check_universality([g], order=[0, 0, 1]), "'order' must be a permutation"),
        (lambda g, b: sa.check_universality([g], max_layers=0), "'max_layers'"),
    ],
)
def test_bad_arguments(bipartite, call, message):
    with pytest.raises(ValueError, match=message):
        call(graph_of([(0, 1)], 3), sample(bipartite))


@pytest.mark.parametrize("call", [sa.reach, sa.check_universality])
@pytest.mark.parametrize("wrong", [None, 3, "x", {}, torch.tensor(1.0)])
def test_what_is_no_layer_is_named(call, wrong):
    with pytest.raises(ValueError, match="'layers' must be sampled graphs or recorded layer"):
        call(wrong)
    with pytest.raises(ValueError, match="must be a SampledGraph"):
        call([wrong])


def test_one_graph_is_one_layer(runs):
    graph = graph_of([(0, 1), (1, 2)], 3)
    assert sa.reach(graph).tolist() == sa.reach([graph]).tolist()
    assert sa.reach(runs[0]).tolist() == sa.reach(runs[:1]).tolist()


@pytest.mark.parametrize("size", [0, 1])
def test_tiny_graphs(size):
    layer = graph_of([(0, 0)] * size, size)
    assert sa.reach([layer]).shape == (2, size)
    assert sa.check_universality([layer]).chain
