"""Pages whose source lies elsewhere in the repository: notebooks, the gallery, two texts."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
TEXTS = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def write(path: Path, content: bytes) -> None:
    """Leaves a file alone that has not changed, so that its page is not built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != content:
        path.write_bytes(content)


def make(app: Sphinx) -> None:
    """Before the build: every page that has its source elsewhere."""
    folder = DOCS / "generated"
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        write(folder / "notebooks" / path.name, path.read_bytes())
    for source, target in TEXTS.items():
        text = (ROOT / source).read_text()
        # Files of the repository that are no page here keep their name and lose their link.
        text = re.sub(r"\[([^\]]+)\]\((?!https?:|#)[^)]+\)", r"`\1`", text)
        write(folder / target, text.encode())
    sys.path.insert(0, str(DOCS / "images"))
    try:
        import gallery
    finally:
        sys.path.pop(0)
    newest = max(path.stat().st_mtime for path in (ROOT / "sbmgraph" / "viz").glob("*.py"))
    page = folder / "gallery" / "gallery.md"
    if not page.is_file() or page.stat().st_mtime < newest:
        page.parent.mkdir(parents=True, exist_ok=True)
        gallery.main(page.parent)


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Fields of named tuples stand among their class's attributes already."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Makes the pages as soon as the builder is known."""
    app.connect("builder-inited", make)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
