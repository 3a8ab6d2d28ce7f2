from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sbmgraph import analysis as sa
from sbmgraph import sample
from tests.planted import PROB, SIZES, planted_sbm


def test_density_table_equals_brute_force(runs, dense):
    table = sa.density_table(runs)
    assert len(table) == 4 * 2 * 3
    assert table["layer"].unique().tolist() == ["layers.0", "layers.1"]
    index = table.set_index(["layer", "sample", "head", "graph"])
    for call, run in enumerate(runs):
        for head, graph in np.ndindex(2, 3):
            row = index.loc[run.name, call % 2, head, graph]
            query, key, affinity = sa.factors(run.sbm, head, graph)
            prob = query @ affinity @ key.T
            assert (row["num_queries"], row["num_keys"]) == prob.shape
            if graph == 1:
                assert (row["expected_without_exploration"], row["sampled"]) == (0, 0)
                continue
            assert row["expected_without_exploration"] == pytest.approx(prob.mean(), rel=1e-5)
            assert row["expected"] == pytest.approx((prob + 0.1).mean(), rel=1e-5)
            assert row["sampled"] == pytest.approx(dense(run.graph, head, graph).mean())
            assert row["exploration"] == 0.1


def test_planted_densities():
    sbm, _ = planted_sbm()
    sizes = np.array(SIZES)
    expected = float(sizes @ np.array(PROB) @ sizes) / sizes.sum() ** 2
    assert float(sbm.expected_density()) == pytest.approx(expected)
    variance = float(sizes @ (np.array(PROB) * (1 - np.array(PROB))) @ sizes)
    std = sa.density_std(sbm)[0, 0]
    assert std == pytest.approx(math.sqrt(variance) / sizes.sum() ** 2)
    sampled = sample(sbm, generator=torch.Generator().manual_seed(0))
    assert abs(float(sampled.density()) - expected) < 5 * std


@pytest.mark.parametrize("exploration", [0.0, 0.1])
def test_density_std_equals_brute_force(bipartite, exploration):
    out = sa.density_std(bipartite, exploration)
    for graph, head in np.ndindex(2, 3):
        query, key, affinity = sa.factors(bipartite, head, graph)
        prob = query @ affinity @ key.T + exploration
        assert prob.max() < 1
        expected = math.sqrt((prob * (1 - prob)).sum()) / prob.size
        assert out[graph, head] == pytest.approx(expected)


def test_density_std_of_an_empty_graph_is_zero(batched):
    np.testing.assert_array_equal(sa.density_std(batched)[1], 0)


def test_summarize(runs):
    table = sa.density_table(runs)
    by_head = sa.summarize(table, over=["graph", "sample"])
    chosen = table[(table["layer"] == "layers.1") & (table["head"] == 1)]["sampled"]
    row = by_head.loc[("layers.1", 1), "sampled"]
    assert row["count"] == 6
    assert row["mean"] == pytest.approx(chosen.mean())
    assert row["std"] == pytest.approx(chosen.std())
    assert (row["min"], row["max"]) == (chosen.min(), chosen.max())
    everything = sa.summarize(table, over=["graph", "sample", "head", "layer"])
    assert everything[("sampled", "mean")].tolist() == [pytest.approx(table["sampled"].mean())]


def test_variance_components_recover_their_parts():
    """400 inputs of 5 samples: estimates within 5 standard errors of what made them."""
    import pandas as pd

    generator = np.random.default_rng(0)
    inputs, samples = 400, 5
    mean = 0.3 + 0.2 * generator.standard_normal(inputs)
    value = mean[:, None] + 0.1 * generator.standard_normal((inputs, samples))
    graph, draw = np.indices(value.shape)
    table = pd.DataFrame({"graph": graph.ravel(), "sample": draw.ravel(), "value": value.ravel()})
    row = sa.variance_components(table.assign(layer="a", head=0), "value").loc[("a", 0)]
    assert row["mean"] == pytest.approx(value.mean())
    within_error = 0.01 * math.sqrt(2 / (inputs * (samples - 1)))
    assert abs(row["over_samples"] - 0.01) < 5 * within_error
    assert abs(row["over_inputs"] - 0.04) < 5 * 0.042 * math.sqrt(2 / (inputs - 1))


def test_variance_components_need_equal_samples(runs):
    table = sa.density_table(runs)
    with pytest.raises(ValueError, match="'table' must hold as many samples"):
        sa.variance_components(table.iloc[1:])


def test_sampling_variance_matches_closed_form():
    sbm, _ = planted_sbm()
    table = sa.sampling_variance(sbm, 200, generator=torch.Generator().manual_seed(0))
    summary = sa.summarize(table, over="sample")["density"].iloc[0]
    std = float(sa.density_std(sbm)[0, 0])
    assert summary["count"] == 200
    assert abs(summary["mean"] - float(sbm.expected_density())) < 5 * std / math.sqrt(200)
    assert abs(summary["std"] / std - 1) < 5 / math.sqrt(2 * 199)


def test_membership_table(runs):
    table = sa.membership_table(runs)
    row = table.set_index(["layer", "sample", "head", "graph"]).loc["layers.1", 1, 1, 2]
    sbm = runs[3].sbm
    assert row["effective_blocks"] == pytest.approx(sa.effective_blocks(sbm, 1, 2))
    assert row["query_entropy"] == pytest.approx(sa.membership_entropy(sbm, 1, 2)[0].mean())
    assert row["dead_blocks"] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda runs: sa.density_table([]), "got no sample: was the model called"),
        (
            lambda runs: sa.density_table([1]),
            "'runs' must be a Recorder, recorded layer samples or an SBM, got 1",
        ),
        (lambda runs: sa.summarize(sa.density_table(runs), over="token"), "'over' must be one of"),
        (lambda runs: sa.sampling_variance(runs[0].sbm, 0), "'num_samples'"),
        (lambda runs: sa.density_std(runs[0].sbm, 2.0), "'exploration'"),
    ],
)
def test_bad_arguments(runs, call, message):
    with pytest.raises(ValueError, match=message):
        call(runs)
