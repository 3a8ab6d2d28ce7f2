"""Makes the README's pictures.

    python docs/images/make.py            # graph.png
    python docs/images/make.py RUN        # and report.png, from a run folder

The second needs Chromium with its driver, and the packages selenium and Pillow.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure

from sbmgraph import SBM, sample
from sbmgraph.analysis import block_strength
from sbmgraph.analysis.strength import describe_strength
from sbmgraph.files import write_atomically
from sbmgraph.viz import plot_expected, plot_sampled

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
SIZES = (280, 40, 160, 120)
AFFINITY = (
    (0.12, 0.60, 0.00, 0.00),
    (0.01, 0.60, 0.01, 0.01),
    (0.01, 0.60, 0.00, 0.25),
    (0.05, 0.60, 0.25, 0.00),
)


def draw_graph() -> Figure:
    """One head's sampled graph in the order of the tokens and sorted by block, and its model."""
    generator = torch.Generator().manual_seed(0)
    block = torch.repeat_interleave(torch.arange(4), torch.tensor(SIZES))
    block = block[torch.randperm(len(block), generator=generator)]
    membership = torch.eye(4)[block].unsqueeze(1)
    sbm = SBM(membership, membership, torch.tensor(AFFINITY).unsqueeze(0))
    graph = sample(sbm, generator=generator)
    figure = Figure(figsize=(12, 4.1), layout="constrained")
    axes = figure.subplots(1, 3)
    plot_sampled(graph, colorbar=False, ax=axes[0])
    plot_sampled(graph, sbm, colorbar=False, ax=axes[1])
    plot_expected(sbm, ax=axes[2])
    strength = float(block_strength(sbm)[0, 0])
    titles = (
        "a sampled attention graph",
        "the same graph, sorted by block",
        f"the model behind it ({describe_strength(strength)})",
    )
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=11, loc="left", pad=14)
    return figure


def photograph(page: Path, token: int, size: tuple[int, int] = (1400, 1400)) -> bytes:
    """A screenshot of a report with one token pinned."""
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.set_window_size(*size)
        driver.get(page.resolve().as_uri() + "#input=0&layer=1&head=0")
        shown = "return document.body.dataset.shown"
        WebDriverWait(driver, 120).until(lambda d: d.execute_script(shown))
        driver.execute_script(f"document.querySelectorAll('#tokens .token')[{token}].click()")
        driver.execute_script("document.activeElement.blur()")
        return driver.get_screenshot_as_png()


def save(png: bytes, path: Path) -> None:
    """Writes a PNG with every pixel as it is: with a palette only where it holds all colours, since
    a smaller one would move the blocks' colours."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.getcolors(256):
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    write_atomically(path, buffer.getvalue())
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def main(run: str | None = None) -> None:
    """Makes the pictures."""
    buffer = io.BytesIO()
    draw_graph().savefig(buffer, format="png", dpi=100)
    save(buffer.getvalue(), FOLDER / "graph.png")
    if run is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        script = [sys.executable, str(ROOT / "tasks" / "report.py"), run, "--out", str(page)]
        subprocess.run(script, check=True)
        save(photograph(page, token=12), FOLDER / "report.png")


if __name__ == "__main__":
    main(*sys.argv[1:2])
