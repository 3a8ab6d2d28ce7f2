"""Every picture of blocks says how much block structure there is."""

from __future__ import annotations

import pytest
import torch

from sbmgraph import SBM, sample, viz
from sbmgraph.analysis import block_graph, block_strength
from tests.planted import planted_graph, planted_sbm


def pictures(sbm, graph):
    yield viz.plot_sampled(graph, sbm)
    yield viz.plot_expected(sbm)
    yield from viz.plot_expected_and_sampled(sbm, graph)
    yield viz.plot_block_mass(sbm)
    yield viz.plot_block_mass(sbm, graph, max_blocks=2)
    yield viz.plot_memberships(sbm)
    yield viz.plot_block_graph(block_graph(sbm, graph))
    yield viz.plot_bipartite(graph, sbm)


def test_planted_blocks_are_called_blocks():
    sbm, _ = planted_sbm()
    said = f"blocks, strength {block_strength(sbm)[0, 0]:.2g}"
    for ax in pictures(sbm, planted_graph(sbm)):
        assert said in ax.get_title(loc="left")
        assert "no block" not in ax.get_title(loc="left")


def test_rank_one_is_called_none():
    member = torch.rand(40, 1, 1, generator=torch.Generator().manual_seed(0)).expand(40, 1, 5)
    sbm = SBM(member, member, torch.full((1, 5, 5), 0.03))
    for ax in pictures(sbm, sample(sbm)):
        assert "no block structure" in ax.get_title(loc="left")


def test_without_a_model_nothing_is_said():
    sbm, _ = planted_sbm()
    assert "block" not in viz.plot_sampled(planted_graph(sbm)).get_title(loc="left")


@pytest.mark.parametrize("limit", [-1, 0, 2.5, True])
def test_limits_are_positive_integers(limit):
    sbm, _ = planted_sbm()
    graph = planted_graph(sbm)
    calls = {
        "max_blocks": lambda: viz.plot_block_mass(sbm, max_blocks=limit),
        "max_tokens": lambda: viz.plot_memberships(sbm, max_tokens=limit),
        "max_edges": lambda: viz.plot_bipartite(graph, max_edges=limit),
        "max_size": lambda: viz.plot_sampled(graph, max_size=limit),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"'{name}' must be an integer >= 1, got {limit}"):
            call()
    with pytest.raises(ValueError, match="'max_edges' must be an integer"):
        viz.plot_block_graph(block_graph(sbm), max_edges=limit)
    with pytest.raises(ValueError, match="'max_tokens' must be an integer"):
        viz.plot_token_neighbours(["a"] * 48, graph, 0, max_tokens=limit)


@pytest.mark.parametrize("exploration", [-0.5, float("inf"), float("nan")])
def test_exploration_is_a_probability(exploration):
    sbm, _ = planted_sbm()
    for plot in (viz.plot_expected, viz.plot_block_mass):
        with pytest.raises(ValueError, match="'exploration' must be a number in"):
            plot(sbm, exploration=exploration)
