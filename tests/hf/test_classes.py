"""Conversion there and back, configurations, initialisation, and files."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

transformers = pytest.importorskip("transformers")

from sbmgraph import hf
from sbmgraph.hf import convert, revert
from sbmgraph.nn import SBMHeads
from tests.hf.conftest import SIZES, TEXT

ALL = [family for family in SIZES if family != "ModernBert"]


def bits(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def seeded(model, batch) -> torch.Tensor:
    torch.manual_seed(0)
    return model(**batch).last_hidden_state.detach()


@pytest.mark.parametrize("family", ALL)
def test_there_and_back(family: str, build, inputs) -> None:
    model = build(family)
    kind, before, batch = type(model), bits(model), inputs(family)
    out = seeded(model, batch)
    convert(model, num_clusters=4, init_density=0.3)
    assert type(model).__name__ == f"SBM{kind.__name__}"
    assert isinstance(model, kind)
    assert not torch.equal(seeded(model, batch), out)
    assert revert(model) is model
    assert type(model) is kind
    assert type(model.config) is kind.config_class
    assert not hasattr(model.config, "sbm")
    after = bits(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    torch.testing.assert_close(seeded(model, batch), out)


@pytest.mark.parametrize("family", ALL)
def test_saved_and_loaded_is_equal_to_the_bit(family: str, build, inputs, tmp_path: Path) -> None:
    model = convert(build(family), num_clusters=4, init_density=0.3, exploration=0.02)
    first = model.heads()[0]
    first.set_dense()
    if len(model.heads()) > 1:
        model.heads()[1].set_dense(False, 0.7)
    batch = inputs(family)
    expected = seeded(model, batch)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    for load in (type(model).from_pretrained, transformers.AutoModel.from_pretrained):
        loaded = load(tmp_path).eval()
        assert type(loaded) is type(model)
        mine, theirs = bits(model), bits(loaded)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(theirs[name], value) for name, value in mine.items())
        assert torch.equal(seeded(loaded, batch), expected)
        assert loaded.heads()[0].dense
        assert loaded.heads()[0].options.exploration == 0.02


def test_models_share_nothing_through_their_configuration(inputs) -> None:
    config = transformers.BertConfig(**TEXT)
    first, second = (transformers.BertModel(config).eval() for _ in range(2))
    batch = inputs("Bert")
    out = seeded(second, batch)
    convert(first, num_clusters=4, init_density=0.2)
    assert type(config) is transformers.BertConfig
    assert torch.equal(seeded(second, batch), out)


def test_plain_loading_never_goes_unnoticed(
    build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The plain class warns twice: of the model type, and of the heads' weights."""
    convert(build("Bert"), num_clusters=4).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sbm_bert"
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        transformers.BertModel.from_pretrained(tmp_path)
    finally:
        logger.removeHandler(caplog.handler)
    text = "\n".join(r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)
    assert "sbm_bert" in text
    assert "membership" in text


@pytest.mark.slow
def test_transformers_alone_does_not_know_the_type(build, tmp_path: Path) -> None:
    convert(build("Bert"), num_clusters=4).save_pretrained(tmp_path)
    code = f"from transformers import AutoModel; AutoModel.from_pretrained({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "sbm_bert" in done.stderr


@pytest.mark.parametrize("name", ["Model", "ForMaskedLM", "ForSequenceClassification"])
def test_sbm_bert_round_trip(name: str, inputs, tmp_path: Path) -> None:
    kind = getattr(hf, f"SBMBert{name}")
    config = hf.SBMBertConfig(**TEXT, num_clusters=6, init_density=0.2, num_labels=3)
    torch.manual_seed(1)
    model = kind(config).eval()
    assert [h.options.num_clusters for h in model.heads()] == [6, 6]
    model.save_pretrained(tmp_path)
    auto = getattr(transformers, f"Auto{name if name == 'Model' else f'Model{name}'}")
    loaded = auto.from_pretrained(tmp_path).eval()
    assert type(loaded) is kind
    batch = inputs("Bert")
    outs = []
    for each in (model, loaded):
        torch.manual_seed(0)
        outs.append(each(**batch)[0])
        assert each.heads()[0].membership.offset == pytest.approx(
            math.log(math.sqrt(0.2) / (1 - math.sqrt(0.2)))
        )
    assert torch.equal(*outs)
    assert loaded.config.sbm["init_density"] == 0.2
    from_config = auto.from_config(loaded.config)
    assert type(from_config) is kind


def test_sbm_bert_starts_as_this_library_does() -> None:
    """Transformers' standard deviation of 0.02 would leave all memberships alike."""
    torch.manual_seed(0)
    sizes = {**TEXT, "hidden_size": 64, "num_hidden_layers": 1}
    model = hf.SBMBertModel(hf.SBMBertConfig(**sizes, num_clusters=64))
    network = model.heads()[0].membership
    channels = 32
    assert float(network.clusters.std()) == pytest.approx(math.sqrt(2 / channels), rel=0.1)
    # torch's linear layers: uniform within 1/sqrt(channels), so a deviation of that over sqrt(3)
    for linear in (network.phi[0], network.phi[2]):
        assert float(linear.weight.std()) == pytest.approx(1 / math.sqrt(3 * channels), rel=0.1)
    assert float(model.embeddings.word_embeddings.weight.std()) == pytest.approx(0.02, rel=0.1)


