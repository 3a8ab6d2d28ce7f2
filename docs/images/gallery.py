"""Draws every plot of :mod:`sbmgraph.viz` from a planted model, with the code that draws it.

    python docs/images/gallery.py FOLDER

writes a PNG for each, and ``gallery.md``, which shows them with their code.
"""

from __future__ import annotations

import inspect
import io
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from sbmgraph import SBM, LayerSample, SampledGraph, sample, viz
from sbmgraph.analysis import block_graph, density_table, reach
from sbmgraph.files import write_atomically

SIZES = (40, 24, 16, 8)
AFFINITY = (
    (0.60, 0.02, 0.02, 0.02),
    (0.02, 0.05, 0.70, 0.02),
    (0.02, 0.10, 0.05, 0.30),
    (0.10, 0.10, 0.10, 0.80),
)
INPUTS = 6
INTRODUCTION = """Every plot of `sbmgraph.viz`, drawn from a planted model by
`python docs/images/gallery.py FOLDER`. It has four blocks: the first attends to itself, the
second to the third, the third to the fourth, the fourth to itself. `sbm` and `graph` are a model
and a graph sampled from it, `runs` what `record` gives of three layers, `tokens` words, `image` an
array."""


class Planted(NamedTuple):
    """What the examples draw.

    Attributes:
        sbm: Two heads on one graph of 88 tokens.
        graph: A graph sampled from it.
        tokens: A word for each token.
        image: A picture of 8 × 11 pixels.
        runs: Three layers on several inputs of different lengths.
        history: Density over training.
    """

    sbm: SBM
    graph: SampledGraph
    tokens: list[str]
    image: np.ndarray
    runs: list[LayerSample]
    history: pd.DataFrame


def plant(seed: int = 0) -> Planted:
    """The planted model and what was sampled from it."""
    generator = torch.Generator().manual_seed(seed)
    sbm = _model([sum(SIZES)], generator)
    graph = sample(sbm, generator=generator)
    words = [
        "the",
        "head",
        "looks",
        "at",
        "few",
        "of",
        "these",
        "tokens",
        "and",
        "not",
        "at",
        "all",
        "the",
        "others",
    ]
    tokens = [words[i % len(words)] for i in range(sum(SIZES))]
    runs = []
    for layer in range(3):
        model = _model([30 + 12 * (i + layer) for i in range(INPUTS)], generator)
        drawn = sample(model, generator=generator)
        runs.append(LayerSample(f"layers.{layer}", torch.nn.Identity(), model, drawn, 0.0))
    steps = np.arange(0, 1000, 50)
    history = pd.DataFrame(
        [
            {
                "step": s,
                "layer": k,
                "head": h,
                "density": 0.25 * np.exp(-s / (600 + 400 * k + 200 * h)),
            }
            for s in steps
            for k in range(2)
            for h in range(2)
        ]
    )
    image = np.random.default_rng(seed).random((8, 11))
    return Planted(sbm, graph, tokens, image, runs, history)


def _model(lengths: list[int], generator: torch.Generator) -> SBM:
    """Two heads with the planted blocks, tokens shuffled; the second head is a third as dense."""
    share = torch.tensor(SIZES, dtype=torch.float64) / sum(SIZES)
    batch = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    block = torch.multinomial(share, len(batch), replacement=True, generator=generator)
    noise = 0.05 * torch.rand(len(batch), 2, len(SIZES), generator=generator, dtype=torch.float64)
    member = 0.9 * torch.eye(len(SIZES), dtype=torch.float64)[block].unsqueeze(1) + noise
    affinity = torch.tensor(AFFINITY, dtype=torch.float64)
    return SBM(member, member, torch.stack([affinity, affinity / 3]), batch, batch)


# The examples: one a plot, named like it ##########################################################


def plot_sampled(planted: Planted) -> Axes:
    """The sampled graph of one head, tokens sorted by block."""
    return viz.plot_sampled(planted.graph, planted.sbm, head=0)


