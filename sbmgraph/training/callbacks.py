"""What every run's trainer is given: loggers, checkpoints, a clock, and a line of progress."""

from __future__ import annotations

import ctypes
import os
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer, TQDMProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from sbmgraph.run import Run
from sbmgraph.training.metrics import KeepMetrics, MetricsFile


class TrimMemory(Callback):
    """Hands free memory back to the system every :attr:`EVERY` steps, where the C library is glibc:
    tensors whose sizes change from batch to batch fragment its heap, by gigabytes in long runs."""

    EVERY = 20

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Trims."""
        if self._trim is not None and trainer.global_step % self.EVERY == 0:
            self._trim(0)


class RunProgress(TQDMProgressBar):
    """A progress bar that says which run and which of its rounds this is.

    Args:
        label: The run, e.g. ``"sbm, seed 1"``.
    """

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Names the round."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(self.description(trainer))

    def description(self, trainer: L.Trainer) -> str:
        """The run and its round, of how many where that is known."""
        text = f"{self.label}, round {trainer.current_epoch + 1}"
        steps = trainer.estimated_stepping_batches
        if steps == float("inf"):
            return text
        batches = max(int(trainer.num_training_batches), 1)
        rounds = -(-int(steps) * trainer.accumulate_grad_batches // batches)
        return f"{text} of {rounds}"


def run_callbacks(
    folder: str | os.PathLike[str],
    metrics: MetricsFile,
    max_time: str | dict[str, int] | timedelta | None = None,
    monitor: str = "val/accuracy",
) -> list[Callback]:
    """What every run needs: best (by ``monitor``, the larger the better) and last checkpoint, the
    metrics' place, and the time spent, which ends training at ``max_time`` (a run's parts count
    together; as in Lightning)."""
    run = Run(folder)
    common: dict[str, Any] = {
        "dirpath": run.checkpoint_folder,
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
    }
    best = ModelCheckpoint(
        filename=run.best.stem,
        monitor=monitor,
        mode="max",
        save_on_train_epoch_end=False,
        **common,
    )
    last = ModelCheckpoint(
        filename=run.last.stem,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        **common,
    )
    return [Timer(max_time), TrimMemory(), KeepMetrics(metrics), best, last]


def run_loggers(folder: str | os.PathLike[str], first_step: int | None = None) -> list[Logger]:
    """``metrics.csv`` and TensorBoard.

    Args:
        folder: The run's folder.
        first_step: The step that a resumed run goes on with: TensorBoard forgets what an earlier
            part logged of it and later ones.
    """
    run = Run(folder)
    tensorboard = TensorBoardLogger(
        run.path, name=run.tensorboard_folder.name, version="", purge_step=first_step or None
    )
    return [MetricsFile(run), tensorboard]
