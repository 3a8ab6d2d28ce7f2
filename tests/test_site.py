"""The documentation builds without a warning, and its pages need no network."""

from __future__ import annotations

import functools
import html
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROLE = re.compile(
    r":(?:class|func|meth):`~?((?:torch|torch_geometric|networkx|sklearn|scipy)\.[\w.]+)`"
)


def extension(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_of_other_packages_have_an_address() -> None:
    address = extension("plain_links").address
    named = {
        name
        for path in (ROOT / "sbmgraph").rglob("*.py")
        for name in ROLE.findall(path.read_text())
    }
    assert "torch_geometric.data.HeteroData" in named
    assert not [name for name in named if address(name) is None]
    assert address("sbmgraph.SBM") is None
    assert address("torch.nn.Linear") == (
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.Linear.html"
    )


@functools.cache
def anchors(page: Path) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', page.read_text()))


def broken_links(page: Path) -> list[str]:
    """Links from a page to what the site does not hold."""
    found = []
    for link in re.findall(r'<a\b[^>]*\bhref="([^"]+)"', page.read_text()):
        place, _, anchor = unquote(html.unescape(link)).partition("#")
        target = (page.parent / place).resolve() if place else page
        if urlsplit(link).scheme:
            continue
        missing = target.suffix == ".html" and anchor and anchor not in anchors(target)
        if not target.is_file() or missing:
            found.append(f"{page.name}: {link}")
    return found


@pytest.mark.slow
def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    for module in ("furo", "myst_nb", "matplotlib", "lightning"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-b", "html"]
    done = subprocess.run(
        [*command, str(DOCS), str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 100
    fetched = re.compile(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^\"]*")
    for page in pages:
        found = [tag for tag in fetched.findall(page.read_text()) if 'rel="canonical"' not in tag]
        assert not found, (page.name, found)
    # Sources of what two modules export link to the object's page by its other name.
    read = [page for page in pages if "_modules" not in page.parts]
    assert not [broken for page in read for broken in broken_links(page)]
    assert "Built-in immutable sequence" not in (tmp_path / "api" / "ops.html").read_text()
    for page in (tmp_path / "api" / "generated").glob("*.html"):
        assert "Alias for field number" not in page.read_text(), page.name
    assert "<math" in (tmp_path / "concepts" / "model.html").read_text()
    conv = (tmp_path / "api" / "generated" / "sbmgraph.nn.SBMConv.html").read_text()
    assert re.search(r'<p class="rubric">Shapes</p>\s*<ul', conv)
    for name in ("nn.models.build_model", "viz.report.write_report", "nn.baselines.FullAttention"):
        assert (tmp_path / "api" / "generated" / f"sbmgraph.{name}.html").is_file()
