"""Giving the encoders of Transformers SBM heads, and taking them back."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from transformers import PreTrainedConfig, PreTrainedModel, modeling_utils

from sbmgraph.checks import describe
from sbmgraph.hf.attention import SBM_ATTENTION
from sbmgraph.hf.classes import (
    SBMConfigMixin,
    SBMModelMixin,
    attach_heads,
    config_class,
    model_class,
    register_models,
)
from sbmgraph.hf.families import attention_modules, family_of
from sbmgraph.nn import SBMOptions

Model = TypeVar("Model", bound=PreTrainedModel)


def convert(
    model: Model, num_clusters: int = 32, init_density: float | None = 1.0, **options: Any
) -> Model:
    """Replaces the self-attention of an encoder by SBM heads, in place.

    All weights are kept, those of the queries, keys, values and outputs too; every self-attention
    gets a membership network besides. At ``init_density=1``, the default, nothing is sampled and
    outputs are what they were; ``set_dense(False, density)`` of the heads (``model.heads()``)
    starts sampling. Layers of local attention (ModernBERT) stay as they are.

    Args:
        model (PreTrainedModel): A BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT, ALBERT, ViT, DeiT or
            ModernBERT model, or CLIP's vision model, with any head. Its class becomes one whose
            ``save_pretrained`` and ``from_pretrained`` know the heads.
        num_clusters (int, optional): The number of blocks. (default: :obj:`32`)
        init_density (float, optional): Expected density at the start. (default: :obj:`1.0`)
        **options (optional): Others of :class:`~sbmgraph.nn.SBMOptions`.

    Returns:
        PreTrainedModel: ``model``.

    Raises:
        ValueError: If the model is none of these, a decoder, or has SBM heads already, or an option
            is unknown or out of range.
    """
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"'model' must be a Transformers model, got {describe(model)}")
    if isinstance(model, SBMModelMixin) or isinstance(model.config, SBMConfigMixin):
        raise ValueError("'model' must not have SBM heads already, got a converted model")
    family_of(model.config)
    attention_modules(model)
    given = {"num_clusters": num_clusters, "init_density": init_density, **options}
    chosen = SBMOptions.gather("convert", None, given, ("model",))
    config = _recast(model.config, config_class(type(model.config)))
    config.sbm = chosen.to_dict()
    register_models(type(config))
    _become(model, model_class(type(model)), config, SBM_ATTENTION)
    attach_heads(model)
    return model


def revert(model: Model) -> Model:
    """Takes the SBM heads off a model, in place: full attention with the weights as they are now.

    Args:
        model (PreTrainedModel): A model with SBM heads.

    Returns:
        PreTrainedModel: ``model``, of its family's own class.

    Raises:
        ValueError: If the model has no SBM heads.
    """
    if not isinstance(model, SBMModelMixin):
        raise ValueError(f"'model' must be a model with SBM heads, got {type(model).__name__}")
    for _, module, _, _ in attention_modules(model):
        del module.sbm
    config = _recast(model.config, type(model.config).original)
    del config.sbm
    _become(model, type(model).original, config, "sdpa")
    return model


def _recast(config: PreTrainedConfig, kind: type[PreTrainedConfig]) -> Any:
    """A copy of a configuration as another class: models share configurations."""
    config = copy.deepcopy(config)
    config.__class__ = kind
    return config


def _become(model: Any, kind: type, config: Any, attention: str) -> None:
    old = model.config
    config._attn_implementation = attention
    for module in model.modules():
        if getattr(module, "config", None) is old:
            module.config = config
    model.__class__ = kind
    # What a class can record of its layers is looked up by the class of the model.
    registry = modeling_utils._CAN_RECORD_REGISTRY
    key = model if type(registry) is not dict else str(kind)
    registry[key] = getattr(model, "_can_record_outputs", None)
