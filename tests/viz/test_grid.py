from __future__ import annotations

import pytest

from sbmgraph import viz


def test_one_picture_for_each_layer_and_head(runs, rendered):
    axes = viz.plot_grid(runs)
    assert axes.shape == (2, 1)
    for ax, run in zip(axes[:, 0], runs[:2], strict=True):
        density = 100 * float(run.graph.density())
        assert ax.get_title(loc="left") == f"head 0, density {density:.3g} %\nblocks, strength 0.44"
        assert ax.get_ylabel() == f"{run.name}\nquery, sorted by block"
        assert ax.images[0].get_array().sum() == run.graph.num_edges
    rendered(axes)


def test_any_plot_can_be_repeated(runs, rendered):
    axes = viz.plot_grid(
        runs, lambda run, head, graph, ax: viz.plot_degrees(run.graph, None, head, graph, ax=ax)
    )
    assert all(ax.containers for ax in axes.flat)
    rendered(axes)


def test_says_what_it_leaves_out(runs):
    axes = viz.plot_grid(runs, max_layers=1)
    assert axes.shape == (1, 1)
    assert axes[0, 0].figure.get_suptitle() == "the first 1 of 2 layers and 1 of 1 heads"


def test_bad_arguments(runs):
    with pytest.raises(ValueError, match="got no sample: was the model called"):
        viz.plot_grid([])
    with pytest.raises(ValueError, match="'graph_index' must be an integer"):
        viz.plot_grid(runs, graph_index=2)
    with pytest.raises(ValueError, match="'ax' must hold 2×1"):
        viz.plot_grid(runs, ax=[])
