"""A default device other than the inputs' is of no matter: every allocation names its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sbmgraph import record
from sbmgraph.nn import SBMConv, SBMTransformer


@pytest.fixture
def meta_by_default() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("layout", ["csr", "bits"])
def test_layer(layout: str, request: pytest.FixtureRequest) -> None:
    conv = SBMConv(8, 4, heads=2, num_clusters=4, layout=layout)
    x, batch = torch.randn(30, 8), torch.tensor([0] * 10 + [1] * 20)
    request.getfixturevalue("meta_by_default")
    with record(conv) as runs:
        out = conv(x, batch)
    out.sum().backward()
    assert out.device.type == "cpu"
    assert bool(torch.isfinite(out).all())
    assert runs[0].graph.edge_index.device.type == "cpu"
    assert runs[0].graph.csc().row.device.type == "cpu"


def test_encoder(request: pytest.FixtureRequest) -> None:
    sizes = {"vocab_size": 10, "num_classes": 3, "channels": 16, "num_layers": 1, "max_length": 40}
    model = SBMTransformer(**sizes, num_clusters=4)
    tokens = torch.randint(10, (2, 20))
    mask = torch.ones(2, 20, dtype=torch.bool)
    request.getfixturevalue("meta_by_default")
    assert model(tokens, mask=mask).device.type == "cpu"
