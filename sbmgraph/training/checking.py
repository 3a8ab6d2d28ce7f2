"""Checks of a whole configuration, before any data are read or made and before any folder."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from sbmgraph.data import TASKS
from sbmgraph.nn.models import MODELS
from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.module import SequenceClassifier
from sbmgraph.training.schedule import check_warmup

_LONG = 8192  # tokens: at least what any task's sequences have
_ONE_FOLDER = re.compile(r"[^/\\\0:]+")


def check_name(name: str | None) -> None:
    """Checks that a run's name is one folder's.

    Raises:
        ValueError: If it is not.
    """
    if name is None:
        return
    whole = _ONE_FOLDER.fullmatch(name) and name.isprintable() and name == name.strip()
    if not whole or name.strip(".") == "":
        raise ValueError(f"name: expected the name of one folder, without a path, got {name!r}")


def check_seeds(seeds: list[int]) -> None:
    """Checks the seeds of runs.

    Raises:
        ValueError: If there is none, or one is out of range.
    """
    if not seeds:
        raise ValueError("seeds: expected at least one seed, got none")
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"seeds: expected numbers from 0 to {2**32 - 1}, got {seeds}")


def check_models(config: Any) -> list[str]:
    """The models that a configuration names, each once.

    Raises:
        ValueError: If one is unknown.
    """
    models = list(dict.fromkeys([config.model.name, *config.compare]))
    unknown = sorted(set(models) - set(MODELS))
    if unknown:
        raise ValueError(f"model: expected any of {', '.join(MODELS)}, got {', '.join(unknown)}")
    return models


def check_run(config: Any, training: bool) -> None:
    """Checks a configuration as far as that goes without its data.

    Args:
        config: The parsed configuration.
        training: Whether the command trains.

    Raises:
        ValueError: Naming the key, what was expected and what came.
    """
    check_name(config.name)
    models = check_models(config)
    check_seeds(config.seeds)
    check_data(config)
    if training:
        check_trainer(config)
    check_settings(config, models)


def check_data(config: Any) -> None:
    """Checks the data's arguments and the names of their options.

    Raises:
        ValueError: If one is unknown or out of range.
    """
    task, options = config.data.task, config.data.options or {}
    if task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
    parameters = inspect.signature(TASKS[task]).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    unknown = sorted(set(dict(options)) - set(known))
    if unknown:
        raise ValueError(
            f"data.options: expected of {task} any of {', '.join(known)}, got {', '.join(unknown)}"
        )
    SequenceDataModule(**config.data.as_dict())


def check_trainer(config: Any) -> None:
    """Checks the trainer's arguments that Lightning takes and a run cannot.

    Args:
        config: The parsed configuration; without ``data.round_steps`` an epoch is one of the data.

    Raises:
        ValueError: Saying what is needed instead.
    """
    trainer = config.trainer
    strategy = trainer.strategy if isinstance(trainer.strategy, str) else ""
    if re.search("spawn|fork|notebook", strategy):
        raise ValueError(
            f"trainer.strategy: expected a strategy whose processes each run the command, such as "
            f"'ddp', got {strategy!r}"
        )
    if trainer.fast_dev_run:
        raise ValueError(
            "trainer.fast_dev_run: expected false, since nothing would be tested or kept; try a "
            "setting out with '--trainer.max_steps 2 --data.round_steps 2 --model.warmup_steps 0 "
            "--name trial'"
        )
    if trainer.limit_test_batches == 0:
        raise ValueError(
            "trainer.limit_test_batches: expected at least one batch, since a run ends with its "
            "test, got 0"
        )
    if trainer.enable_checkpointing is False or trainer.barebones:
        raise ValueError(
            "trainer: expected enable_checkpointing: true and barebones: false, since a run ends "
            "with the test of its best checkpoint, got otherwise"
        )
    if trainer.accumulate_grad_batches < 1:
        raise ValueError(
            "trainer.accumulate_grad_batches: expected at least one batch, got "
            f"{trainer.accumulate_grad_batches}"
        )
    _check_machine(trainer)
    steps = trainer.max_steps
    if steps == 0 or trainer.max_epochs == 0:
        raise ValueError("trainer.max_steps: expected at least one step, got 0")
    rounds, epochs = config.data.round_steps, trainer.max_epochs
    if steps > 0 and rounds and steps % rounds:
        raise ValueError(
            f"data.round_steps: expected a divisor of trainer.max_steps = {steps}, got {rounds}"
        )
    endless = steps < 0 and (epochs is None or epochs < 0)
    if endless and trainer.max_time is None:
        raise ValueError(
            "trainer.max_steps: expected a number of steps, got -1 without a "
            "trainer.max_time that would end the run"
        )
    if endless and config.model.schedule != "constant":
        raise ValueError(
            f"trainer.max_steps: expected a number of steps, which the schedule "
            f"{config.model.schedule!r} of the learning rate needs, got -1; with trainer.max_time "
            "alone take '--model.schedule constant'"
        )
    if steps < 0 and not endless and rounds:
        steps = epochs * rounds
    if config.model.get("warmup_share") is None:
        check_warmup(config.model.schedule, config.model.warmup_steps, steps if steps > 0 else None)


def _check_machine(trainer: Any) -> None:
    """Checks that Lightning finds what a run is to be computed on."""
    keys = ("accelerator", "devices", "num_nodes", "precision", "strategy")
    values = {key: trainer[key] for key in keys if isinstance(trainer[key], str | int | list)}
    try:
        Trainer(
            **values, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
    except (MisconfigurationException, ImportError, ValueError) as error:
        raise ValueError(f"trainer: expected what Lightning can run on, got {error}") from None


def check_settings(config: Any, models: list[str]) -> None:
    """Checks the models' arguments by making each on placeholders for what the data determine.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """
    given = {
        key: value
        for key, value in config.model.as_dict().items()
        if key in inspect.signature(SequenceClassifier).parameters
    }
    given |= {"task": config.data.task, "vocab_size": 8, "num_classes": 2, "max_length": _LONG}
    with torch.random.fork_rng(devices=[]):
        for model in models:
            SequenceClassifier(**{**given, "name": model})


def check_data_folder(root: Path) -> None:
    """Checks that a run's data folder is still there.

    Raises:
        ValueError: If not.
    """
    if not root.is_dir():
        raise ValueError(
            f"{root}: expected the data folder that the run was trained with, found none; "
            "say where it is now with 'root'"
        )
