"""SampledGraph: construction, order, conversions, bad input."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

from sbmgraph import SampledGraph, sample
from tests.dense import dense_mask, dense_prob, random_sbm


def sampled(seed: int = 0) -> SampledGraph:
    generator = torch.Generator().manual_seed(seed)
    return sample(random_sbm(), exploration=0.2, generator=generator)


def test_sorted_distinct_and_key_to_query() -> None:
    edges = torch.tensor([[4, 0, 4, 1], [0, 2, 0, 0]])
    graph = SampledGraph.from_edge_index(edges, num_queries=3, num_keys=5)
    assert graph.edge_index.tolist() == [[1, 4, 0], [0, 0, 2]]
    assert graph.rowptr.tolist() == [0, 2, 2, 3]
    assert graph.head.tolist() == [0, 0, 0]
    assert (graph.num_queries, graph.num_keys, graph.num_edges) == (3, 5, 3)


def test_without_head_every_head_gets_every_edge() -> None:
    graph = SampledGraph.from_edge_index(torch.tensor([[1, 0], [0, 1]]), 2, 2, heads=3)
    mask = dense_mask(graph)
    assert mask.sum() == 6
    assert mask[0, :, 1].all()
    assert mask[1, :, 0].all()


def test_heads_of_their_own() -> None:
    edges, head = torch.tensor([[1, 0, 1], [0, 1, 0]]), torch.tensor([1, 0, 0])
    graph = SampledGraph.from_edge_index(edges, heads=2, head=head)
    assert graph.edge_index.tolist() == [[1, 1, 0], [0, 0, 1]]
    assert graph.head.tolist() == [0, 1, 0]


def test_round_trip_through_edge_index() -> None:
    graph = sampled()
    again = SampledGraph.from_edge_index(
        graph.edge_index.flip(1),
        graph.num_queries,
        graph.num_keys,
        graph.heads,
        graph.head.flip(0),
        graph.query_batch,
        graph.key_batch,
    )
    assert torch.equal(again.rowptr, graph.rowptr)
    assert torch.equal(again.col, graph.col)


def test_density_counts_pairs_within_graphs() -> None:
    graph = sampled()
    mask = dense_mask(graph)
    same = graph.query_batch[:, None] == graph.key_batch
    for g in range(graph.num_graphs):
        pairs = (same & (graph.query_batch[:, None] == g)).sum()
        edges = mask[graph.query_batch == g].sum(dim=(0, 2))
        torch.testing.assert_close(graph.density()[g], edges / pairs.double())


def test_csc_is_the_transpose() -> None:
    graph = sampled()
    colptr, row, perm = graph.csc()
    mask = dense_mask(graph)
    transposed = torch.zeros_like(mask)
    for vertex in range(graph.num_keys * graph.heads):
        rows = row[colptr[vertex] : colptr[vertex + 1]].long()
        assert rows.tolist() == sorted(rows.tolist())
        transposed[rows, vertex % graph.heads, vertex // graph.heads] = True
    assert torch.equal(transposed, mask)
    assert torch.equal(
        graph.col[perm].long(), torch.repeat_interleave(colptr.diff()) // graph.heads
    )
    assert torch.equal(graph.edge_index[1][perm], row.long())


def test_union_and_origins() -> None:
    first, second = sampled(0), sampled(1)
    union, in_first, in_second = first.union(second)
    assert torch.equal(dense_mask(union), dense_mask(first) | dense_mask(second))
    for graph, origin in ((first, in_first), (second, in_second)):
        present = origin >= 0
        assert int(present.sum()) == graph.num_edges
        assert torch.equal(union.col[present], graph.col[origin[present]])
        assert torch.equal(union.row[present], graph.row[origin[present]])
    with pytest.raises(ValueError, match="'other' must have"):
        first.union(SampledGraph.from_edge_index(torch.tensor([[0], [0]])))


def test_edges_of_one_head_on_one_graph() -> None:
    graph = sampled()
    mask = dense_mask(graph)
    for g in range(graph.num_graphs):
        queries, keys = graph.query_batch == g, graph.key_batch == g
        for h in range(graph.heads):
            expected = mask[queries, h][:, keys].nonzero().flip(1).T
            assert torch.equal(graph.edges_of(h, g), expected)
    for head, number, name in ((2, 0, "head"), (-1, 0, "head"), (0, 9, "graph_index")):
        with pytest.raises(ValueError, match=f"'{name}' must be an integer in"):
            graph.edges_of(head, number)


def test_to_networkx() -> None:
    sbm, graph = random_sbm(), sampled()
    with pytest.warns(DeprecationWarning, match="analysis.to_networkx"):
        out = graph.to_networkx(head=1, graph=1, sbm=sbm)
    assert isinstance(out, nx.DiGraph)
    keys, queries = int((sbm.key_batch == 1).sum()), int((sbm.query_batch == 1).sum())
    assert [d["bipartite"] for _, d in out.nodes(data=True)] == [0] * keys + [1] * queries
    key, query = graph.edges_of(1, 1).tolist()
    expected = {(f"key_{j}", f"query_{i}") for j, i in zip(key, query, strict=True)}
    assert set(out.edges) == expected
    prob = dense_prob(sbm)[sbm.query_batch == 1][:, 1][:, sbm.key_batch == 1]
    for source, target, data in out.edges(data=True):
        j, i = int(source.removeprefix("key_")), int(target.removeprefix("query_"))
        assert data["prob"] == pytest.approx(prob[i, j].item())
    block = sbm.query_membership[sbm.query_batch == 1][0, 1].argmax().item()
    assert out.nodes["query_0"]["block"] == block


def test_to_hetero_data() -> None:
    graph = sampled()
    with pytest.warns(DeprecationWarning, match="analysis.to_hetero_data"):
        data = graph.to_hetero_data()
    assert data["key"].num_nodes == graph.num_keys
    assert data["query"].num_nodes == graph.num_queries
    mask = torch.zeros_like(dense_mask(graph))
    for h in range(graph.heads):
        key, query = data["key", f"head_{h}", "query"].edge_index
        mask[query, h, key] = True
    assert torch.equal(mask, dense_mask(graph))
    data.validate()


def test_repr() -> None:
    graph = SampledGraph.from_edge_index(torch.tensor([[1], [0]]), 2, 2)
    assert str(graph) == (
        "SampledGraph(num_edges=1, num_queries=2, num_keys=2, heads=1, num_graphs=1)"
    )


def test_huge_node_numbers_are_right_or_refused() -> None:
    with pytest.raises(ValueError, match="'num_keys' must be at most"):
        SampledGraph.from_edge_index(torch.tensor([[0], [0]]), 1, 2**31)
    far = 2**31 - 2
    graph = SampledGraph.from_edge_index(torch.tensor([[far], [0]]), 2, 2**31 - 1, heads=4)
    assert graph.edge_index[0].tolist() == [far] * 4
    assert graph.vertex_index[0].tolist() == [far * 4 + h for h in range(4)]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"edge_index": torch.zeros(3, 2, dtype=torch.int64)}, r"'edge_index' must be an integer"),
        ({"edge_index": torch.zeros(2, dtype=torch.int64)}, r"'edge_index' must have shape"),
        ({"edge_index": torch.zeros(2, 2)}, "'edge_index' must be an integer"),
        ({"edge_index": [[0], [1]]}, "'edge_index' must be a tensor"),
        ({"edge_index": torch.tensor([[9], [0]])}, r"'edge_index' must hold nodes in \[0, 4\)"),
        ({"edge_index": torch.tensor([[0], [-1]])}, r"'edge_index' must hold nodes in \[0, 4\)"),
        ({"edge_index": torch.tensor([[0], [3]])}, "must not join nodes of different graphs"),
        ({"heads": 0}, "'heads' must be an integer >= 1"),
        ({"head": torch.tensor([0, 0, 0])}, "'head' must be an integer vector"),
        ({"head": torch.tensor([5, 0])}, r"'head' must lie in \[0, 1\)"),
        ({"query_batch": torch.tensor([1, 0, 0, 1])}, "'query_batch' must be sorted"),
        ({"key_batch": torch.tensor([0, 0, 1])}, "'key_batch' must hold one graph number"),
        ({"key_batch": torch.zeros(4)}, "'key_batch' must be an int64 vector"),
        ({"key_batch": None}, "must be given together"),
    ],
)
def test_bad_input(change: dict, match: str) -> None:
    batch = torch.tensor([0, 0, 1, 1])
    arguments = {
        "edge_index": torch.tensor([[0, 3], [1, 2]]),
        "num_queries": 4,
        "num_keys": 4,
        "query_batch": batch,
        "key_batch": batch,
    }
    SampledGraph.from_edge_index(**arguments)
    with pytest.raises(ValueError, match=match):
        SampledGraph.from_edge_index(**(arguments | change))
