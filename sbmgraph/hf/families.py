"""The encoders whose attention can be replaced, and where it sits in them."""

from __future__ import annotations

import inspect
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

#: Names of the self-attention classes of each model type; which of them exist depends on the
#: version of Transformers.
FAMILIES: dict[str, tuple[str, ...]] = {
    "bert": ("BertSelfAttention",),
    "roberta": ("RobertaSelfAttention",),
    "xlm-roberta": ("XLMRobertaSelfAttention",),
    "electra": ("ElectraSelfAttention",),
    "distilbert": ("DistilBertSelfAttention",),
    "albert": ("AlbertAttention",),
    "vit": ("ViTSelfAttention", "ViTAttention"),
    "deit": ("DeiTSelfAttention", "DeiTAttention"),
    "clip_vision_model": ("CLIPAttention",),
    "modernbert": ("ModernBertAttention",),
}

#: Model types that mix global layers with layers of local attention, which stay as they are.
MIXED = ("modernbert",)


class AttentionModule(NamedTuple):
    """A self-attention of an encoder.

    Attributes:
        name: Its qualified name.
        module: The module that calls Transformers' attention interface.
        heads: The number of heads.
        channels: Channels of a head.
    """

    name: str
    module: nn.Module
    heads: int
    channels: int


def family_of(config: PreTrainedConfig) -> str:
    """The model type of an encoder whose attention can be replaced.

    Raises:
        ValueError: If the type is unknown, or the model a decoder.
    """
    kind = config.model_type.removeprefix("sbm_")
    if kind not in FAMILIES:
        hint = ""
        if kind == "clip":
            hint = "; of CLIP take its vision model: CLIPVisionModel, or 'model.vision_model'"
        raise ValueError(
            f"'model' must be an encoder of type {', '.join(FAMILIES)}, got {kind!r}{hint}"
        )
    for flag in ("is_decoder", "add_cross_attention"):
        if getattr(config, flag, False):
            raise ValueError(
                f"'model' must be an encoder, whose tokens see each other both ways, got a "
                f"configuration with {flag} = True"
            )
    return kind


def attention_modules(model: PreTrainedModel) -> list[AttentionModule]:
    """The self-attentions of an encoder that see all tokens, each once.

    Raises:
        ValueError: If there is none that goes through Transformers' attention interface.
    """
    kind = family_of(model.config)
    config = model.config
    heads = config.num_attention_heads
    channels = getattr(config, "head_dim", None) or config.hidden_size // heads
    found = [
        AttentionModule(name, module, heads, channels)
        for name, module in model.named_modules()
        if type(module).__name__ in FAMILIES[kind]
        and "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(type(module).forward)
        and not is_local(module)
    ]
    if not found:
        raise ValueError(
            f"'model' must hold a self-attention that goes through Transformers' attention "
            f"interface, got {type(model).__name__} without one (a newer version of Transformers "
            "may have it)"
        )
    return found


def is_local(module: nn.Module) -> bool:
    """Whether a self-attention sees a window alone."""
    return getattr(module, "sliding_window", None) is not None
