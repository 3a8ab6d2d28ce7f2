"""A few whole pictures against reference images, with tolerance for other versions of matplotlib.

``python -m tests.viz.test_reference`` draws the references anew; look at them before committing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sbmgraph import viz
from sbmgraph.analysis import block_graph
from tests.planted import planted_graph, planted_sbm

FOLDER = Path(__file__).parent / "reference"
TOLERANCE = 5.0
"""Root mean square of the pixels' difference: another version of the fonts stays below it, a blank,
mis-sorted or mis-coloured picture does not."""


def expected_and_sampled(by_block: bool = True):
    sbm, _ = planted_sbm()
    sampled = planted_graph(sbm)
    if by_block:
        return viz.plot_expected_and_sampled(sbm, sampled)[0]
    axes = viz.plot_expected_and_sampled(sbm, sampled)
    for ax in axes:
        order = np.random.default_rng(0).permutation(48)
        ax.images[0].set_data(ax.images[0].get_array()[order][:, order])
    return axes[0]


def blocks():
    sbm, _ = planted_sbm()
    return viz.plot_block_graph(block_graph(sbm, planted_graph(sbm)))


def bipartite():
    sbm, _ = planted_sbm(sizes=(4, 3, 2))
    return viz.plot_bipartite(planted_graph(sbm), sbm, tokens=[f"t{i}" for i in range(9)])


def token_neighbours():
    sbm, _ = planted_sbm()
    words = ["a", "head", "sees", "some", "of", "the", "tokens", "and", "not", "the", "others"]
    return viz.plot_token_neighbours((words * 5)[:48], planted_graph(sbm), 7, columns=50)


PICTURES = {
    function.__name__: function
    for function in (expected_and_sampled, blocks, bipartite, token_neighbours)
}


def draw(ax, path) -> None:
    ax.figure.savefig(path, dpi=50, metadata={"Software": None})


@pytest.mark.parametrize("name", PICTURES)
def test_picture_equals_its_reference(name, tmp_path):
    from matplotlib.testing.compare import compare_images

    draw(PICTURES[name](), tmp_path / f"{name}.png")
    difference = compare_images(
        str(FOLDER / f"{name}.png"), str(tmp_path / f"{name}.png"), TOLERANCE
    )
    assert difference is None, difference


@pytest.mark.parametrize("name", PICTURES)
def test_tolerance_catches_a_picture_without_its_data(name, tmp_path):
    from matplotlib.testing.compare import compare_images

    ax = PICTURES[name]()
    for part in ax.figure.axes:
        for artist in [*part.images, *part.collections, *part.lines, *part.patches]:
            artist.remove()
    draw(ax, tmp_path / "blank.png")
    reference = str(FOLDER / f"{name}.png")
    assert compare_images(reference, str(tmp_path / "blank.png"), TOLERANCE) is not None


def test_tolerance_catches_a_missorted_picture(tmp_path):
    from matplotlib.testing.compare import compare_images

    draw(expected_and_sampled(by_block=False), tmp_path / "shuffled.png")
    reference = str(FOLDER / "expected_and_sampled.png")
    assert compare_images(reference, str(tmp_path / "shuffled.png"), TOLERANCE) is not None


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, function in PICTURES.items():
        draw(function(), FOLDER / f"{name}.png")
