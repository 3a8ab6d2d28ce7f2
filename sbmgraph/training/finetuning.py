"""Fine-tuning on a task of GLUE."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.aggregation import CatMetric

from sbmgraph.data import GLUE_TASKS, SequenceBatch, glue_scores
from sbmgraph.nn.transformer import Transformer
from sbmgraph.training.module import STAGES
from sbmgraph.training.pretraining import WarmedUp, load_encoder


class GlueClassifier(WarmedUp):
    """An encoder with a classifier over the mean of its tokens, or with one output where the task
    is a regression.

    After every pass over the development set, the task's metrics are logged as GLUE defines them,
    and their mean as ``val/score``.

    Args:
        glue_task: One of :data:`sbmgraph.data.GLUE_TASKS`.
        pretrained: Run folder or checkpoint of :class:`MaskedLanguageModel`, from which embeddings
            and layers are taken. (default: all weights are drawn)
        warmup_share: See :class:`WarmedUp`.
        embedding_std: Standard deviation of embeddings that are drawn.
        **kwargs: Of :class:`SequenceClassifier`.

    Raises:
        ValueError: If an argument is unknown or out of range, or the pre-trained model of another
            size.
        FileNotFoundError: If there is no pre-trained model.
    """

    monitor = "val/score"

    def __init__(
        self,
        glue_task: str,
        pretrained: str | None = None,
        warmup_share: float = 0.05,
        embedding_std: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if glue_task not in GLUE_TASKS:
            raise ValueError(
                f"'glue_task' must be one of {', '.join(GLUE_TASKS)}, got {glue_task!r}"
            )
        super().__init__(warmup_share=warmup_share, embedding_std=embedding_std, **kwargs)
        self.save_hyperparameters()
        self.regression = not GLUE_TASKS[glue_task].labels
        self.gathered: Any = torch.nn.ModuleDict(
            {
                f"{stage}_{what}": CatMetric()
                for stage in STAGES[1:]
                for what in ("predictions", "labels")
            }
        )
        if pretrained is not None:
            load_encoder(cast(Transformer, self.model), dict(self.hparams), pretrained)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of the development set."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Logs the metrics of the split that is tested on."""
        self._log_scores("test")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the checkpoint of another task or model.

        Raises:
            ValueError: Naming what differs.
        """
        super().on_load_checkpoint(checkpoint)
        theirs = checkpoint["hyper_parameters"].get("glue_task")
        if theirs != self.hparams["glue_task"]:
            raise ValueError(
                f"'ckpt_path' must be a checkpoint of {self.hparams['glue_task']!r}, "
                f"got one of {theirs!r}"
            )

    def _evaluate(self, batch: SequenceBatch, stage: str) -> Tensor:
        scores = self(batch).float()
        if self.regression:
            predictions = scores.squeeze(1)
            loss = F.mse_loss(predictions, batch.label)
        else:
            predictions = scores.argmax(dim=1)
            loss = F.cross_entropy(scores, batch.label)
        self._log(stage, {"loss": loss}, len(batch), prog_bar=True)
        if stage != "train":
            self.gathered[f"{stage}_predictions"].update(predictions)
            self.gathered[f"{stage}_labels"].update(batch.label)
        return loss

    def _log_scores(self, stage: str) -> None:
        found = []
        for what in ("predictions", "labels"):
            metric = self.gathered[f"{stage}_{what}"]
            values = metric.compute().double().cpu().numpy()
            found.append(values if self.regression else values.astype(int))
            metric.reset()
        scores = glue_scores(self.hparams["glue_task"], *found)
        self.log_dict({f"{stage}/{name}": value for name, value in scores.items()})
