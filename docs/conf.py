"""Configuration of the documentation: ``sphinx-build -W -b html docs docs/_build/html``.

The build needs no network and executes no notebook; formulas become MathML.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import sbmgraph

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "sbmgraph"
copyright = "The sbmgraph developers"
author = "The sbmgraph developers"
release = version = sbmgraph.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "mathml",
    "plain_links",
    "pages",
]
exclude_patterns = ["_build", "_ext", "images"]
if importlib.util.find_spec("sbmgraph.hf") is None or not importlib.util.find_spec("transformers"):
    exclude_patterns.append("api/hf.md")
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"sbmgraph {release}"
html_static_path = ["_static"]
html_css_files = ["sbmgraph.css"]
html_math_renderer = "mathml"
suppress_warnings = ["toc.excluded"]

myst_enable_extensions = ["colon_fence", "dollarmath", "amsmath", "fieldlist", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Shapes", "Usage"]
