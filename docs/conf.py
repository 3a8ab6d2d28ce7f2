"""Configuration of the documentation: ``sphinx-build -W -b html docs docs/_build/html``."""

from __future__ import annotations

import sbmgraph

project = "sbmgraph"
copyright = "The sbmgraph developers"
author = "The sbmgraph developers"
release = version = sbmgraph.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"sbmgraph {release}"

myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Shapes", "params_style"), "Usage"]
