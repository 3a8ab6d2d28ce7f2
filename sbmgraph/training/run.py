"""One training run and its folder: what a killed run goes on from, and what a finished one leaves.

A run folder holds::

    config.yaml          the resolved configuration
    metrics.csv          one row a logged step, a column a metric
    tensorboard/         the same for TensorBoard
    checkpoints/         best.ckpt (highest validation accuracy) and last.ckpt (the last round)
    summary.json         the results, see :func:`summarize`
    density.png          every head's density over training
    graph.png            one head's sampled graph on one test input, by blocks

Every file is written beside its place and then moved there, so none is ever torn.
"""

from __future__ import annotations

import csv
import ctypes
import io
import json
import os
import pickle
import platform
import resource
import sys
import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from sbmgraph.files import write_atomically
from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.density import baseline_densities
from sbmgraph.training.module import SequenceClassifier
from sbmgraph.version import __version__

BEST, LAST = "best.ckpt", "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are moved into place whole (Lightning's own go through the system's
    temporary folder, and from another disk that is a copy, which can be torn)."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Saves ``checkpoint`` to ``path``."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())


class MetricsFile(Logger):
    """Writes every logged step as a row of ``metrics.csv`` at once.

    Unlike Lightning's own logger it can go back to the row where a checkpoint was made, so that a
    resumed run neither loses nor repeats any.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self._rows: list[dict[str, Any]] = []
        self._columns = ["step"]

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """Nothing: a run folder has one version."""
        return ""

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return len(self._rows)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: ``config.yaml`` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends a row."""
        row = {key: value for key, value in metrics.items() if key != "epoch"}
        row["step"] = 0 if step is None else step
        self._rows.append(row)
        new = sorted(set(row) - set(self._columns))
        if new or len(self._rows) == 1:
            self._columns += new
            write_atomically(self.path, self._text(self._rows, header=True))
            return
        with open(self.path, "a") as file:
            file.write(self._text([row]))

    @rank_zero_only
    def truncate(self, rows: int) -> None:
        """Goes back to the file's first ``rows`` rows.

        Raises:
            ValueError: If the file has fewer.
        """
        found: list[dict[str, Any]] = []
        if self.path.exists():
            with open(self.path, newline="") as file:
                reader = csv.DictReader(file)
                found = list(reader)
                columns = list(reader.fieldnames or [])
        if len(found) < rows:
            raise ValueError(
                f"{self.path}: expected the {rows} rows that were there at the checkpoint, "
                f"got {len(found)}"
            )
        self._rows = [{k: v for k, v in row.items() if v} for row in found[:rows]]
        if not rows:
            return
        used = {key for row in self._rows for key in row} | {"step"}
        self._columns = [column for column in columns if column in used]
        write_atomically(self.path, self._text(self._rows, header=True))

    def _text(self, rows: list[dict[str, Any]], header: bool = False) -> str:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()


class KeepMetrics(Callback):
    """Keeps :class:`MetricsFile`'s place in checkpoints."""

    def __init__(self, metrics: MetricsFile) -> None:
        self.metrics = metrics
        self._fitting = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Notes whether the run trains; evaluating a checkpoint leaves the file alone."""
        self._fitting = stage == "fit"

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Sets right the step that metrics are logged with: Lightning counts one too many when a
        run goes on from the end of an epoch."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """The number of rows."""
        return {"rows": self.metrics.num_rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes back to that number."""
        if self._fitting:
            self.metrics.truncate(state_dict["rows"])


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


def run_callbacks(
    folder: Path, metrics: MetricsFile, max_time: str | dict[str, int] | timedelta | None = None
) -> list[Callback]:
    """What every run needs: best and last checkpoint, the metrics' place, and the time spent, which
    ends training at ``max_time`` (a run's parts count together; as in Lightning)."""
    common: dict[str, Any] = {
        "dirpath": folder / "checkpoints",
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
    }
    best = ModelCheckpoint(
        filename="best", monitor="val/accuracy", mode="max", save_on_train_epoch_end=False, **common
    )
    last = ModelCheckpoint(
        filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **common
    )
    return [Timer(max_time), TrimMemory(), KeepMetrics(metrics), best, last]


def run_loggers(folder: Path) -> list[Logger]:
    """``metrics.csv`` and TensorBoard."""
    tensorboard = TensorBoardLogger(folder, name="tensorboard", version="")
    return [MetricsFile(folder), tensorboard]


