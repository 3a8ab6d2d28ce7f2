"""The models of the benchmarks behind one switch: one encoder, nine kinds of attention."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import nn

from sbmgraph.checks import check_choice, describe
from sbmgraph.nn.attention import FlatSBMAttention
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
from sbmgraph.nn.config import EncoderConfig, split_channels
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
    head_channels = split_channels(channels, heads, head_channels)
    if name == "sbm":
        return FlatSBMAttention(channels, heads, head_channels, **options)
    inner = BASELINES[name](heads, head_channels, max_length, **options)
    return MultiHeadAttention(channels, inner)


def build_model(name: str, config: EncoderConfig | None = None, **kwargs: Any) -> Transformer:
    """Makes a model; all differ in their attention alone.

    Args:
        name (str): One of :data:`MODELS`.
        config (EncoderConfig, optional): The encoder. (default: made from keyword arguments)
        **kwargs (optional): Fields of :class:`~sbmgraph.nn.EncoderConfig` where ``config`` is not
            given, and options of the attention, see :func:`attention_options`.

    Raises:
        ValueError: If the model or an option is unknown, or a value is missing or out of range.
    """
    known = attention_options(name)
    options = dict(kwargs)
    if config is None:
        config, options = EncoderConfig.split(kwargs)
    elif not isinstance(config, EncoderConfig):
        raise ValueError(f"'config' must be an EncoderConfig, got {describe(config)}")
    if "dropout" in known:
        options["dropout"] = config.weight_dropout
    attention = partial(
        build_attention,
        name,
        config.channels,
        config.heads,
        config.head_channels,
        config.max_length + (config.pooling == "cls"),
        **options,
    )
    return Transformer.from_config(config, attention)