def test_heads_missing_from_a_file_start_as_this_library_does(build, tmp_path: Path) -> None:
    plain = build("Bert")
    plain.save_pretrained(tmp_path)
    config = hf.SBMBertConfig(**TEXT, num_clusters=16, init_density=0.4)
    torch.manual_seed(0)
    model = hf.SBMBertModel.from_pretrained(tmp_path, config=config)
    assert torch.equal(
        model.encoder.layer[0].attention.self.query.weight,
        plain.encoder.layer[0].attention.self.query.weight,
    )
    network = model.heads()[0].membership
    assert float(network.clusters.detach().std()) == pytest.approx(math.sqrt(2 / 8), rel=0.25)
    assert network.offset == pytest.approx(math.log(math.sqrt(0.4) / (1 - math.sqrt(0.4))))
    assert not model.heads()[0].dense


def test_the_sparse_masked_lm_head_is_the_dense_one(inputs) -> None:
    torch.manual_seed(0)
    model = hf.SBMBertForMaskedLM(hf.SBMBertConfig(**TEXT, num_clusters=4)).double().eval()
    batch = inputs("Bert")
    labels = torch.where(torch.rand(3, 11) < 0.3, batch["input_ids"], -100)
    torch.manual_seed(1)
    sparse = model(**batch, labels=labels)
    torch.manual_seed(1)
    logits = model(**batch).logits
    assert logits.shape == (3, 11, 50)
    torch.testing.assert_close(sparse.logits, logits[labels != -100])
    dense = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(sparse.loss, dense)
    weights = list(model.parameters())
    gradients = [torch.autograd.grad(x, weights, allow_unused=True) for x in (sparse.loss, dense)]
    for mine, theirs in zip(*gradients, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-8)
    torch.manual_seed(1)
    counted = model(**batch, labels=labels, num_items_in_batch=100).loss
    torch.testing.assert_close(counted * 100, dense * int((labels != -100).sum()))
    torch.manual_seed(1)
    as_tuple = model(**batch, labels=labels, return_dict=False)
    torch.testing.assert_close(as_tuple[0], dense)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda build: convert(torch.nn.Linear(2, 2)), "'model' must be a Transformers model"),
        (lambda build: convert(convert(build("Bert"))), "must not have SBM heads already"),
        (lambda build: convert(build("Bert"), num_clusters=0), "'num_clusters' must be"),
        (lambda build: convert(build("Bert"), clusters=3), "the arguments of convert must be"),
        (lambda build: convert(build("Bert"), init_density=1.5), "'init_density' must be"),
        (lambda build: revert(build("Bert")), "'model' must be a model with SBM heads, got Bert"),
        (
            lambda build: convert(
                transformers.GPT2Model(
                    transformers.GPT2Config(vocab_size=9, n_embd=8, n_head=2, n_layer=1)
                )
            ),
            "'model' must be an encoder of type bert, .*got 'gpt2'",
        ),
        (
            lambda build: hf.SBMBertModel(transformers.BertConfig(**TEXT)),
            "'config' must be a SBMBertConfig, got BertConfig",
        ),
        (lambda build: hf.SBMBertConfig(**TEXT, law="normal"), "'law' must be one of"),
        (
            lambda build: convert(build("Bert")).set_attn_implementation("eager"),
            "'attn_implementation' must be 'sbm' .*revert",
        ),
        (
            lambda build: hf.SBMBertModel(
                hf.SBMBertConfig(**TEXT, attn_implementation="sdpa")
            ),
            "'attn_implementation' must be 'sbm' for a model with SBM heads, got 'sdpa'",
        ),
    ],
)  # fmt: skip
def test_bad_input(make, message: str, build) -> None:
    with pytest.raises(ValueError, match=message):
        make(build)


def test_clip_points_to_its_vision_model() -> None:
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
        vision_config={**SIZES["CLIPVision"], "num_hidden_layers": 1},
    )
    with pytest.raises(ValueError, match="CLIPVisionModel"):
        convert(transformers.CLIPModel(config))


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="SBMGPT2Model"):
        _ = hf.SBMGPT2Model
    with pytest.raises(ImportError):
        from sbmgraph.hf import nothing  # noqa: F401


def test_half_precision_models_convert(build, inputs) -> None:
    model = convert(build("Bert").to(torch.bfloat16), num_clusters=4, init_density=0.5)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    out = model(**inputs("Bert")).last_hidden_state
    assert out.dtype == torch.bfloat16
    assert bool(torch.isfinite(out).all())
    assert all(isinstance(heads, SBMHeads) for heads in model.heads())
