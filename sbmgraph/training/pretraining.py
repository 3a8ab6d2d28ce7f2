"""Pre-training an encoder to name hidden tokens, and taking over what it has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from sbmgraph.checks import check_range
from sbmgraph.data import SequenceBatch, mask_tokens
from sbmgraph.data.masked_text import Masked
from sbmgraph.nn.masked_lm import MaskedLMHead
from sbmgraph.nn.transformer import Transformer
from sbmgraph.run import Run
from sbmgraph.training.checkpoints import load_checkpoint
from sbmgraph.training.module import SequenceClassifier

#: Hyper-parameters in which a pre-trained encoder and the model that takes it over agree.
SHARED = ("name", "vocab_size", "channels", "heads", "num_layers", "ffn_channels")


class WarmedUp(SequenceClassifier):
    """A module whose warm-up is a share of the run, however many steps that has.

    Args:
        warmup_share: Share of the optimizer steps in which the rate grows, in place of
            ``warmup_steps``.
        **kwargs: Of :class:`SequenceClassifier`.
    """

    def __init__(self, warmup_share: float = 0.01, **kwargs: Any) -> None:
        check_range("warmup_share", warmup_share, 0.0, 1.0, high_open=True)
        super().__init__(**kwargs)
        self.save_hyperparameters()

    def configure_optimizers(self) -> dict[str, Any]:
        """As its base, after the steps of the warm-up have been counted."""
        steps = int(self.trainer.estimated_stepping_batches)
        self.hparams["warmup_steps"] = int(self.hparams["warmup_share"] * steps)
        return super().configure_optimizers()


class MaskedLanguageModel(WarmedUp):
    """An encoder trained to name hidden tokens (Devlin et al., NAACL 2019).

    Which tokens are hidden is drawn anew in every step, from the step's own seed; the head sees
    those tokens alone. Accuracy is that of the hidden tokens, and the loss their cross-entropy, so
    that its exponential is the perplexity.

    Args:
        mask: Number of the mask token.
        special: Numbers of tokens that are never hidden.
        probability: Share of the tokens to hide.
        embedding_std: Standard deviation of the initial embeddings, which name the tokens too.
        **kwargs: Of :class:`WarmedUp` and :class:`SequenceClassifier`.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        mask: int,
        special: list[int],
        probability: float = 0.15,
        embedding_std: float = 0.02,
        **kwargs: Any,
    ) -> None:
        check_range("probability", probability, 0.0, 1.0, low_open=True)
        kwargs |= {"num_classes": kwargs["vocab_size"], "token_labels": True}
        super().__init__(embedding_std=embedding_std, **kwargs)
        self.save_hyperparameters()
        self.model.classifier = MaskedLMHead(cast(Transformer, self.model).token_embedding)

    def hide(self, tokens: Tensor, generator: torch.Generator | None = None) -> Masked:
        """Hides some of the tokens; see :func:`sbmgraph.data.mask_tokens`."""
        hparams = self.hparams
        return mask_tokens(
            tokens,
            hparams["mask"],
            hparams["vocab_size"],
            hparams["special"],
            hparams["probability"],
            generator,
        )

    def _evaluate(self, batch: SequenceBatch, stage: str) -> Tensor:
        masked = self.hide(batch.tokens)
        model = cast(Transformer, self.model)
        features, _ = model.encode(
            masked.tokens, batch.batch, batch.num_sequences, position=batch.positions
        )
        scores = model.classifier(features[masked.positions])
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        total = F.cross_entropy(scores, masked.targets, reduction="sum")
        count = max(len(masked.targets), 1)
        loss = total / count
        accuracy = self.accuracy[f"{stage}_accuracy"]
        if len(masked.targets):
            accuracy(scores, masked.targets)
        self._log(stage, {"loss": loss, "accuracy": accuracy}, count, prog_bar=True)
        return loss


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a run folder of pre-training, or the path of a checkpoint, stands for.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(path)
    if path.is_dir():
        path = Run(path).last
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a checkpoint of pre-training, found none")
    return path


def load_encoder(model: Transformer, hparams: dict[str, Any], path: str | Path) -> None:
    """Gives a model the embeddings and blocks of a pre-trained one; its classifier stays.

    Args:
        model: Takes over; its sequences may be shorter than those pre-trained on.
        hparams: Hyper-parameters of the module that ``model`` belongs to.
        path: A run folder of pre-training, or a checkpoint of one.

    Raises:
        ValueError: If the file is none, or of a model of another kind or size: naming what differs.
        FileNotFoundError: If there is none.
    """
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path)
    theirs, weights = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    for key in SHARED:
        if theirs.get(key) != hparams[key]:
            raise ValueError(
                f"{path}: expected a model with {key} = {hparams[key]!r} like the one to train, "
                f"got {theirs.get(key)!r}"
            )
    if theirs["max_length"] < hparams["max_length"]:
        raise ValueError(
            f"{path}: expected a model of sequences of at least max_length = "
            f"{hparams['max_length']} tokens, got {theirs['max_length']}"
        )
    taken = {
        key.removeprefix("model."): weight
        for key, weight in weights.items()
        if key.startswith("model.") and not key.startswith("model.classifier.")
    }
    positions = "position_embedding.weight"
    taken[positions] = taken[positions][: hparams["max_length"]]
    own = {key for key in model.state_dict() if not key.startswith("classifier.")}
    if taken.keys() != own or any(taken[k].shape != model.state_dict()[k].shape for k in own):
        wrong = sorted(taken.keys() ^ own) or sorted(
            key for key in own if taken[key].shape != model.state_dict()[key].shape
        )
        raise ValueError(
            f"{path}: expected the weights of a model with the same options, but {wrong[0]} and "
            f"{len(wrong) - 1} more differ"
        )
    model.load_state_dict(taken, strict=False)
