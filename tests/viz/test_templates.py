"""The pages' styles and scripts, read as text."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from sbmgraph.viz import block_color
from sbmgraph.viz.color import contrast
from sbmgraph.viz.report.html import read_template, render

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


def test_what_pages_share_is_written_once():
    """No longer line stands in two templates, and no function is made in two scripts."""
    places: dict[str, set[str]] = {}
    for path in Path(str(resources.files("sbmgraph.viz") / "templates")).iterdir():
        text = path.read_text(encoding="utf-8")
        found = {line.strip() for line in text.splitlines() if len(line.strip()) > 50}
        if path.suffix == ".js":
            found |= set(re.findall(r"^(?:async )?function \w+", text, re.MULTILINE)) - {
                "async function start"
            }
        for line in found:
            places.setdefault(line, set()).add(path.name)
    assert len(places) > 200
    assert not {line: names for line, names in places.items() if len(names) > 1}


def test_a_frame_is_around_every_page():
    """Text that looks like a place of a template stays text."""
    for template in ("report.html", "comparison.html"):
        page = render(template, (), "%%STYLE%% <b>", {"text": "%%SCRIPT%%"})
        assert page.startswith("<!DOCTYPE html>")
        assert page.endswith("</html>\n")
        assert page.count("<main>") == page.count("</main>") == 1
        assert page.count("%%STYLE%% &lt;b&gt;") == 2
        assert page.count("%%SCRIPT%%") == 1