def newest_checkpoint(folder: Path) -> Path:
    """The newest whole checkpoint of a run folder.

    Raises:
        ValueError: If there is none.
    """
    checkpoints = sorted(
        (folder / "checkpoints").glob("[!.]*.ckpt"), key=os.path.getmtime, reverse=True
    )
    # `last` is made after `best` in a round; where both are of the same moment it is the one.
    checkpoints.sort(key=lambda path: path.name != LAST)
    for path in checkpoints:
        if _is_whole(path):
            return path
        warnings.warn(f"{path} is not a whole checkpoint and is left out", stacklevel=2)
    raise ValueError(
        f"{folder}: expected a run folder with a checkpoint, but found no whole one in "
        f"{folder / 'checkpoints'}; train with 'python tasks/lra.py fit --config ...' first"
    )


def load_run(
    folder: str | Path, checkpoint: str = BEST
) -> tuple[SequenceClassifier, SequenceDataModule]:
    """A trained model, ready to evaluate, and its data.

    Args:
        folder: The run folder.
        checkpoint: ``"best.ckpt"`` or ``"last.ckpt"``.

    Raises:
        ValueError: If the folder is no run folder, or holds no whole checkpoint.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder}: expected a run folder with a config.yaml, found none")
    path = folder / "checkpoints" / checkpoint
    if not (path.is_file() and _is_whole(path)):
        path = newest_checkpoint(folder)
    model = SequenceClassifier.load_from_checkpoint(path, map_location="cpu", weights_only=False)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    return model.eval(), SequenceDataModule(**config["data"])


def load_weights(model: SequenceClassifier, path: Path) -> None:
    """Gives a model the weights of its own task's checkpoint."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])


def training_seconds(trainer: L.Trainer) -> float:
    """Time spent in training and validation, that of the runs gone on from included."""
    timer = next(c for c in trainer.callbacks if isinstance(c, Timer))  # type: ignore[attr-defined]
    return timer.time_elapsed("train")


def summarize(
    trainer: L.Trainer, model: SequenceClassifier, data: SequenceDataModule, **extra: Any
) -> dict[str, Any]:
    """The results of a run whose test split was just evaluated.

    Returns:
        JSON values: ``task``, ``model``, ``seed``, ``accuracy`` and ``majority`` (test split),
        ``density`` (a list over layers of lists over heads; :obj:`None` without SBM layers),
        ``expected_density`` likewise, ``mean_density`` (of a baseline: of the pairs that it
        weighs; :obj:`None` where it weighs none), ``val_accuracy``, ``parameters``, ``steps``,
        ``options`` (of the data), ``batch_size`` (items of a step), ``seconds`` of training,
        ``peak_memory_bytes``, ``device``, ``versions``, and ``extra``.
    """
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    best = trainer.checkpoint_callback
    score = getattr(best, "best_model_score", None)
    return {
        "task": data.task,
        "model": model.hparams["name"],
        "seed": model.hparams["seed"],
        "accuracy": metrics["test/accuracy"],
        "majority": data.majority("test"),
        "val_accuracy": None if score is None else float(score),
        "density": _by_layer(metrics, "test/density"),
        "expected_density": _by_layer(metrics, "test/expected_density"),
        "mean_density": metrics.get("test/density", _baseline_density(model, data)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": trainer.global_step,
        "options": {**data.options, "hide_zeros": data.hide_zeros},
        "batch_size": data.batch_size * trainer.accumulate_grad_batches * trainer.world_size,
        "seconds": round(training_seconds(trainer), 1),
        "peak_memory_bytes": peak_memory(trainer.strategy.root_device),
        "device": _device_name(trainer.strategy.root_device),
        "versions": {
            "sbmgraph": __version__,
            "torch": torch.__version__,
            "lightning": L.__version__,
            "python": platform.python_version(),
        },
        **extra,
    }


def peak_memory(device: torch.device) -> int:
    """Bytes: the process's largest resident set, or what it held at most of a CUDA device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def _baseline_density(model: SequenceClassifier, data: SequenceDataModule) -> float | None:
    batch = next(iter(data.test_dataloader())).to(model.device)
    batch = data.on_after_batch_transfer(batch)
    values = baseline_densities(model, batch)
    return sum(values) / len(values) if values else None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _by_layer(metrics: dict[str, float], prefix: str) -> list[list[float]] | None:
    layers: list[list[float]] = []
    while f"{prefix}/layer{len(layers)}/head0" in metrics:
        layer = f"{prefix}/layer{len(layers)}/head"
        heads = sum(key.startswith(layer) for key in metrics)
        layers.append([round(metrics[f"{layer}{head}"], 5) for head in range(heads)])
    return layers or None


def _is_whole(path: Path) -> bool:
    try:
        torch.load(path, map_location="cpu", weights_only=False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError):
        return False
    return True
