"""torch.func, shape inference, and what cannot be traced or exported."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call, grad, jacrev, vmap

from sbmgraph import SampledGraph
from sbmgraph.nn import GPSBlock, SBMAttention, SBMConv, SBMHeads, SBMTransformer
from sbmgraph.nn.models import build_model

BATCH = torch.tensor([0, 0, 0, 1, 1, 1, 1])
EDGES = torch.tensor([[0, 1, 4, 6], [1, 2, 5, 3]])


def conv(**kwargs) -> SBMConv:
    torch.manual_seed(0)
    return SBMConv(4, 3, heads=2, num_clusters=3, **kwargs).double()


def features() -> torch.Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("estimator", ["logit", "mask"])
@pytest.mark.parametrize(
    "options",
    [
        {"backend": "pyg"},
        {},
        {"membership": "softmax"},
        {"init_density": 1},
        {"local_heads": 1, "edge_dim": 1},
        {"num_samples": 2},
    ],
)
def test_functional_gradients_are_autograds(estimator: str, options: dict) -> None:
    layer = conv(estimator=estimator, **options).eval()
    weights, x = dict(layer.named_parameters()), features()
    edges = (
        {"edge_index": EDGES, "edge_attr": EDGES[:1].T.double()} if "edge_dim" in options else {}
    )

    def loss(weights: dict, x: torch.Tensor) -> torch.Tensor:
        kwargs = {"generator": torch.Generator().manual_seed(0), **edges}
        return functional_call(layer, weights, (x, BATCH), kwargs).square().sum()

    found, of_x = grad(loss, argnums=(0, 1))(weights, x)
    x.requires_grad_()
    inputs = [*weights.values(), x]
    expected = torch.autograd.grad(
        loss(weights, x), inputs, allow_unused=True, materialize_grads=True
    )
    for mine, theirs in zip([*found.values(), of_x], expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("estimator", ["logit", "mask"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_functional_gradients_with_masked_edges(estimator: str, everywhere: bool) -> None:
    torch.manual_seed(0)
    heads = SBMHeads(4, 2, num_clusters=3, init_density=0.1, estimator=estimator).double()
    query, key, value = torch.randn(3, 7, 2, 4, dtype=torch.float64)
    given = SampledGraph.from_edge_index(EDGES, 7, 7)
    bias = torch.tensor([[0.0, -torch.inf], [1, 0], [-torch.inf, -torch.inf], [2, -1]]).double()
    if everywhere:
        bias = torch.full_like(bias, -torch.inf)
    weights = dict(heads.named_parameters())

    def loss(weights: dict, query: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        kwargs = {"given": given, "bias": bias, "generator": generator}
        return functional_call(heads, weights, (query, key, value), kwargs).square().sum()

    found, *others = grad(loss, argnums=(0, 1, 2))(weights, query, bias)
    query.requires_grad_()
    bias.requires_grad_()
    inputs = [*weights.values(), query, bias]
    expected = torch.autograd.grad(loss(weights, query, bias), inputs)
    for mine, theirs in zip([*found.values(), *others], expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
        assert mine.isfinite().all()


def test_vmap_is_refused() -> None:
    layer, x = conv(), features()
    with pytest.raises(ValueError, match=r"'torch.vmap' must not map an SBM layer"):
        vmap(layer, randomness="different")(torch.stack([x, x]))
    with pytest.raises(ValueError, match=r"'torch.vmap' must not map an SBM layer"):
        jacrev(lambda x: vmap(layer, randomness="different")(x[None]))(x)


def test_shapes_are_inferred_on_meta() -> None:
    meta = torch.device("meta")
    layer = copy.deepcopy(conv()).to(meta)
    x = features().to(meta)
    assert layer(x).shape == (7, 6)
    assert layer(x, BATCH.to(meta)).shape == (7, 6)
    assert SBMAttention(8, 2).to(meta)(torch.empty(2, 5, 8, device=meta)).shape == (2, 5, 8)
    block = GPSBlock(8, None, 2).to(meta)
    assert block(torch.empty(5, 8, device=meta), None).shape == (5, 8)
    with meta:
        model = SBMTransformer(9, 3, channels=8, membership="softmax", num_clusters=4)
    tokens = torch.zeros(6, 5, dtype=torch.int64, device=meta)
    assert model(tokens).shape == (6, 3)
    assert model(tokens[0]).shape == (1, 3)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_inferred_scores_never_have_values(pooling: str) -> None:
    """Where the weights have some, too: what was inferred lies where the tokens do."""
    sizes = {"channels": 8, "num_layers": 1, "num_clusters": 3, "max_length": 8}
    model = SBMTransformer(9, 3, pooling=pooling, **sizes).half()
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    assert model(tokens.to("meta")).is_meta
    assert model(tokens.to("meta")).dtype == torch.float16
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(tokens)
    assert isinstance(model(fake), FakeTensor)


def test_fake_tensors_leave_the_process_as_it_was() -> None:
    with FakeTensorMode():
        assert SBMConv(4, 3, heads=2, num_clusters=3)(torch.randn(5, 4)).shape == (5, 6)
    assert torch.isfinite(conv()(features())).all()


def programs() -> dict[str, tuple[torch.nn.Module, torch.Tensor]]:
    """Layers and models, each with an input."""
    torch.manual_seed(0)
    sizes = {"channels": 8, "num_layers": 1, "max_length": 8}
    x, tokens = features().float(), torch.zeros(2, 5, dtype=torch.int64)
    return {
        "SBMHeads": (Lone(SBMHeads(4, 2, num_clusters=3)), torch.randn(7, 2, 4)),
        "SBMConv": (conv().float(), x),
        "SBMAttention": (SBMAttention(4, 2, num_clusters=3), x[None]),
        "SBMTransformer": (SBMTransformer(9, 3, num_clusters=3, **sizes), tokens),
        "Transformer": (build_model("full", vocab_size=9, num_classes=3, **sizes), tokens),
    }


class Lone(torch.nn.Module):
    """Heads that attend over their one input."""

    def __init__(self, heads: SBMHeads) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads(x, x, x)


SENTENCE = (
    "must run in Python (torch.compile included), got torch.export, torch.onnx or torch.jit.trace: "
    "what it computes follows the values of its input (sampled graphs, lengths of sequences), "
    "which no exported program can hold"
)


@pytest.mark.parametrize("name", programs())
@pytest.mark.parametrize("way", ["export", "export, strict", "trace", "onnx"])
def test_programs_are_refused_in_one_sentence(name: str, way: str) -> None:
    """A program would hold one sampled graph, or the empty output of shape inference."""
    layer, x = programs()[name]
    ways = {
        "export": lambda: torch.export.export(layer, (x,), strict=False),
        "export, strict": lambda: torch.export.export(layer, (x,), strict=True),
        "trace": lambda: torch.jit.trace(layer, (x,)),
        "onnx": lambda: torch.onnx.export(layer, (x,), io.BytesIO(), dynamo=False),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's, of what refuses here
        with pytest.raises(ValueError) as error:
            ways[way]()
    assert str(error.value) == f"'{name}' {SENTENCE}"
    assert layer(x) is not None  # and the layer still runs


@pytest.mark.parametrize("name", programs())
def test_newer_onnx_is_refused_too(name: str) -> None:
    """torch puts errors into one of its own, which cites them."""
    pytest.importorskip("onnxscript")
    layer, x = programs()[name]
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as error:
        torch.onnx.export(layer, (x,), dynamo=True)
    assert f"'{name}' {SENTENCE}" in str(error.value)
    assert type(error.value.__cause__) is ValueError


def test_torchscript_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'SBMConv' must run in Python, got torch.jit.script"):
        torch.jit.script(conv())


def test_pyg_explain_is_refused() -> None:
    layer = conv()
    assert layer.explain is False
    layer.explain = False
    with pytest.raises(ValueError, match=r"'explain' must be False .*use sbmgraph.nn.explain"):
        layer.explain = True
