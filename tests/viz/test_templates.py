"""The pages' styles and scripts, read as text."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sbmgraph.viz import block_color
from sbmgraph.viz.color import contrast
from sbmgraph.viz.report.html import read_template

CSS = read_template("base.css")


def theme(name: str) -> dict[str, str]:
    light, dark = (
        dict(re.findall(r"--([\w-]+): ([^;]+);", block))
        for block in re.findall(r":root \{(.*?)\}", CSS, re.S)
    )
    return light if name == "light" else light | dark


def blend(top: str, share: float, ground: str) -> str:
    pair = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (top, ground)]
    mixed = np.rint(share * np.array(pair[0]) + (1 - share) * np.array(pair[1])).astype(int)
    return "#{:02x}{:02x}{:02x}".format(*mixed.tolist())


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_can_be_read(name):
    """At least 4.5:1 (WCAG 2.1, level AA) on everything that text stands on."""
    colors = theme(name)
    for ink in ("ink", "soft", "accent"):
        for ground in ("paper", "ground", "chosen"):
            if (ink, ground) == ("soft", "chosen"):
                continue
            assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)
    assert contrast(colors["alarm"], colors["alarm-ground"]) >= 4.5


@pytest.mark.parametrize("name", ["light", "dark"])
def test_tokens_can_be_read_on_every_colour(name):
    """Of every block at the opacity of tokens, and of attention at any."""
    colors = theme(name)
    for block in range(256):
        ground = blend(block_color(block), 0x59 / 255, colors["paper"])
        assert contrast(colors["ink"], ground) >= 4.5, block
    hot = "#{:02x}{:02x}{:02x}".format(*map(int, colors["hot"].split(",")))
    for share in np.linspace(0, 1, 21):
        assert contrast(colors["ink"], blend(hot, float(share), colors["paper"])) >= 4.5, share


def test_no_rule_of_an_id_is_stronger_than_the_width():
    """Columns of panels are set inside of conditions only, each with its own widths."""
    outside = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", read_template("report.css"))
    assert "grid-column" not in outside


def test_scripts_write_text_only_as_text():
    for name in (
        "base.js", "plot.js", "data.js", "adjacency.js", "tokens.js", "neighbours.js", "blocks.js",
        "overview.js", "report.js", "comparison.js",
    ):  # fmt: skip
        script = read_template(name)
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script
        )
        assert len(script.splitlines()) < 400
