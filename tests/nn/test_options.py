"""SBMOptions and EncoderConfig: one place for options, and errors in one grammar."""

from __future__ import annotations

import warnings

import pytest
import torch

from sbmgraph.nn import (
    EncoderConfig,
    GPSBlock,
    MembershipNetwork,
    SBMAttention,
    SBMConv,
    SBMHeads,
    SBMOptions,
    SBMTransformer,
    Transformer,
    gps,
)
from sbmgraph.nn.models import attention_options, build_attention, build_model

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def test_flat_arguments_and_an_object_are_the_same() -> None:
    options = SBMOptions(num_clusters=7, init_density=0.1, membership="softmax")
    flat = SBMConv(4, 2, 3, 7, init_density=0.1, membership="softmax")
    assert SBMConv(4, 2, 3, options=options).options == flat.options == options
    assert SBMConv(4, 2, options=options, num_clusters=5).options.num_clusters == 5
    assert SBMConv(4, 2, options=options).num_clusters == 7
    assert SBMConv(4, 2).num_clusters == 128
    assert SBMOptions(**options.to_dict()) == options
    assert set(SBMOptions.names()) < set(attention_options("sbm"))


def test_models_share_configurations() -> None:
    config = EncoderConfig(vocab_size=9, num_classes=2, channels=8, max_length=6, num_layers=1)
    options = SBMOptions(num_clusters=3)
    torch.manual_seed(0)
    first = SBMTransformer.from_config(config, options)
    torch.manual_seed(0)
    second = SBMTransformer(9, 2, 8, max_length=6, num_layers=1, num_clusters=3)
    torch.manual_seed(0)
    third = build_model("sbm", config, **options.to_dict())
    torch.manual_seed(0)
    fourth = build_model("sbm", **config.to_dict(), num_clusters=3)
    states = [model.state_dict() for model in (first, second, third, fourth)]
    for state in states[1:]:
        assert list(state) == list(states[0])
        assert all(torch.equal(state[name], states[0][name]) for name in state)
    assert first.config == config
    assert EncoderConfig(**config.to_dict()) == config
    full = Transformer.from_config(config, lambda: build_attention("full", 8, 2))
    assert type(full) is Transformer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_clusters": 0}, "'num_clusters' must be an integer >= 1, got 0"),
        ({"num_samples": 1.5}, "'num_samples' must be an integer >= 1, got 1.5"),
        ({"membership": "tanh"}, "'membership' must be one of 'sigmoid', 'softmax', got 'tanh'"),
        ({"affinity": "full"}, "'affinity' must be one of 'clusters', 'free'"),
        ({"cluster_init": "he"}, "'cluster_init' must be one of 'kaiming', 'authors'"),
        ({"temperature": 0.0}, "'temperature' must be a number in"),
        ({"temperature": float("nan")}, "'temperature' must be a number in"),
        ({"learn_temperature": 1}, "'learn_temperature' must be True or False, got 1"),
        ({"init_density": 1.5}, "'init_density' must be a number in"),
        ({"init_density": 0}, "'init_density' must be a number in"),
        ({"exploration": -0.1}, "'exploration' must be a number in"),
        ({"max_density": 0.005}, "'max_density' must be above 'exploration' = 0.01"),
        ({"max_density": 0.5, "init_density": 1}, "'max_density' must be 1 or None for dense"),
        ({"law": ["poisson"]}, "'law' must be one of"),
    ],
)
def test_bad_options(values: dict, message: str) -> None:
    for build in (
        lambda: SBMOptions(**values),
        lambda: SBMConv(4, 2, **values),
        lambda: SBMHeads(4, 2, **values),
        lambda: SBMTransformer(4, 2, **values),
        lambda: build_attention("sbm", 4, 2, **values),
    ):
        with pytest.raises(ValueError, match=message):
            build()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": 0}, "'channels' must be an integer >= 1"),
        ({"dropout": 1.0}, "'dropout' must be a number in"),
        ({"pooling": "max"}, "'pooling' must be one of 'mean', 'padded_mean', 'cls', 'none'"),
        ({"padded_length": 9}, "'padded_length' must be None unless 'pooling' is 'padded_mean'"),
        ({"num_documents": 3}, "'num_documents' must be 1 or 2, got 3"),
        ({"num_documents": 2, "pooling": "none"}, "'pooling' must not be 'none'"),
        ({"embedding_std": -1.0}, "'embedding_std' must be a number in"),
        ({"head_channels": 0}, "'head_channels' must be an integer >= 1"),
    ],
)
def test_bad_configurations(values: dict, message: str) -> None:
    for build in (
        lambda: EncoderConfig(vocab_size=9, num_classes=2, **values),
        lambda: SBMTransformer(9, 2, **values),
        lambda: build_model("full", vocab_size=9, num_classes=2, **values),
    ):
        with pytest.raises(ValueError, match=message):
            build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: SBMConv(4, 2, aggr="max"),
        lambda: SBMConv(4, 2, flow="target_to_source"),
        lambda: SBMConv(4, 2, node_dim=1),
        lambda: SBMAttention(4, 2, causal=True),
        lambda: SBMHeads(4, 2, causal=True),
        lambda: MembershipNetwork(4, 2, 3, causal=True),
        lambda: SBMTransformer(9, 2, causal=True),
        lambda: GPSBlock(4, None, attn_kwargs={"causal": True}),
    ],
)
def test_an_unknown_argument_names_what_is_accepted(build) -> None:
    with pytest.raises(ValueError, match=r"must be among .*num_clusters, .*got '\w+'"):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SBMConv(2.5, 2), "'in_channels' must be a positive integer or -1"),
        (lambda: SBMConv((4, 4, 4), 2), "'in_channels' must be a positive integer or -1"),
        (lambda: SBMConv(0, 2), "'in_channels' must be a positive integer or -1"),
        (lambda: SBMConv(4, 2, 0), "'heads' must be an integer >= 1, got 0"),
        (lambda: SBMConv(4, 2, 2, 0), "'num_clusters' must be an integer >= 1, got 0"),
        (lambda: SBMConv(4, 2, dropout=float("nan")), "'dropout' must be a number in"),
        (lambda: SBMConv(4, 2, concat="no"), "'concat' must be True or False"),
        (lambda: SBMConv(4, 2, bias_init="ones"), "'bias_init' must be one of"),
        (lambda: SBMConv(4, 2, options={"heads": 2}), "'options' must be SBMOptions, got dict"),
        (lambda: SBMConv(4, 2)((X, X, X)), "'x' must be a tensor or a pair of source and target"),
        (lambda: SBMConv(4, 2)(X.double()), r"'x' must have the layer's dtype torch.float32"),
        (lambda: SBMConv(4, 2)((X, X.double())), r"'x' must have the layer's dtype"),
        (lambda: SBMConv(4, 2)(X, (X, X, X)), "'batch' must hold a batch vector for source and"),
        (lambda: SBMConv(4, 2)(X, size=(6, 5)), r"'size' must be \(6, 6\) like the nodes"),
        (lambda: SBMConv(4, 2)(X, size=6), "'size' must hold the numbers of source and target"),
        (lambda: SBMConv(4, 2)(None), "'x' must be a tensor of shape"),
        (lambda: build_model("sbm", num_classes=2), "'vocab_size' must be a positive integer"),
        (lambda: build_model("sbm", config={}), "'config' must be an EncoderConfig"),
        (lambda: Transformer(9, 2, "full"), "'attention' must make a layer's attention"),
        (lambda: Transformer(9, 2, X.sum, speed=3), "must be among attention, .*got 'speed'"),
    ],
)
def test_bad_arguments(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", ["sbm", "full", "linear"])
def test_attentions_take_batches_by_position(name: str) -> None:
    torch.manual_seed(0)
    attention = build_attention(name, 8, 2).eval()
    x, batch = torch.randn(6, 8), torch.tensor([0, 0, 1, 1, 1, 1])
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    named = attention(x, batch=batch, generator=seeds[0])
    assert torch.equal(attention(x, batch, seeds[1]), named)


def test_multihead_means_sbm_and_says_so_once() -> None:
    gps._warn_multihead.cache_clear()
    with pytest.warns(UserWarning, match="'multihead' of a GPSBlock runs SBM attention"):
        GPSBlock(4, None, attn_type="multihead")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GPSBlock(4, None, attn_type="multihead")


def test_old_names_and_state_dicts_still_work() -> None:
    torch.manual_seed(0)
    model = SBMTransformer(9, 2, channels=8, num_clusters=3, max_length=6)
    old = {
        name.replace("layers.", "blocks.").replace("attention.membership", "membership"): value
        for name, value in model.state_dict().items()
    }
    assert "blocks.0.attention.conv.membership.clusters" in old
    torch.manual_seed(1)
    other = SBMTransformer(9, 2, channels=8, num_clusters=3, max_length=6)
    other.load_state_dict(old)
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    with pytest.warns(DeprecationWarning, match="now called 'layers'"):
        assert other.blocks is other.layers
    with pytest.warns(DeprecationWarning, match="now called TransformerLayer"):
        from sbmgraph.nn.transformer import TransformerBlock
    assert isinstance(other.layers[0], TransformerBlock)
