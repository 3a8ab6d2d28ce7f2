"""Encoders of Hugging Face Transformers over sampled graphs.

Importing this package registers the attention ``"sbm"`` with Transformers, and the classes of
encoders with SBM heads with its Auto classes.
"""

from typing import Any

from sbmgraph.hf import classes
from sbmgraph.hf.attention import SBM_ATTENTION, register
from sbmgraph.hf.conversion import convert, revert
from sbmgraph.hf.families import FAMILIES

__all__ = [
    "FAMILIES",
    "SBM_ATTENTION",
    "SBMBertConfig",
    "SBMBertForMaskedLM",
    "SBMBertForSequenceClassification",
    "SBMBertModel",
    "SBMTrainer",
    "convert",
    "revert",
]

register()
classes.register_configs()


def __getattr__(name: str) -> Any:
    """``SBMBertModel``, ``SBMViTConfig`` and all other classes with SBM heads; the trainer, which
    needs more packages than models do."""
    if name == "SBMTrainer":
        from sbmgraph.hf.trainer import SBMTrainer

        return SBMTrainer
    try:
        return getattr(classes, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