def plot_expected(planted: Planted) -> Axes:
    """The edge probabilities it was drawn from."""
    return viz.plot_expected(planted.sbm, head=0)


def plot_expected_and_sampled(planted: Planted) -> np.ndarray:
    """Both on one scale of colours."""
    return viz.plot_expected_and_sampled(planted.sbm, planted.graph)


def plot_block_mass(planted: Planted) -> Axes:
    """How many edges run from each key block to each query block."""
    return viz.plot_block_mass(planted.sbm, planted.graph)


def plot_block_graph(planted: Planted) -> Axes:
    """The graph of the blocks, a networkx graph that `block_graph` makes."""
    return viz.plot_block_graph(block_graph(planted.sbm, planted.graph))


def plot_bipartite(planted: Planted) -> Axes:
    """Keys left, queries right, edges in the colour of their key's block."""
    return viz.plot_bipartite(planted.graph, planted.sbm, head=1)


def plot_memberships(planted: Planted) -> Axes:
    """How strongly each token belongs to each block."""
    return viz.plot_memberships(planted.sbm, sort=True)


def plot_token_neighbours(planted: Planted) -> Axes:
    """A text with the tokens that one of them attends to."""
    return viz.plot_token_neighbours(planted.tokens, planted.graph, node=5, columns=60)


def plot_image_neighbours(planted: Planted) -> Axes:
    """A picture with the pixels that one of them attends to."""
    return viz.plot_image_neighbours(planted.image, planted.graph, node=40)


def plot_degrees(planted: Planted) -> Axes:
    """How many keys a query attends to, sampled and expected."""
    return viz.plot_degrees(planted.graph, planted.sbm)


def plot_reach(planted: Planted) -> Axes:
    """How many tokens each token sees after some layers of this graph."""
    return viz.plot_reach(reach([planted.graph], head=1, num_layers=5))


def plot_density_by_head(planted: Planted) -> Axes:
    """Density of every head of every layer over the inputs of a batch."""
    return viz.plot_density_by_head(density_table(planted.runs))


def plot_density_by_input(planted: Planted) -> Axes:
    """The same, input by input."""
    return viz.plot_density_by_input(density_table(planted.runs))


def plot_density_by_length(planted: Planted) -> Axes:
    """The same, against the inputs' lengths."""
    return viz.plot_density_by_length(density_table(planted.runs))


def plot_density_history(planted: Planted) -> Axes:
    """Density over training."""
    return viz.plot_density_history(planted.history)


def plot_grid(planted: Planted) -> np.ndarray:
    """Every layer and head at a glance."""
    return viz.plot_grid(planted.runs)


EXAMPLES: dict[str, Callable[[Planted], Any]] = {
    name: value for name, value in list(globals().items()) if name.startswith("plot_")
}


def code_of(example: Callable[[Planted], Any]) -> str:
    """What an example runs, without its frame."""
    source = textwrap.dedent(inspect.getsource(example)).split('"""', 2)[2]
    return textwrap.dedent(source).strip().removeprefix("return ").replace("planted.", "")


def main(folder: Path) -> None:
    """Draws the gallery."""
    planted = plant()
    parts = ["# Gallery", INTRODUCTION]
    for name, example in EXAMPLES.items():
        axes = np.asarray(example(planted), dtype=object).ravel()
        buffer = io.BytesIO()
        axes[0].figure.savefig(buffer, format="png", dpi=110)
        write_atomically(folder / f"{name}.png", buffer.getvalue())
        about = inspect.getdoc(example) or name
        parts += [
            f"## `{name}`",
            about,
            f"```python\n{code_of(example)}\n```",
            f"![{about}]({name}.png)",
        ]
    write_atomically(folder / "gallery.md", "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/images/gallery.py FOLDER")
    main(Path(sys.argv[1]))
