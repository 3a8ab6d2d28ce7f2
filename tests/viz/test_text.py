"""Text of users in every picture: shown letter by letter, never parsed."""

from __future__ import annotations

import pandas as pd
import pytest

from sbmgraph import viz
from sbmgraph.viz.text import plain
from tests.planted import planted_graph, planted_sbm

HOSTILE = ["$$", r"$\frac{", "a$b$c", r"\$", "_hidden", "\n", "\x07", "<b>&", "{}", "%"]


def shown(figure) -> list[str]:
    """Every text of a drawn figure as matplotlib lays it out, formulas marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    FigureCanvasAgg(figure).draw()
    out = []
    for text in figure.findobj(Text):
        letters, math = text._preprocess_math(text.get_text())
        assert not math, text.get_text()
        out.append(letters)
    return out


@pytest.fixture
def tokens():
    return (HOSTILE * 5)[:48]


def visible(token: str) -> str:
    return token.replace("\n", "⏎").replace("\x07", "\u2407").replace("_h", "\u200a_h")


def test_plain_text_is_never_a_formula():
    from matplotlib.text import Text

    for token in HOSTILE:
        text = Text(0, 0, plain(token))
        assert text._preprocess_math(text.get_text()) == (visible(token), False)


@pytest.mark.parametrize("sort", [False, True])
def test_tokens_in_pictures(tokens, sort):
    sbm, _ = planted_sbm()
    graph = planted_graph(sbm)
    pictures = [
        viz.plot_memberships(sbm, tokens=tokens, sort=sort),
        viz.plot_bipartite(graph, sbm, tokens=tokens),
        viz.plot_token_neighbours(tokens, graph, 3),
    ]
    for ax in pictures:
        assert {visible(token) for token in HOSTILE} <= set(shown(ax.figure))


@pytest.mark.parametrize("name", ["$$", "a$b$", "_orig_mod.layers.0"])
def test_names_in_pictures(name, runs):
    table = pd.DataFrame(
        {
            "layer": name, "sample": 0, "head": [0, 1, 0, 1], "graph": [0, 0, 1, 1],
            "num_keys": [5, 5, 9, 9], "expected": 0.2, "sampled": [0.1, 0.2, 0.3, 0.4],
        }
    )  # fmt: skip
    history = table.assign(step=[0, 0, 1, 1], density=0.2)
    for ax in (
        viz.plot_density_by_head(table),
        viz.plot_density_by_input(table),
        viz.plot_density_by_length(table),
        viz.plot_density_history(history),
        viz.plot_grid([run._replace(name=name) for run in runs])[0, 0],
    ):
        texts = shown(ax.figure)
        assert any(name in text for text in texts), texts
