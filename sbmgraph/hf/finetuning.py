"""Fine-tuning encoders of Transformers on GLUE with this library's training."""

from __future__ import annotations

from typing import Any

import torch

from sbmgraph.hf.classifier import EncoderClassifier
from sbmgraph.nn.config import EncoderConfig
from sbmgraph.training.finetuning import GlueClassifier
from sbmgraph.training.language_cli import FinetuneCLI


class EncoderGlueClassifier(GlueClassifier):
    """:class:`~sbmgraph.training.finetuning.GlueClassifier` that may take a Transformers encoder.

    Args:
        encoder: Folder of the encoder, converted or not; sizes are its own, ``name`` is ``"sbm"``
            or ``"full"``, and options of ``"sbm"`` are those of
            :class:`~sbmgraph.hf.classifier.EncoderClassifier`. (default: this library's encoder)
        **kwargs: Of :class:`~sbmgraph.training.finetuning.GlueClassifier`.

    Raises:
        ValueError: If ``pretrained`` is given too, or the encoder cannot be taken.
    """

    def __init__(self, encoder: str | None = None, **kwargs: Any) -> None:
        if encoder is not None and kwargs.get("pretrained") is not None:
            raise ValueError(f"'encoder' must be None beside 'pretrained', got {encoder!r}")
        # Not yet a module: torch's own attributes come with its __init__.
        object.__setattr__(self, "_encoder", encoder)
        super().__init__(**kwargs)
        self.save_hyperparameters()

    def make_model(self, config: EncoderConfig, options: dict[str, Any]) -> torch.nn.Module:
        """The encoder of the folder with a classifier, or this library's own."""
        if self._encoder is None:
            return super().make_model(config, options)
        name = self.hparams["name"]
        return EncoderClassifier(self._encoder, config.num_classes, name, config.dropout, **options)


class EncoderFinetuneCLI(FinetuneCLI):
    """The parts of a run of fine-tuning, with encoders of Transformers too."""

    module_class = EncoderGlueClassifier
