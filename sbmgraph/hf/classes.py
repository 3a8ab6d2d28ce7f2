"""Classes of encoders with SBM heads, made from Transformers' own.

``SBMBertModel`` is ``BertModel`` whose self-attentions have SBM heads, ``SBMBertConfig`` is
``BertConfig`` with their options, and so on for every class of every family: they are made when
they are asked for, and known to the Auto classes. Their model type is ``sbm_bert`` and so on, so
that Transformers without this package does not take a saved model for one with full attention.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from sbmgraph.hf.attention import SBM_ATTENTION
from sbmgraph.hf.families import FAMILIES, attention_modules, family_of
from sbmgraph.nn import MembershipNetwork, SBMHeads, SBMOptions

# mypy takes metaclasses' classes for unhashable.
cache: Any = functools.cache

_AUTO = (
    "AutoModel",
    "AutoModelForPreTraining",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
    "AutoModelForImageClassification",
    "AutoModelForMaskedImageModeling",
)


class SBMConfigMixin:
    """What a configuration of an encoder with SBM heads has besides its family's.

    Attributes:
        sbm: Options of the heads (see :class:`~sbmgraph.nn.SBMOptions`), and under ``"layers"``
            what each layer's heads have besides weights.
    """

    sbm: dict[str, Any]
    _attn_implementation: str | None

    @property
    def sbm_options(self) -> SBMOptions:
        """The options of the heads, checked."""
        return SBMOptions(**{k: v for k, v in self.sbm.items() if k != "layers"})


class SBMModelMixin:
    """What an encoder with SBM heads does besides what its family does."""

    original: type[PreTrainedModel]
    config: Any

    def _init_weights(self, module: nn.Module) -> None:
        """Transformers' initialisation, but for the membership networks, which keep this
        library's: the normal distribution of std 0.02 leaves all memberships alike."""
        if not isinstance(module, MembershipNetwork):
            super()._init_weights(module)  # type: ignore[misc]
            return
        if not any(getattr(w, "_is_hf_initialized", False) for w in module.parameters()):
            module.reset_parameters()

    def heads(self) -> list[SBMHeads]:
        """The SBM heads, one a layer."""
        return heads_of(self)  # type: ignore[arg-type]

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """Refuses any other attention than ``"sbm"``.

        Raises:
            ValueError: Naming what to do instead.
        """
        if attn_implementation != SBM_ATTENTION:
            raise ValueError(
                "'attn_implementation' must be 'sbm' for a model with SBM heads; "
                "sbmgraph.hf.revert(model) gives full attention back, got "
                f"{attn_implementation!r}"
            )

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers; the configuration says what weights do not."""
        self.config.sbm = describe_heads(self)  # type: ignore[arg-type]
        return super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers; heads are as dense as they were when they were saved."""
        found = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        restore_heads(found[0] if isinstance(found, tuple) else found)
        return found


def attach_heads(model: PreTrainedModel) -> None:
    """Gives every self-attention of a model its SBM heads, after the model's configuration."""
    options = model.config.sbm_options
    for name, module, heads, channels in attention_modules(model):
        weight = next(module.parameters())
        if isinstance(getattr(module, "sbm", None), SBMHeads):
            raise ValueError(f"'model' must have no SBM heads yet, got some at {name}")
        module.sbm = SBMHeads(channels, heads, options=options).to(weight).train(module.training)
    restore_heads(model)


def describe_heads(model: PreTrainedModel) -> dict[str, Any]:
    """The configuration's ``sbm`` of a model as it is now."""
    layers = [
        {"dense": heads.dense, "offset": heads.membership.offset} for heads in heads_of(model)
    ]
    return {**model.config.sbm_options.to_dict(), "layers": layers}


def restore_heads(model: PreTrainedModel) -> None:
    """Makes heads as dense as a model's configuration says."""
    for state, heads in zip(model.config.sbm.get("layers", ()), heads_of(model), strict=False):
        heads.dense = bool(state["dense"])
        heads.membership.offset = float(state["offset"])


