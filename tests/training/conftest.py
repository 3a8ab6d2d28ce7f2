"""A small ListOps data module, and makers of a model and a trainer for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from sbmgraph.training import SequenceClassifier, SequenceDataModule
from sbmgraph.training.callbacks import run_callbacks, run_loggers
from sbmgraph.training.checkpoints import AtomicCheckpointIO

OPTIONS = {"num_train": 160, "num_val": 20, "num_test": 20, "min_length": 5, "max_length": 40}


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data are prepared, once for all tests."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def data(root: Path) -> SequenceDataModule:
    """Short ListOps trees in rounds of two steps of four."""
    return SequenceDataModule(
        "listops", str(root), batch_size=4, round_steps=2, options=dict(OPTIONS)
    )


def _make_model(data: SequenceDataModule, name: str = "sbm", **options: Any) -> SequenceClassifier:
    settings: dict[str, Any] = {
        "channels": 8,
        "num_layers": 1,
        "ffn_channels": 8,
        "warmup_steps": 1,
        "options": {"sbm": {"num_clusters": 4}},
    }
    return SequenceClassifier(**{**data.model_arguments, **settings, "name": name, **options})


def _make_trainer(folder: Path, **options: Any) -> L.Trainer:
    loggers = run_loggers(folder)
    settings: dict[str, Any] = {
        "max_steps": 4,
        "accelerator": "cpu",
        "devices": 1,
        "callbacks": run_callbacks(folder, loggers[0]),
        "logger": loggers,
        "plugins": [AtomicCheckpointIO()],
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**{**settings, **options})


@pytest.fixture
def make_model() -> Callable[..., SequenceClassifier]:
    """Makes a model of one small layer: ``make_model(data, name="sbm", **options)``."""
    return _make_model


@pytest.fixture
def make_trainer() -> Callable[..., L.Trainer]:
    """Makes the trainer of a run folder, on the CPU: ``make_trainer(folder, **options)``."""
    return _make_trainer
