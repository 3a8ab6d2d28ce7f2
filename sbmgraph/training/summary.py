"""The results of a run as JSON values."""

from __future__ import annotations

import platform
import resource
import sys
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer

from sbmgraph.training._former import former
from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.density import baseline_densities
from sbmgraph.training.module import SequenceClassifier
from sbmgraph.version import __version__


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
        "accuracy": metrics.get("test/accuracy"),
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
        "device": device_name(trainer.strategy.root_device),
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


def _baseline_density(model: SequenceClassifier, data: SequenceDataModule) -> float | None:
    batch = next(iter(data.test_dataloader())).to(model.device)
    batch = data.on_after_batch_transfer(batch)
    values = baseline_densities(model, batch)
    return sum(values) / len(values) if values else None


def device_name(device: torch.device) -> str:
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


def __getattr__(name: str) -> Any:
    return former(__name__, name)