def heads_of(model: nn.Module) -> list[SBMHeads]:
    """The SBM heads of a model, one a layer."""
    return [module for module in model.modules() if isinstance(module, SBMHeads)]


@cache
def config_class(original: Any) -> type[PreTrainedConfig]:
    """The configuration of a family with SBM heads."""

    def __init__(self: Any, *args: Any, sbm: dict[str, Any] | None = None, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in SBMOptions.names() if name in kwargs}
        kwargs.setdefault("attn_implementation", SBM_ATTENTION)
        original.__init__(self, *args, **kwargs)
        self.sbm = {**SBMOptions().to_dict(), **(sbm or {}), **given}
        _ = self.sbm_options
        register_models(type(self))

    name = f"SBM{original.__name__}"
    body = {
        "model_type": f"sbm_{original.model_type}",
        "original": original,
        "__init__": __init__,
        "__module__": __name__,
        "__qualname__": name,
        "__doc__": f"``{original.__name__}`` with the options of SBM heads: by name (see "
        ":class:`~sbmgraph.nn.SBMOptions`), or as a mapping ``sbm``.",
    }
    return type(name, (SBMConfigMixin, original), body)


@cache
def model_class(original: Any) -> type[PreTrainedModel]:
    """A class of a family with SBM heads."""
    from sbmgraph.hf.bert import OVERRIDES

    config = config_class(original.config_class)

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(config, SBMConfigMixin):
            raise ValueError(
                f"'config' must be a {type(self).config_class.__name__}, got "
                f"{type(config).__name__}; sbmgraph.hf.convert(model) gives a model SBM heads"
            )
        family_of(config)
        if config._attn_implementation not in (None, SBM_ATTENTION):
            raise ValueError(
                "'attn_implementation' must be 'sbm' for a model with SBM heads, got "
                f"{config._attn_implementation!r}"
            )
        config._attn_implementation = SBM_ATTENTION
        original.__init__(self, config, *args, **kwargs)
        attach_heads(self)

    name = f"SBM{original.__name__}"
    bases = (*OVERRIDES.get(original.__name__, ()), SBMModelMixin, original)
    body = {
        "config_class": config,
        "original": original,
        "__init__": __init__,
        "__module__": __name__,
        "__qualname__": name,
        "__doc__": f"``{original.__name__}`` whose self-attentions have SBM heads.",
    }
    return type(name, bases, body)


@cache
def register_models(config: Any) -> None:
    """Makes the Auto classes know a family with SBM heads."""
    original = getattr(config, "original", None)
    if original is None:
        return
    for name in _AUTO:
        auto = getattr(transformers, name)
        try:
            found = auto._model_mapping[original]
        except KeyError:
            continue
        found = found[0] if isinstance(found, tuple) else found
        auto.register(config, model_class(found), exist_ok=True)


def register_configs() -> None:
    """Makes ``AutoConfig`` know all families."""
    for kind in FAMILIES:
        config = config_class(_original_config(kind))
        AutoConfig.register(config.model_type, config, exist_ok=True)


def _original_config(kind: str) -> type[PreTrainedConfig]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[kind]


def __getattr__(name: str) -> Any:
    """The class of a family's class with SBM heads: ``SBMViTModel`` of ``ViTModel``."""
    original: Any = getattr(transformers, name[3:], None) if name.startswith("SBM") else None
    bases = original.__mro__ if isinstance(original, type) else ()
    if PreTrainedConfig in bases and original.model_type in FAMILIES:
        return _keep(name, config_class(original))
    if PreTrainedModel in bases and getattr(original.config_class, "model_type", "") in FAMILIES:
        return _keep(name, model_class(original))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _keep(name: str, found: type) -> type:
    setattr(sys.modules[__name__], name, found)
    return found
