from __future__ import annotations

import numpy as np
import pytest

from sbmgraph.viz import block_color
from sbmgraph.viz.color import NUM_COLORS, contrast, ink_on, oklab
from sbmgraph.viz.style import FAINT, INK


@pytest.mark.parametrize(("number", "least"), [(16, 0.14), (64, 0.07), (128, 0.05)])
def test_no_two_blocks_look_alike(number, least):
    """Distances in OKLab, with which 0.02 is about what an eye can just tell."""
    lab = np.array([oklab(block_color(block)) for block in range(number)])
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert distance[~np.eye(number, dtype=bool)].min() >= least


def test_oklab_of_known_colours():
    """Ottosson's published values of the primaries."""
    known = {
        "#ffffff": (1.0, 0.0, 0.0),
        "#ff0000": (0.628, 0.225, 0.126),
        "#00ff00": (0.866, -0.234, 0.179),
        "#0000ff": (0.452, -0.032, -0.312),
    }
    for color, lab in known.items():
        np.testing.assert_allclose(oklab(color), lab, atol=1e-3)


def test_contrasts():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    for color in (INK, FAINT):
        assert contrast(color, "#ffffff") >= 4.5
    for block in range(NUM_COLORS):
        assert contrast(ink_on(block_color(block)), block_color(block)) >= 4.5


def test_colours_come_again_and_negative_blocks_have_none():
    assert block_color(NUM_COLORS + 3) == block_color(3)
    with pytest.raises(ValueError, match="'block' must be at least 0"):
        block_color(-1)
