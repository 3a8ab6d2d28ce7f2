"""Opening a run: the trained model and its data."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from sbmgraph.files import reading
from sbmgraph.run import Run
from sbmgraph.run.archive import find_damage
from sbmgraph.run.folder import BEST
from sbmgraph.training._former import former
from sbmgraph.training.checking import check_data_folder
from sbmgraph.training.checkpoints import load_checkpoint
from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.module import SequenceClassifier
from sbmgraph.training.summary import summarize

__all__ = ["load_run", "load_weights", "restore", "summarize"]


def load_run(
    folder: str | os.PathLike[str], checkpoint: str = BEST, root: str | Path | None = None
) -> tuple[SequenceClassifier, SequenceDataModule]:
    """A trained model, ready to evaluate, and its data.

    Usage::

        model, data = load_run("runs/listops_quick/sbm/seed1")
        with record(model.model) as runs, torch.no_grad():
            scores = model(next(iter(data.test_dataloader())))

    Args:
        folder: The run folder, as a path or a :class:`Run`.
        checkpoint: ``"best.ckpt"`` or ``"last.ckpt"``; the newest whole one takes the place of one
            that is missing or damaged.
        root: The data folder, where it has moved. (default: the one the run was trained with)

    Raises:
        ValueError: If the folder is no run folder, or holds no whole checkpoint.
    """
    run = Run(folder)
    config = run.config()
    path = run.checkpoint_folder / checkpoint
    if path.is_file():
        fault = find_damage(path)
        if fault is not None:
            warnings.warn(f"{path} is not a whole checkpoint: {fault}", stacklevel=2)
            path = run.newest_checkpoint()
    else:
        path = run.newest_checkpoint()
    model = restore(load_checkpoint(path).get("hyper_parameters"), str(path))
    load_weights(model, path)
    arguments = dict(config["data"])
    if root is not None:
        arguments["root"] = str(root)
    check_data_folder(Path(arguments.get("root", "data")))
    with reading(run.config_file, "the data of a run"):
        return model.eval(), SequenceDataModule(**arguments)


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


def __getattr__(name: str) -> Any:
    return former(__name__, name)
