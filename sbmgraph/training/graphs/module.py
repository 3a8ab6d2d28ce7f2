"""The Lightning module and data of the graph tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from sbmgraph.nn import split_membership
from sbmgraph.record import record
from sbmgraph.training.density_control import DensityConfig, DensityControl
from sbmgraph.training.graphs.models import (
    ExpanderAttention,
    NodeClassifier,
    Setting,
    build_body,
)
from sbmgraph.training.graphs.tasks import TASKS, GraphBatch

TEST_SEED = 2**31


class GraphClassifier(L.LightningModule):
    """A node classifier on one graph task.

    Args:
        task: One of :data:`~sbmgraph.training.graphs.tasks.TASKS`.
        name: One of :data:`~sbmgraph.training.graphs.models.MODELS`.
        setting: Everything else of the run, as a :class:`Setting`'s values.
        seed: Seed of the run.
    """

    def __init__(self, task: str, name: str, setting: dict[str, Any], seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.setting = Setting(**setting)
        body = build_body(name, TASKS[task], self.setting)
        self.model = NodeClassifier(TASKS[task], body, self.setting.channels)
        self.control = DensityControl(DensityConfig(weight=self.setting.density_penalty))

    def forward(self, batch: GraphBatch) -> Tensor:
        """Scores of the nodes that are asked for."""
        return self.model(batch)

    def training_step(self, batch: GraphBatch, batch_idx: int) -> Tensor:
        """The cross-entropy and the density's penalty."""
        with record(self.model) as runs:
            loss = F.cross_entropy(self.model(batch), batch.y)
        self.log("train/loss", loss, on_step=True, on_epoch=False, batch_size=batch.y.numel())
        penalty = self.control.penalty(runs, self.global_step)
        return loss if penalty is None else loss + penalty

    def test_step(self, batch: GraphBatch, batch_idx: int) -> None:
        """Accuracy and the density of the global attention."""
        with record(self.model) as runs:
            right = (self.model(batch).argmax(dim=-1) == batch.y).float().mean()
        size = batch.y.numel()
        self.log("test/accuracy", right, batch_size=size)
        densities = [run.graph.density().mean() for run in runs]
        densities += [
            module.pattern(batch.batch).density().mean()
            for module in self.model.modules()
            if isinstance(module, ExpanderAttention)
        ]
        if self.hparams["name"] == "gps-dense":
            densities = [torch.ones((), dtype=torch.float32, device=self.device)]
        if densities:
            density = torch.stack(densities).float().mean()
            self.log("test/density", density, batch_size=int(batch.batch[-1]) + 1)

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam on a one-cycle schedule, membership networks at a rate of their own; eps is 1e-4
        where weights are float16, in which a smaller one is 0."""
        others, membership = split_membership(self.model)
        half = any(weight.dtype == torch.float16 for weight in self.parameters())
        groups = [{"params": others}, {"params": membership}]
        optimizer = torch.optim.Adam(groups, eps=1e-4 if half else 1e-8)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [self.setting.learning_rate, self.setting.membership_lr],
            total_steps=self.setting.steps,
            pct_start=0.1,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Graphs(IterableDataset[GraphBatch]):
    def __init__(self, task: str, setting: Setting, batches: int, seed: int) -> None:
        self.task, self.setting, self.batches, self.seed = task, setting, batches, seed

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[GraphBatch]:
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        for _ in range(self.batches):
            yield TASKS[self.task].sample(self.setting.batch_size, generator)


class GraphDataModule(L.LightningDataModule):
    """Fresh graphs for every step, and one test set for every seed.

    Args:
        task: One of :data:`~sbmgraph.training.graphs.tasks.TASKS`.
        setting: The run's setting.
        seed: Seed of the training graphs.
    """

    def __init__(self, task: str, setting: Setting, seed: int = 0) -> None:
        super().__init__()
        self.task, self.setting, self.seed = task, setting, seed

    def train_dataloader(self) -> DataLoader[GraphBatch]:
        """All steps' graphs, in one round."""
        return _loader(_Graphs(self.task, self.setting, self.setting.steps, self.seed))

    def test_dataloader(self) -> DataLoader[GraphBatch]:
        """The test graphs."""
        batches = -(-self.setting.test_graphs // self.setting.batch_size)
        return _loader(_Graphs(self.task, self.setting, batches, TEST_SEED))

    def predict_dataloader(self) -> DataLoader[GraphBatch]:
        """The test graphs."""
        return self.test_dataloader()

    def majority(self) -> float:
        """Test accuracy of the best constant answer."""
        y = torch.cat([batch.y for batch in self.test_dataloader()])
        return float(torch.bincount(y).max() / y.numel())


def setting_of(setting: Setting, overrides: dict[str, Any]) -> Setting:
    """A task's setting; a copy with the task's own entries.

    Raises:
        ValueError: If an entry is unknown or out of range.
    """
    known = asdict(setting)
    if not set(known).issuperset(overrides):
        raise ValueError(
            f"'overrides' must map tasks to entries among {sorted(known)}, got {overrides}"
        )
    return replace(setting, **overrides)


def _loader(graphs: _Graphs) -> DataLoader[GraphBatch]:
    return DataLoader(graphs, batch_size=None)
