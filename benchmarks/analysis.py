"""How long analysis and pictures of large sampled graphs take.

Statistics of a graph with ten million edges, and every picture (drawn and saved as PNG) of one
with a million, both of 16,384 tokens and 128 blocks. ``--json_path`` also keeps the seconds::

    python benchmarks/analysis.py
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli

from sbmgraph import SBM, LayerSample, SampledGraph, analysis, viz
from sbmgraph.files import write_atomically

TOKENS, CLUSTERS = 16_384, 128


def problem(num_edges: int) -> tuple[SBM, SampledGraph]:
    """Uniform edges, and an SBM of about their density."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    edges = torch.randint(TOKENS, (2, num_edges), generator=generator)
    graph = SampledGraph.from_edge_index(edges, TOKENS, TOKENS)
    clusters = torch.randn(CLUSTERS, 32, generator=generator) / 4
    affinity = (clusters @ clusters.T).flatten().softmax(0).view(1, CLUSTERS, CLUSTERS)
    memberships = [uniform(TOKENS, 1, CLUSTERS) for _ in range(2)]
    return SBM(*memberships, affinity * (4 * num_edges / TOKENS**2)), graph


def statistics(sbm: SBM, graph: SampledGraph) -> dict[str, Callable[[], Any]]:
    """Every statistic, ready to be called."""
    weights = torch.rand(graph.num_edges)
    return {
        "graph_statistics": lambda: analysis.graph_statistics(graph, sbm),
        "block_mass, posterior": lambda: analysis.block_mass(sbm, graph),
        "block_mass, by edges": lambda: analysis.block_mass(sbm, graph, assignment="edges"),
        "degrees": lambda: analysis.degrees(graph),
        "strong components": lambda: analysis.connected_components(graph, connection="strong"),
        "attention_mass": lambda: analysis.attention_mass(graph, weights),
        "sampled_matrix": lambda: analysis.sampled_matrix(graph),
        "expected_matrix": lambda: analysis.expected_matrix(sbm),
        "block_order": lambda: analysis.block_order(sbm),
        "block_table": lambda: analysis.block_table(sbm),
        "reach over 2 layers": lambda: analysis.reach([graph, graph]),
        "check_universality": lambda: analysis.check_universality([graph, graph]),
    }


def pictures(sbm: SBM, graph: SampledGraph) -> dict[str, Callable[[], Any]]:
    """Every picture, ready to be drawn."""
    words = ["x"] * TOKENS
    runs = [LayerSample(f"layer{i}", torch.nn.Identity(), sbm, graph, 0.0) for i in range(2)]
    return {
        "plot_sampled": lambda: viz.plot_sampled(graph, sbm),
        "plot_expected_and_sampled": lambda: viz.plot_expected_and_sampled(sbm, graph),
        "plot_block_mass": lambda: viz.plot_block_mass(sbm, graph),
        "plot_block_graph": lambda: viz.plot_block_graph(analysis.block_graph(sbm, graph)),
        "plot_bipartite": lambda: viz.plot_bipartite(graph, sbm),
        "plot_memberships": lambda: viz.plot_memberships(sbm),
        "plot_degrees": lambda: viz.plot_degrees(graph, sbm),
        "plot_token_neighbours": lambda: viz.plot_token_neighbours(words, graph, 5),
        "plot_image_neighbours": lambda: viz.plot_image_neighbours(np.zeros((128, 128)), graph, 5),
        "plot_reach": lambda: viz.plot_reach(analysis.reach([graph, graph])),
        "plot_grid": lambda: viz.plot_grid(runs),
        "plot_density_by_head": lambda: viz.plot_density_by_head(analysis.density_table(runs)),
    }


def save(draw: Callable[[], Any]) -> None:
    """Draws a picture and saves it to memory."""
    axes = np.asarray(draw(), dtype=object).ravel()[0]
    axes.figure.savefig(io.BytesIO(), format="png")


def main(
    statistics_edges: int = 10_000_000, picture_edges: int = 1_000_000, json_path: str | None = None
) -> None:
    """Times everything once, after one warm-up on a small graph (which compiles what is compiled).

    Args:
        statistics_edges: Edges of the graph whose statistics are timed.
        picture_edges: Edges of the graph that is drawn.
        json_path: Where to keep the seconds of each, if anywhere.
    """
    for run in statistics(*problem(1000)).values():
        run()
    seconds: dict[str, float] = {}
    print(f"statistics of {statistics_edges:,} edges")
    for name, run in statistics(*problem(statistics_edges)).items():
        seconds[name] = timed(name, run)
    print(f"{'total':28s} {sum(seconds.values()):7.2f} s")
    print(f"pictures of {picture_edges:,} edges")
    for name, draw in pictures(*problem(picture_edges)).items():
        seconds[name] = timed(name, lambda draw=draw: save(draw))
    if json_path is not None:
        write_atomically(json_path, json.dumps(seconds, indent=1) + "\n")


def timed(name: str, run: Callable[[], Any]) -> float:
    """Seconds of one call, printed."""
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    print(f"{name:28s} {seconds:7.2f} s", flush=True)
    return seconds


if __name__ == "__main__":
    auto_cli(main)
