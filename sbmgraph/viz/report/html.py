"""Pages that need no network: templates, embedded scripts, packed arrays."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

SHARED_SCRIPTS = ("base.js", "plot.js")


def render(
    template: str,
    scripts: Sequence[str],
    title: str,
    index: Mapping[str, Any],
    packed: Mapping[str, str] | None = None,
) -> str:
    """Puts a template into the frame that all pages share, with styles, scripts and data.

    Text of users is escaped here (the title) or enters as JSON, which the page shows by
    ``textContent`` only.

    Args:
        template (str): Name of the HTML file among the templates; its styles are in the CSS file
            of the same name, beside the shared ones.
        scripts (sequence of str): Names of its scripts, in the order of their use; the shared ones
            come first.
        title (str): Title of the page.
        index (mapping): What the page's scripts read as ``index``.
        packed (mapping, optional): Arrays as :func:`pack` gives them, by their name.
    """
    data = "\n".join(
        f'<script type="text/plain" id="data-{key}">{text}</script>'
        for key, text in (packed or {}).items()
    )
    parts = {
        "TITLE": html.escape(title),
        "BODY": _filled(template, {"TITLE": html.escape(title)}),
        "STYLE": read_template("base.css") + read_template(template.replace(".html", ".css")),
        "INDEX": json.dumps(index, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "DATA": data,
        "PLOTLY": _plotly(),
        "SCRIPT": "\n".join(read_template(name) for name in (*SHARED_SCRIPTS, *scripts)),
    }
    return _filled("page.html", parts)


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """A template with its parts in their places; what looks like a place in a part is none."""
    page = read_template(template).split("%%")
    return "".join(parts[part] if i % 2 else part for i, part in enumerate(page))


def pack(arrays: Mapping[str, np.ndarray]) -> str:
    """Named arrays as Base64 of gzip: a JSON table of contents, then the arrays, 8-aligned."""
    table, chunks, offset = [], [], 0
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        table.append(
            {"name": name, "type": array.dtype.name, "shape": list(array.shape), "offset": offset}
        )
        padding = -len(data) % 8
        chunks.append(data + bytes(padding))
        offset += len(data) + padding
    head = json.dumps(table).encode()
    head += b" " * (-(len(head) + 8) % 8)
    blob = len(head).to_bytes(8, "little") + head + b"".join(chunks)
    return base64.b64encode(gzip.compress(blob, compresslevel=6, mtime=0)).decode()


def to_base64(array: np.ndarray) -> str:
    """The bytes of an array as text."""
    return base64.b64encode(array.tobytes()).decode()


def read_template(name: str) -> str:
    """A file of the templates."""
    return (resources.files("sbmgraph.viz") / "templates" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """plotly.js as Base64 of gzip."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
