"""One training run's folder: what a killed run goes on from, and what a finished one leaves.

A run folder holds::

    config.yaml          the resolved configuration, with the data folder's absolute path
    metrics.csv          one row a logged step, a column a metric
    tensorboard/         the same for TensorBoard
    checkpoints/         best.ckpt (highest validation accuracy) and last.ckpt (the last round)
    summary.json         the results, see :func:`summarize`
    density.png          every head's density over training
    graph.png            one head's sampled graph on one test input, by blocks

Every file is written beside its place and then moved there, so none is ever torn, and one process
at a time writes to a folder.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import yaml

from sbmgraph.files import reading, write_atomically
from sbmgraph.training.callbacks import run_callbacks, run_loggers
from sbmgraph.training.checking import check_data_folder
from sbmgraph.training.checkpoints import (
    BEST,
    AtomicCheckpointIO,
    best_checkpoint,
    find_damage,
    load_checkpoint,
    newest_checkpoint,
)
from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.module import SequenceClassifier
from sbmgraph.training.summary import summarize, write_json

__all__ = [
    "BEST",
    "AtomicCheckpointIO",
    "best_checkpoint",
    "load_run",
    "load_weights",
    "newest_checkpoint",
    "run_callbacks",
    "run_loggers",
    "summarize",
    "write_atomically",
    "write_json",
]


def load_run(
    folder: str | Path, checkpoint: str = BEST, root: str | Path | None = None
) -> tuple[SequenceClassifier, SequenceDataModule]:
    """A trained model, ready to evaluate, and its data.

    Usage::

        model, data = load_run("runs/listops_quick/sbm/seed1")
        with record(model.model) as runs, torch.no_grad():
            scores = model(next(iter(data.test_dataloader())))

    Args:
        folder: The run folder.
        checkpoint: ``"best.ckpt"`` or ``"last.ckpt"``; the newest whole one takes the place of one
            that is missing or damaged.
        root: The data folder, where it has moved. (default: the one the run was trained with)

    Raises:
        ValueError: If the folder is no run folder, or holds no whole checkpoint.
    """
    folder = Path(folder)
    config = read_config(folder)
    path = folder / "checkpoints" / checkpoint
    if path.is_file():
        fault = find_damage(path)
        if fault is not None:
            warnings.warn(f"{path} is not a whole checkpoint: {fault}", stacklevel=2)
            path = newest_checkpoint(folder)
    else:
        path = newest_checkpoint(folder)
    model = restore(load_checkpoint(path).get("hyper_parameters"), str(path))
    load_weights(model, path)
    arguments = dict(config["data"])
    if root is not None:
        arguments["root"] = str(root)
    check_data_folder(Path(arguments.get("root", "data")))
    with reading(folder / "config.yaml", "the data of a run"):
        return model.eval(), SequenceDataModule(**arguments)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run folder.

    Raises:
        ValueError: If it has none.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{folder}: expected a run folder with a config.yaml, found none")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, got {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        raise ValueError(f"{path}: expected the configuration of a run, got none of its data")
    return config


def restore(hyper_parameters: Any, source: str) -> SequenceClassifier:
    """The untrained model of some saved hyperparameters.

    Args:
        hyper_parameters: As :class:`SequenceClassifier` saves them.
        source: The file, for messages.

    Raises:
        ValueError: If they are not those of a model.
    """
    if not isinstance(hyper_parameters, dict):
        raise ValueError(f"{source}: expected the arguments of a model, got {hyper_parameters!r}")
    with reading(source, "a model of this package"):
        return SequenceClassifier(
            **{k: v for k, v in hyper_parameters.items() if not k.startswith("_")}
        )


def load_weights(model: SequenceClassifier, path: Path) -> None:
    """Gives a model the weights of its own task's checkpoint.

    Raises:
        ValueError: If the checkpoint is damaged, or of another task or model.
    """
    checkpoint = load_checkpoint(path)
    model.on_load_checkpoint(checkpoint)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{path}: expected the weights of this model, got {error}") from None
