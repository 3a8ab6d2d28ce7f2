from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from sbmgraph import SampledGraph, viz
from sbmgraph.analysis import degrees, density_table, expected_degrees, reach


@pytest.fixture
def table(runs):
    return density_table(runs)


@pytest.fixture
def wide_table():
    """Densities of 2 layers × 2 heads on 300 inputs of different lengths."""
    generator = np.random.default_rng(0)
    graph, head, layer = (index.ravel() for index in np.indices((300, 2, 2)))
    length = generator.integers(20, 2000, 300)[graph]
    density = 0.1 + 0.2 * layer + 0.1 * head + 1 / length
    return pd.DataFrame(
        {
            "layer": np.char.add("blocks.", layer.astype(str)),
            "sample": 0,
            "head": head,
            "graph": graph,
            "num_keys": length,
            "expected": density,
            "sampled": density,
        }
    )


def test_density_by_head(table, rendered):
    ax = viz.plot_density_by_head(table)
    expected, sampled = ax.collections[-2], ax.collections[-1]
    means = table.groupby(["layer", "head"], sort=False)[["expected", "sampled"]].mean()
    np.testing.assert_allclose(expected.get_offsets()[:, 1], means["expected"])
    np.testing.assert_allclose(sampled.get_offsets()[:, 1], means["sampled"])
    dots = np.concatenate([c.get_offsets()[:, 1] for c in ax.collections[:-2]])
    np.testing.assert_allclose(np.sort(dots), np.sort(table["sampled"]))
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["0\nblocks.0", "0\nblocks.1"]
    assert ax.get_ylabel() == "density (share of all pairs)"
    assert ax.get_ylim()[0] == 0
    rendered(ax)


def test_density_by_input(wide_table, rendered):
    ax = viz.plot_density_by_input(wide_table, max_inputs=400)
    assert ax.images[0].get_array().shape == (4, 300)
    row = wide_table[(wide_table["layer"] == "blocks.1") & (wide_table["head"] == 0)]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    shown = ax.images[0].get_array()[labels.index("blocks.1 · 0")]
    np.testing.assert_allclose(shown, row.sort_values("graph")["sampled"])
    binned = viz.plot_density_by_input(wide_table, max_inputs=30)
    assert binned.images[0].get_array().shape == (4, 30)
    assert "columns are means over 10 inputs" in binned.get_title(loc="left")
    rendered(binned)


def test_density_by_length(wide_table, rendered):
    ax = viz.plot_density_by_length(wide_table)
    assert len(ax.lines) == 4
    for line, (_, part) in zip(
        ax.lines, wide_table.groupby(["layer", "head"], sort=False), strict=True
    ):
        np.testing.assert_array_equal(np.sort(line.get_xdata()), np.sort(part["num_keys"]))
        np.testing.assert_array_equal(np.sort(line.get_ydata()), np.sort(part["sampled"]))
    binned = viz.plot_density_by_length(wide_table, max_points=100)
    assert len(binned.lines[0].get_xdata()) == 40
    assert "means over bins" in binned.get_title(loc="left")
    assert binned.get_xlabel() == "length (tokens)"
    rendered(binned)


def test_density_history(rendered):
    history = pd.DataFrame(
        {
            "step": [20, 10, 10, 20],
            "layer": ["a", "a", "b", "b"],
            "head": 0,
            "density": [0.5, 0.4, 0.2, 0.1],
        }
    )
    ax = viz.plot_density_history(history)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[10, 0.4], [20, 0.5]])
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), [[10, 0.2], [20, 0.1]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a · 0", "b · 0"]
    assert len(viz.plot_density_history(history[["step", "density"]]).lines) == 1
    rendered(ax)


@pytest.mark.parametrize("side", ["query", "key"])
def test_degrees(planted, rendered, side):
    sbm, _, sampled = planted
    ax = viz.plot_degrees(sampled, sbm, side=side)
    index = ("query", "key").index(side)
    degree = degrees(sampled)[index]
    heights = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in ax.containers[0]}
    for value, count in zip(*np.unique(degree, return_counts=True), strict=True):
        assert heights[value] == count
    assert sum(heights.values()) == len(degree)
    outline = ax.patches[-1].get_xy()
    assert (
        outline[:, 1].max()
        == np.histogram(expected_degrees(sbm)[index], np.unique(outline[:, 0]))[0].max()
    )
    rendered(ax)


def test_reach(runs, rendered):
    counts = reach([run.graph for run in runs])
    ax = viz.plot_reach(counts)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(counts, axis=1) / 48)
    assert "48 tokens" in ax.get_title(loc="left")
    rendered(ax)


def test_pictures_of_nothing(table, rendered):
    nothing = SampledGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 0, 0)
    for ax in (
        viz.plot_density_by_head(table.iloc[:0]),
        viz.plot_density_by_input(table.iloc[:0]),
        viz.plot_density_by_length(table.iloc[:0]),
        viz.plot_density_history(pd.DataFrame({"step": [], "density": []})),
        viz.plot_degrees(nothing),
        viz.plot_reach(reach([nothing])),
    ):
        assert ax.texts[0].get_text().startswith("no ")
        rendered(ax)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, g: viz.plot_density_by_head(t[["layer"]]), "'table' must be a DataFrame"),
        (lambda t, g: viz.plot_density_by_input(t, value="x"), r"with columns \['x'\]"),
        (lambda t, g: viz.plot_density_history(t), r"'history' must be a DataFrame"),
        (lambda t, g: viz.plot_density_by_head(None), "'table' must be a DataFrame"),
        (lambda t, g: viz.plot_degrees(g, side="x"), "'side' must be one of"),
        (lambda t, g: viz.plot_reach(np.ones(3)), "'counts' must have shape"),
    ],
)
def test_bad_arguments(table, runs, call, message):
    with pytest.raises(ValueError, match=message):
        call(table, runs[0].graph)
