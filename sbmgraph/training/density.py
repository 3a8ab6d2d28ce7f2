"""Logs the density of the baselines whose pairs of tokens have weights, beside the learned one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from sbmgraph.data import SequenceBatch
from sbmgraph.nn.baselines import InnerAttention


class BaselineDensity(Callback):
    """Logs ``val/density``, the fraction of pairs that get an attention weight, of the first
    validation batch, averaged over layers.

    SBM models log their own; models without pairwise weights have none.
    """

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: SequenceBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measures the first batch."""
        if batch_idx > 0:
            return
        values = baseline_densities(pl_module, batch)
        if values:
            mean = sum(values) / len(values)
            pl_module.log("val/density", mean, on_epoch=True, batch_size=len(batch))


@torch.no_grad()
def baseline_densities(model: torch.nn.Module, batch: SequenceBatch) -> list[float]:
    """The density of each layer's :class:`~sbmgraph.nn.baselines.InnerAttention` on a batch; layers
    without pairwise weights are left out."""
    values: list[float] = []

    def measure(inner: InnerAttention, inputs: tuple[Any, ...]) -> None:
        query, key, _, numbers, _ = inputs
        density = inner.density(query, key, numbers)
        if density is not None:
            values.append(density)

    inner = [module for module in model.modules() if isinstance(module, InnerAttention)]
    with ExitStack() as hooks:
        for module in inner:
            hooks.enter_context(module.register_forward_pre_hook(measure))
        if inner:
            model(batch)
    return values
