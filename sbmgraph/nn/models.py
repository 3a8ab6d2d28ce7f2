"""The models of the benchmarks behind one switch: one encoder, nine kinds of attention."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import nn

from sbmgraph.checks import check_choice, check_positive_int
from sbmgraph.nn.attention import SBMAttention
from sbmgraph.nn.baselines import (
    EntmaxAttention,
    FullAttention,
    InnerAttention,
    LinearAttention,
    LinformerAttention,
    MultiHeadAttention,
    NystromAttention,
    PatternAttention,
    PerformerAttention,
    ReformerAttention,
)
from sbmgraph.nn.options import SBMOptions
from sbmgraph.nn.transformer import Transformer

BASELINES: dict[str, type[InnerAttention]] = {
    "full": FullAttention,
    "linear": LinearAttention,
    "linformer": LinformerAttention,
    "reformer": ReformerAttention,
    "performer": PerformerAttention,
    "nystromformer": NystromAttention,
    "pattern": PatternAttention,
    "entmax": EntmaxAttention,
}

MODELS = ("sbm", *BASELINES)
"""Names of the models."""


def attention_options(name: str) -> tuple[str, ...]:
    """The options of a model's attention, apart from its sizes.

    Raises:
        ValueError: If there is no such model.
    """
    check_choice("name", name, MODELS)
    if name == "sbm":
        return ("dropout", "bias_init", *SBMOptions.names())
    parameters = inspect.signature(BASELINES[name].__init__).parameters
    return tuple(p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY)


def build_attention(
    name: str,
    channels: int,
    heads: int,
    head_channels: int | None = None,
    max_length: int = 2048,
    **options: Any,
) -> nn.Module:
    """Makes one layer's attention, a module ``attention(x [T, C], batch=None, generator=None) ->
    [T, C]`` on flat ragged tokens.

    Args:
        name (str): One of :data:`MODELS`.
        channels (int): Channels of the tokens.
        heads (int): The number of heads.
        head_channels (int, optional): Channels of each head. (default: :obj:`channels // heads`)
        max_length (int, optional): The longest sequence. (default: :obj:`2048`)
        **options (optional): See :func:`attention_options`.

    Raises:
        ValueError: If the model or an option is unknown, or a value is out of range.
    """
    known = attention_options(name)
    for option in options:
        if option not in known:
            raise ValueError(
                f"the options of model {name!r} must be among {', '.join(known) or 'none'}, "
                f"got {option!r}"
            )
    if name == "sbm":
        return SBMAttention(channels, heads, head_channels, **options)
    check_positive_int("channels", channels)
    check_positive_int("heads", heads)
    if head_channels is None:
        if channels % heads:
            raise ValueError(
                f"'channels' must be a multiple of 'heads' = {heads} unless 'head_channels' is "
                f"given, got {channels}"
            )
        head_channels = channels // heads
    inner = BASELINES[name](heads, head_channels, max_length, **options)
    return MultiHeadAttention(channels, inner)


def build_model(
    name: str,
    *,
    vocab_size: int,
    num_classes: int,
    channels: int = 64,
    heads: int = 2,
    head_channels: int | None = None,
    num_layers: int = 2,
    ffn_channels: int = 128,
    max_length: int = 2048,
    dropout: float = 0.1,
    pooling: str = "mean",
    num_documents: int = 1,
    embedding_std: float = 1.0,
    position_std: float | None = None,
    picture_width: int | None = None,
    classifier_channels: int | None = None,
    attention_dropout: float | None = None,
    **options: Any,
) -> Transformer:
    """Makes a model; all differ in their attention alone.

    Args:
        name (str): One of :data:`MODELS`.
        attention_dropout (float, optional): Dropout probability of attention weights, where the
            attention has weights. (default: :obj:`dropout`)
        **options (optional): Options of the attention, see :func:`attention_options`.

    The other arguments are those of :class:`~sbmgraph.nn.Transformer` and :func:`build_attention`.

    Raises:
        ValueError: If the model or an option is unknown, or a value is out of range.
    """
    if "dropout" in attention_options(name):
        options["dropout"] = dropout if attention_dropout is None else attention_dropout
    attention = partial(
        build_attention,
        name,
        channels,
        heads,
        head_channels,
        max_length + (pooling == "cls"),
        **options,
    )
    return Transformer(
        vocab_size,
        num_classes,
        attention,
        channels=channels,
        num_layers=num_layers,
        ffn_channels=ffn_channels,
        max_length=max_length,
        dropout=dropout,
        pooling=pooling,
        num_documents=num_documents,
        embedding_std=embedding_std,
        position_std=position_std,
        picture_width=picture_width,
        classifier_channels=classifier_channels,
    )
