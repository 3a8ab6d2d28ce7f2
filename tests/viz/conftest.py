from __future__ import annotations

import os
from pathlib import Path

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


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Headless Chromium without a network, that saves what it downloads in ``driver.downloads``."""
    from tests.viz.browser import CHROMIUM, DRIVER

    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--window-size=1400,1850",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.downloads = downloads
    yield driver
    driver.quit()


@pytest.fixture
def screenshots(tmp_path) -> Path:
    """Where pictures of pages go: the test's folder, or ``SBMGRAPH_SCREENSHOTS``."""
    folder = Path(os.environ.get("SBMGRAPH_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
