from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch

from sbmgraph import analysis as sa
from sbmgraph import sample
from sbmgraph.ops import edge_prob

TOKENS = ["[MAX", '"', "a\\b", "<&>", "é", "2", "3", "4", "]"]


@pytest.fixture
def exported(batched):
    sampled = sample(batched, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(sampled.num_edges, dtype=torch.float64)
    graph = sa.to_networkx(sampled, batched, weights, head=1, graph_index=0, tokens=TOKENS)
    return batched, sampled, weights, graph


def test_networkx_attributes_equal_brute_force(exported, dense):
    sbm, sampled, weights, graph = exported
    query, key, affinity = sa.factors(sbm, 1, 0)
    prob, weighted = query @ affinity @ key.T, dense(sampled, 1, 0, weights.tolist())
    adjacency = dense(sampled, 1, 0)
    assert graph.number_of_edges() == adjacency.sum()
    for i, j in np.argwhere(adjacency):
        edge = graph.edges[f"key_{j}", f"query_{i}"]
        assert edge == pytest.approx({"weight": weighted[i, j], "prob": prob[i, j]})
    assert graph.nodes["query_3"] == {
        "kind": "query",
        "index": 3,
        "bipartite": 1,
        "token": "<&>",
        "block": int(query[3].argmax()),
    }
    assert nx.is_bipartite(graph)


@pytest.mark.parametrize("suffix", ["graphml", "gexf"])
def test_files_read_back(exported, tmp_path, suffix):
    graph = exported[-1]
    path = tmp_path / f"graph.{suffix}"
    sa.write_graph(path, graph)
    back = nx.read_graphml(path) if suffix == "graphml" else nx.read_gexf(path)
    assert isinstance(back, nx.DiGraph)
    assert set(back.edges) == set(graph.edges)
    for node, attributes in graph.nodes(data=True):
        kept = {name: back.nodes[node][name] for name in attributes}
        assert kept == attributes
    for *edge, attributes in graph.edges(data=True):
        kept = {name: back.edges[edge][name] for name in attributes}
        assert kept == pytest.approx(attributes)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_graphviz_reads_back(exported, tmp_path):
    pydot = pytest.importorskip("pydot")
    graph = exported[-1]
    sa.write_graph(tmp_path / "graph.dot", graph)
    (back,) = pydot.graph_from_dot_file(str(tmp_path / "graph.dot"), encoding="utf-8")

    def plain(text):
        return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")

    edges = {(plain(e.get_source()), plain(e.get_destination())): e for e in back.get_edges()}
    assert set(edges) == set(graph.edges)
    for pair, edge in edges.items():
        kept = {plain(k): float(plain(v)) for k, v in edge.get_attributes().items()}
        assert kept == graph.edges[pair]
    for node in back.get_nodes():
        kept = {plain(k): plain(v) for k, v in node.get_attributes().items()}
        assert kept == {k: str(v) for k, v in graph.nodes[plain(node.get_name())].items()}


def test_block_graph_can_be_written(batched, tmp_path):
    graph = sa.block_graph(batched)
    for suffix in ("graphml", "gexf", "gv"):
        sa.write_graph(tmp_path / f"blocks.{suffix}", graph)
    back = nx.read_graphml(tmp_path / "blocks.graphml", node_type=int)
    assert nx.utils.edges_equal(back.edges(data=True), graph.edges(data=True), directed=True)


def test_edge_list_equals_the_sampled_edges(batched):
    sampled = sample(batched, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(sampled.num_edges)
    table = sa.to_pandas_edgelist(sampled, batched, weights)
    assert len(table) == sampled.num_edges
    prob = edge_prob(batched, sampled)
    key, query = sampled.edge_index
    graph = batched.query_batch[query]
    rows = {
        (g, h, j, i): (w, p)
        for g, h, j, i, w, p in zip(
            graph.tolist(),
            sampled.head.tolist(),
            (key - sampled.key_ptr[graph]).tolist(),
            (query - sampled.query_ptr[graph]).tolist(),
            weights.tolist(),
            prob.tolist(),
            strict=True,
        )
    }
    for row in table.itertuples(index=False):
        assert rows[row.graph, row.head, row.key, row.query] == pytest.approx(
            (row.weight, row.prob), rel=1e-5
        )
    one = sa.to_pandas_edgelist(sampled, head=1, graph_index=2)
    np.testing.assert_array_equal(one[["key", "query"]].T, sampled.edges_of(1, 2))


def test_data_keeps_edges_and_attributes(batched):
    sampled = sample(batched, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(sampled.num_edges)
    data = sa.to_data(sampled, batched, weights, head=1, graph_index=2)
    assert data.validate()
    assert torch.equal(data.edge_index, sampled.edges_of(1, 2))
    assert data.num_nodes == 14
    i, j = data.edge_index[1] + 9, data.edge_index[0] + 9
    expected = (batched.rate[i, 1] * batched.key_membership[j, 1]).sum(-1)
    torch.testing.assert_close(data.edge_prob.float(), expected)
    torch.testing.assert_close(data.key_membership.float(), batched.key_membership[9:, 1])
    chosen = (sampled.head == 1) & (sampled.edge_index[1] >= 9)
    assert torch.equal(data.edge_weight, weights[chosen])


def test_hetero_data_keeps_every_head(bipartite):
    sampled = sample(bipartite, generator=torch.Generator().manual_seed(0))
    data = sa.to_hetero_data(sampled, bipartite, graph_index=1)
    assert data.validate()
    assert (data["query"].num_nodes, data["key"].num_nodes) == (7, 6)
    for head in range(3):
        store = data["key", f"head_{head}", "query"]
        assert torch.equal(store.edge_index, sampled.edges_of(head, 1))
        assert store.edge_prob.shape == store.edge_index[0].shape
    torch.testing.assert_close(data["query"].membership.float(), bipartite.query_membership[5:])


def test_bad_arguments(batched, bipartite, tmp_path):
    graph = sa.block_graph(batched)
    with pytest.raises(ValueError, match=r"'path' must be one of '\.graphml'"):
        sa.write_graph(tmp_path / "graph.png", graph)
    with pytest.raises(ValueError, match="'path' must lie in an existing folder"):
        sa.write_graph(tmp_path / "none" / "graph.dot", graph)
    with pytest.raises(ValueError, match="use to_hetero_data"):
        sa.to_data(sample(bipartite))
    with pytest.raises(ValueError, match="'tokens' must hold one token for each key, 9"):
        sa.to_networkx(sample(batched), tokens=["a"])
    with pytest.raises(ValueError, match="'graph_index' must be an integer"):
        sa.to_pandas_edgelist(sample(batched), graph_index=7)


def test_a_failed_write_leaves_nothing(tmp_path):
    graph = nx.DiGraph()
    graph.add_node("a", value=object())
    with pytest.raises(TypeError):
        sa.write_graph(tmp_path / "graph.gexf", graph)
    assert list(tmp_path.iterdir()) == []


def test_the_graph_knows_the_heads_density(bipartite):
    """:func:`networkx.density` counts pairs of two queries too."""
    sampled = sample(bipartite, generator=torch.Generator().manual_seed(0))
    for graph_index, head in np.ndindex(2, 3):
        graph = sa.to_networkx(sampled, bipartite, head=head, graph_index=graph_index)
        assert graph.graph["density"] == pytest.approx(float(sampled.density()[graph_index, head]))
        keys = [node for node, side in graph.nodes(data="bipartite") if side == 0]
        undirected = nx.Graph(graph)
        assert graph.graph["density"] == pytest.approx(nx.bipartite.density(undirected, keys))
        assert graph.graph["density"] != pytest.approx(nx.density(graph))
        expected = float(bipartite.expected_density()[graph_index, head])
        assert graph.graph["expected_density"] == pytest.approx(expected)
        strength = sa.block_strength(bipartite)[graph_index, head]
        assert graph.graph["block_strength"] == strength


def test_hetero_data_of_the_whole_batch(bipartite):
    sampled = sample(bipartite, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(sampled.num_edges)
    data = sa.to_hetero_data(sampled, bipartite, weights, graph_index=None)
    assert data.validate()
    assert torch.equal(data["query"].batch, bipartite.query_batch)
    assert torch.equal(data["key"].batch, bipartite.key_batch)
    torch.testing.assert_close(data["key"].membership.float(), bipartite.key_membership)
    for head in range(3):
        store = data["key", f"head_{head}", "query"]
        assert torch.equal(store.edge_index, sampled.edge_index[:, sampled.head == head])
        assert torch.equal(store.edge_weight, weights[sampled.head == head])


def test_a_full_disk_is_named_and_keeps_the_file(batched, tmp_path, monkeypatch):
    path = tmp_path / "graph.gexf"
    sa.write_graph(path, sa.block_graph(batched))
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sbmgraph.files.os.replace", full)
    with pytest.raises(ValueError, match="No space left"):
        sa.write_graph(path, sa.block_graph(batched))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
