from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from sbmgraph import SampledGraph, record
from sbmgraph import analysis as sa
from sbmgraph.nn import SBMTransformer

KEYS = ["layer", "sample", "head", "graph"]


@pytest.fixture
def recorder():
    torch.manual_seed(0)
    model = SBMTransformer(20, 3, channels=16, heads=2, num_clusters=4, max_length=8).eval()
    with torch.no_grad(), record(model) as runs:
        model(torch.arange(8), batch=torch.zeros(8, dtype=torch.int64))
    return runs


TABLES = [sa.density_table, sa.membership_table, sa.block_table]


@pytest.mark.parametrize("table", TABLES)
def test_every_table_takes_the_same(table, recorder, batched, runs):
    """A recorder, a list, one sample and a model by itself."""
    assert list(table(recorder).columns[:4]) == KEYS
    pd.testing.assert_frame_equal(table(list(recorder)), table(recorder))
    first = table(recorder).query(f"layer == '{recorder[0].name}'").reset_index(drop=True)
    pd.testing.assert_frame_equal(table(recorder[0]), first)
    alone = table(batched)
    assert alone["layer"].unique().tolist() == [""]
    assert set(alone.columns) == set(table(runs).columns)


@pytest.mark.parametrize("table", [*TABLES, sa.summarize])
@pytest.mark.parametrize("wrong", ["layers.0", 3, None, torch.ones(2), [1], {}, [], [None]])
def test_anything_else_is_named(table, wrong):
    with pytest.raises(
        ValueError, match="'runs' must be a Recorder, recorded layer samples or an SBM"
    ):
        table(wrong)


@pytest.mark.parametrize("exploration", [-0.1, float("inf"), float("nan"), 2.0])
def test_exploration_is_a_probability(runs, exploration):
    with pytest.raises(ValueError, match="'exploration' must be a number in"):
        sa.density_table([runs[0]._replace(exploration=exploration)])
    with pytest.raises(ValueError, match="'exploration' must be a number in"):
        sa.density_std(runs[0].sbm, exploration)
    with pytest.raises(ValueError, match="'exploration' must be a number in"):
        sa.expected_matrix(runs[0].sbm, exploration=exploration)


def test_summarize_takes_runs_and_tables(runs, batched):
    pd.testing.assert_frame_equal(sa.summarize(runs), sa.summarize(sa.density_table(runs)))
    means = sa.summarize(batched, over="graph")
    truth = batched.expected_density().mean(dim=0).numpy()
    np.testing.assert_allclose(means[("expected", "mean")], truth, rtol=1e-6)
    assert means[("sampled", "count")].tolist() == [0, 0]
    with pytest.raises(ValueError, match="'table' must have a column among 'layer'"):
        sa.summarize(pd.DataFrame({"x": [1.0]}))


def test_block_tables_of_all_heads_and_graphs(batched):
    every = sa.block_table(batched, head=None, graph_index=None)
    assert len(every) == 3 * 2 * 4
    one = sa.block_table(batched, head=1, graph_index=2)
    part = every.query("head == 1 and graph == 2").reset_index(drop=True)
    pd.testing.assert_frame_equal(one, part)
    assert one["block_strength"].nunique() == 1
    assert one["block_strength"][0] == sa.block_strength(batched)[2, 1]
    with pytest.raises(ValueError, match=r"'head' must be an integer in \[0, 2\)"):
        sa.block_table(batched, head=2)


def test_tables_hold_strength_and_margins(batched):
    table = sa.membership_table(batched).set_index(["graph", "head"])
    query, key = sa.membership_margin(batched, 1, 2)
    row = table.loc[(2, 1)]
    assert row["query_margin"] == pytest.approx(query.mean())
    assert row["key_margin"] == pytest.approx(key.mean())
    assert row["block_strength"] == sa.block_strength(batched)[2, 1]
    assert np.isnan(table.loc[(1, 0), "query_margin"])


# Weights that are none ############################################################################


@pytest.mark.parametrize(
    "weights",
    [
        [-1.0, 2.0],
        [float("nan"), 1.0],
        [float("inf"), 1.0],
        np.array([1 + 1j]),
        torch.tensor([1.0, 0.0]).to_sparse(),
        ["a", "b"],
    ],
)
@pytest.mark.parametrize("measure", [sa.entropy, sa.effective_number])
def test_weights_must_be_finite_and_not_negative(measure, weights):
    with pytest.raises(ValueError, match="'weights' must hold finite numbers >= 0"):
        measure(weights)


@pytest.mark.parametrize("wrong", [None, "x", [[1.0], [1.0, 2.0]], object(), {}])
@pytest.mark.parametrize(
    "measure", [sa.entropy, sa.effective_number, sa.assortativity, sa.degree_distribution]
)
def test_what_is_no_array_is_named(measure, wrong, recorder):
    for value in (wrong, recorder, recorder[0]):
        with pytest.raises(ValueError, match=r"'(weights|mass|degree)' must hold finite numbers"):
            measure(value)


@pytest.mark.parametrize("measure", [sa.entropy, sa.effective_number])
def test_a_number_is_no_distribution(measure):
    with pytest.raises(ValueError, match=r"'weights' must hold .* in 1 dimensions, got 0"):
        measure(3.0)


def test_mixing_matrices_are_square():
    with pytest.raises(ValueError, match=r"'mass' must have shape \[K, K\], got \[2, 3\]"):
        sa.assortativity(np.ones((2, 3)))


@pytest.fixture
def shared() -> SampledGraph:
    """Two heads that share one edge."""
    return SampledGraph.from_edge_index(torch.tensor([[0, 1], [0, 0]]), 1, 2, heads=2)


def test_small_integers_do_not_wrap(shared):
    weights = torch.full((4,), 200, dtype=torch.uint8)
    assert sa.biadjacency_matrix(shared, None, weights=weights).toarray().tolist() == [[400, 400]]


@pytest.mark.parametrize(
    "weights",
    [torch.ones(4, dtype=torch.complex64), torch.ones(4).to_sparse(), torch.full((4,), torch.nan)],
)
def test_edge_weights_are_finite_real_and_dense(shared, weights):
    for call in (sa.biadjacency_matrix, sa.to_networkx, sa.attention_mass, sa.sampled_matrix):
        with pytest.raises(ValueError, match="'weights' must"):
            call(shared, weights=weights)
    with pytest.raises(ValueError, match="'weights' must"):
        sa.neighbour_weights(shared, weights, 0)


def test_masses_are_not_negative(runs):
    weights = torch.full((runs[0].graph.num_edges,), -1.0)
    with pytest.raises(ValueError, match="'weights' must hold finite numbers >= 0"):
        sa.block_mass(runs[0].sbm, runs[0].graph, weights=weights)
    with pytest.raises(ValueError, match="'weights' must hold finite numbers >= 0"):
        sa.attention_mass(runs[0].graph, weights)


def test_former_argument_names_work_and_warn(runs):
    sbm, graph = runs[0].sbm, runs[0].graph
    with pytest.warns(DeprecationWarning, match="'graph' is now called 'graph_index'"):
        old = sa.block_mass(sbm, graph=2)
    np.testing.assert_array_equal(old, sa.block_mass(sbm, graph_index=2))
    with pytest.warns(DeprecationWarning, match="'sampled' is now called 'graph'"):
        old = sa.degrees(sampled=graph, head=1)
    np.testing.assert_array_equal(old[0], sa.degrees(graph, 1)[0])
