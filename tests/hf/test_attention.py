"""Encoders over sampled graphs against Transformers' own attention."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

from sbmgraph import record
from sbmgraph.hf import FAMILIES, convert
from sbmgraph.hf.attention import sbm_attention, sbm_mask
from sbmgraph.hf.families import attention_modules
from sbmgraph.nn import MembershipNetwork
from tests.hf.conftest import SIZES, TEXTS


def dispatches(family: str) -> bool:
    """Whether this version of Transformers lets the family's attention be chosen."""
    module = inspect.getmodule(getattr(transformers, f"{family}Model"))
    return "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(module)


@pytest.fixture(params=SIZES)
def family(request: pytest.FixtureRequest) -> str:
    if not dispatches(request.param):
        pytest.skip(f"{request.param} chooses its attention otherwise in this version")
    return request.param


def test_every_family_is_tested() -> None:
    kinds = {getattr(transformers, f"{family}Config").model_type for family in SIZES}
    assert kinds == set(FAMILIES)


def valid(hidden: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    mask = batch.get("attention_mask")
    return hidden.flatten(0, 1) if mask is None else hidden[mask.bool()]


def test_density_one_is_the_original(family: str, build, inputs) -> None:
    batch = inputs(family)
    model = build(family)
    before = valid(model(**batch).last_hidden_state, batch)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    assert convert(model, num_clusters=4) is model
    after = valid(model(**batch).last_hidden_state, batch)
    assert before.std() > 0.1
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    for name, value in kept.items():
        assert torch.equal(model.state_dict()[name], value), name


def test_any_density_is_eager_attention_under_the_sampled_mask(
    family: str, build, inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth: Transformers' own eager attention, the recorded graph of each layer added to its
    scores as a mask; outputs, and gradients of all its weights. What the estimator sends back
    through the memberships has a truth of its own elsewhere and is cut."""
    infer = MembershipNetwork.forward
    monkeypatch.setattr(
        MembershipNetwork,
        "forward",
        lambda self, q, k, *args, **kw: infer(self, q.detach(), k.detach(), *args, **kw),
    )
    batch = inputs(family, padded=False)
    model = convert(build(family), num_clusters=4, init_density=0.6)
    for seed in range(50):  # eager attention has no rows without an edge
        torch.manual_seed(seed)
        with record(model) as runs:
            out = model(**batch).last_hidden_state
        masks = [dense_mask(run.graph, out.size(0)) for run in runs]
        if all(bool(mask.any(-1).all()) for mask in masks):
            break
    else:
        raise AssertionError("no sample without an empty row")
    assert all(0.2 < float(mask.float().mean()) < 0.9 for mask in masks)
    target = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out * target).sum().backward()

    eager = build(family, "eager")
    used = iter(masks)
    where = inspect.getmodule(type(attention_modules(eager)[0].module))
    original = where.eager_attention_forward

    def masked(module, query, key, value, attention_mask, *args, **kwargs):
        if getattr(module, "sliding_window", None) is None:
            bias = torch.zeros(*query.shape[:2], query.size(2), key.size(2))
            attention_mask = bias.masked_fill(~next(used), float("-inf"))
        return original(module, query, key, value, attention_mask, *args, **kwargs)

    monkeypatch.setattr(where, "eager_attention_forward", masked)
    expected = eager(**batch).last_hidden_state
    (expected * target).sum().backward()
    assert next(used, None) is None
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-5)
    mine = {n: p.grad for n, p in model.named_parameters() if ".membership." not in n}
    theirs = {n: p.grad for n, p in eager.named_parameters()}
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        if gradient is None:
            assert mine[name] is None, name
        else:
            torch.testing.assert_close(mine[name], gradient, atol=5e-4, rtol=1e-4)


def dense_mask(graph, size: int) -> torch.Tensor:
    """[B, H, N, N] (query, key) of a graph over ``size`` sequences of one length."""
    length = graph.num_queries // size
    mask = torch.zeros(size, graph.heads, length, length, dtype=torch.bool)
    key, query = graph.edge_index
    mask[query // length, graph.head, query % length, key % length] = True
    return mask


@pytest.mark.parametrize("family", TEXTS)
def test_padding_changes_nothing(family: str, build, inputs) -> None:
    """A sequence alone, and the same with padding behind it."""
    if not dispatches(family):
        pytest.skip("chooses its attention otherwise in this version")
    model = convert(build(family), num_clusters=4, init_density=0.5)
    batch = inputs(family)
    tokens = batch["input_ids"][1:2]
    mask = batch["attention_mask"][1:2]
    outs = []
    for ids, valid_tokens in ((tokens[:, :7], None), (tokens, mask)):
        torch.manual_seed(0)
        out = model(input_ids=ids, attention_mask=valid_tokens).last_hidden_state
        outs.append(out[:, :7])
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)


def test_weights_are_the_sampled_ones(build, inputs) -> None:
    model = convert(build("Bert"), num_clusters=4, init_density=0.4)
    batch = inputs("Bert")
    torch.manual_seed(0)
    with record(model) as runs:
        out = model(**batch, output_attentions=True)
    torch.manual_seed(0)
    plain = model(**batch)
    torch.testing.assert_close(out.last_hidden_state, plain.last_hidden_state)
    assert len(out.attentions) == len(runs) == 2
    mask = batch["attention_mask"].bool()
    position = torch.arange(11).expand(3, 11)[mask]
    sequence = torch.arange(3).unsqueeze(1).expand(3, 11)[mask]
    for weights, run in zip(out.attentions, runs, strict=True):
        assert weights.shape == (3, 2, 11, 11)
        expected = torch.zeros(3, 2, 11, 11, dtype=torch.bool)
        key, query = run.graph.edge_index
        expected[sequence[query], run.graph.head, position[query], position[key]] = True
        assert torch.equal(weights > 0, expected)
        rows = weights.sum(-1)
        torch.testing.assert_close(rows, expected.any(-1).float())


def test_dropout_of_the_weights_is_active_in_training_only(build, inputs) -> None:
    changes = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5}
    model = convert(build("Bert", **changes), num_clusters=4, init_density=0.5)
    batch = inputs("Bert")

    def run() -> torch.Tensor:
        torch.manual_seed(0)
        return model(**batch).last_hidden_state.detach()

    for conv in model.heads():
        conv.options = type(conv.options)(**{**conv.options.to_dict(), "exploration": 0.0})
    evaluated = run()
    model.train()
    assert not torch.allclose(run(), evaluated)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.testing.assert_close(run(), evaluated)


def test_what_cannot_be_sampled_is_refused(build, inputs) -> None:
    batch = inputs("Bert")
    model = convert(build("Bert"), num_clusters=4)
    four = torch.ones(3, 1, 11, 11, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"'attention_mask' must say which tokens are valid"):
        model(batch["input_ids"], attention_mask=four)
    with pytest.raises(ValueError, match=r"causal, sliding-window and custom mask functions"):
        sbm_mask(1, mask_function=transformers.masking_utils.causal_mask_function)
    module = attention_modules(model)[0].module
    parts = [torch.randn(1, 2, 5, 8) for _ in range(3)]
    for message, kwargs in {
        "'is_causal' must be False": {"is_causal": True},
        "'sliding_window' must be None": {"sliding_window": 4},
        "'softcap' must be None": {"softcap": 1.0},
        "'position_bias' must be None": {"position_bias": torch.zeros(1)},
    }.items():
        with pytest.raises(ValueError, match=message):
            sbm_attention(module, *parts, None, **kwargs)
    longer = torch.randn(1, 2, 6, 8)
    with pytest.raises(ValueError, match="keep no cache"):
        sbm_attention(module, parts[0], longer, longer, None)


def test_attention_without_heads_is_an_error(inputs) -> None:
    config = transformers.BertConfig(**SIZES["Bert"])
    config._attn_implementation = "sbm"
    model = transformers.BertModel(config)
    with pytest.raises(ValueError, match=r"must have SBM heads .* call sbmgraph.hf.convert"):
        model(**inputs("Bert"))


def test_a_causal_model_is_refused(build) -> None:
    with pytest.raises(ValueError, match="got a configuration with is_decoder = True"):
        convert(build("Bert", is_decoder=True))
