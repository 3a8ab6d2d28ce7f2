from __future__ import annotations

import numpy as np
import pytest
import torch

from sbmgraph.record import LayerSample
from tests.planted import planted_graph, planted_sbm


@pytest.fixture
def planted():
    """A planted SBM, its blocks, and a graph drawn from it."""
    sbm, blocks = planted_sbm()
    return sbm, blocks, planted_graph(sbm)


@pytest.fixture
def runs():
    """Two layers of one planted head each; the second has two samples."""
    layer = torch.nn.Identity()
    out = []
    for name, seed in (("blocks.0", 0), ("blocks.1", 1), ("blocks.1", 2)):
        sbm, _ = planted_sbm(seed=min(seed, 1))
        out.append(LayerSample(name, layer, sbm, planted_graph(sbm, seed), 0.0))
    return out


@pytest.fixture
def rendered():
    """Pixels of a picture; fails if it is blank."""

    def render(ax) -> np.ndarray:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        figure = np.asarray(ax, dtype=object).ravel()[0].figure
        figure.set_dpi(50)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        assert np.unique(pixels.reshape(-1, 3), axis=0).shape[0] > 2, "the picture is blank"
        return pixels

    return render


@pytest.fixture(autouse=True)
def no_pyplot_state():
    """No picture may leave a figure with pyplot."""
    yield
    import sys

    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        assert pyplot.get_fignums() == []
