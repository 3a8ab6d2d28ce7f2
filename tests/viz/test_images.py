"""The scripts that draw the documentation's pictures."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from sbmgraph import viz

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_images_{name}", IMAGES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    module = load("gallery")
    module.main(folder)
    return module, folder


@pytest.mark.slow
def test_every_plot_has_its_picture(gallery):
    from matplotlib.image import imread

    module, folder = gallery
    plots = {name for name in viz.__all__ if name.startswith("plot_")}
    assert set(module.EXAMPLES) == plots
    for name in plots:
        pixels = imread(folder / f"{name}.png")[..., :3].reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > 3, name


@pytest.mark.slow
def test_the_code_shown_draws_the_picture(gallery):
    module, folder = gallery
    text = (folder / "gallery.md").read_text()
    names = {"viz": viz, **module.plant()._asdict()}
    for used in ("block_graph", "density_table", "reach"):
        names[used] = getattr(module, used)
    shown = re.findall(r"## `(\w+)`.*?```python\n(.*?)\n```", text, re.S)
    assert [name for name, _ in shown] == list(module.EXAMPLES)
    for name, code in shown:
        assert f"{name}(" in code
        eval(code, names)


def test_pictures_keep_every_pixel(tmp_path):
    """The README's: a palette of few colours would move the blocks' colours."""
    Image = pytest.importorskip("PIL.Image")
    make = load("make")
    buffer = io.BytesIO()
    make.draw_graph().savefig(buffer, format="png", dpi=60)
    many = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    few = np.tile(np.array([[1, 2, 3], [200, 100, 7]], dtype=np.uint8), (8, 4, 1))
    for picture in (Image.open(buffer).convert("RGB"), Image.fromarray(many), Image.fromarray(few)):
        png = io.BytesIO()
        picture.save(png, "PNG")
        make.save(png.getvalue(), tmp_path / "picture.png")
        saved = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))
        np.testing.assert_array_equal(saved, np.asarray(picture))
