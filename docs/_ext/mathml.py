"""Formulas as MathML, made at build time by docutils: pages need no JavaScript and no network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def convert(self: Any, node: nodes.Element, as_block: bool) -> str:
    """The formula of a node; what cannot be read is a warning, which fails the build."""
    text = node.astext()
    try:
        return tex2mathml(text, as_block=as_block)
    except MathError as error:
        logger.warning("formula %r: %s", text, error, location=node)
        return f"<code>{self.encode(text)}</code>"


def visit_math(self: Any, node: nodes.Element) -> None:
    """A formula in a line of text."""
    self.body.append(convert(self, node, as_block=False))
    raise nodes.SkipNode


def visit_displaymath(self: Any, node: nodes.Element) -> None:
    """A formula by itself."""
    self.body.append(self.starttag(node, "div", CLASS="math formula"))
    self.body.append(convert(self, node, as_block=True))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
