"""Links to the documentation of other packages without their inventories, which the build would
have to fetch: a page's address follows from a name, or is written down here."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

TORCH = "https://docs.pytorch.org/docs/stable/"
PYG = "https://pytorch-geometric.readthedocs.io/en/latest/"
NETWORKX = "https://networkx.org/documentation/stable/reference/"
RULES = (
    (r"torch\.utils\.data\.(\w+)", TORCH + r"data.html#\g<0>"),
    (r"torch\.utils\.checkpoint\.(\w+)", TORCH + r"checkpoint.html"),
    (r"torch\.Tensor", TORCH + r"tensors.html#torch.Tensor"),
    (r"torch\.library\.(\w+)", TORCH + r"library.html#\g<0>"),
    (r"torch(\.\w+)+", TORCH + r"generated/\g<0>.html"),
    (r"torch_geometric\.nn\.conv\.(\w+)", PYG + r"generated/\g<0>.html"),
    (r"torch_geometric\.data\.(\w+)", PYG + r"generated/\g<0>.html"),
    (r"torch_geometric(\.\w+)*", PYG + r"modules/root.html"),
    (r"torch_sparse(\.\w+)*", "https://github.com/rusty1s/pytorch_sparse"),
    (r"networkx\.(density)", NETWORKX + r"generated/networkx.classes.function.\1.html"),
    (r"networkx\.overall_reciprocity", NETWORKX + r"algorithms/reciprocity.html"),
    (r"networkx\.bipartite(\.\w+)?", NETWORKX + r"algorithms/bipartite.html"),
    (r"networkx\.attribute_assortativity_coefficient", NETWORKX + r"algorithms/assortativity.html"),
    (r"networkx(\.\w+)*", NETWORKX + r"index.html"),
    (r"sklearn(\.\w+)+", r"https://scikit-learn.org/stable/modules/generated/\g<0>.html"),
    (r"scipy(\.\w+)+", r"https://docs.scipy.org/doc/scipy/reference/generated/\g<0>.html"),
    (r"pandas\.(\w+)", r"https://pandas.pydata.org/docs/reference/api/\g<0>.html"),
    (r"transformers(\.\w+)+", "https://huggingface.co/docs/transformers/index"),
    (r"lightning(\.\w+)+", "https://lightning.ai/docs/pytorch/stable/"),
)


def address(name: str) -> str | None:
    """The page of a name of another package."""
    for pattern, page in RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(page)
    return None


def link(
    app: Sphinx, env: Any, node: pending_xref, content: nodes.Element
) -> nodes.reference | None:
    """Sphinx's ``missing-reference``: what this documentation does not hold itself."""
    uri = address(node.get("reftarget", ""))
    if uri is None:
        return None
    return nodes.reference("", "", content, refuri=uri, internal=False)


def setup(app: Sphinx) -> dict[str, bool]:
    """Listens."""
    app.connect("missing-reference", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
