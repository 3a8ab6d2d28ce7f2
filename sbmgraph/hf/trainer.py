"""Transformers' ``Trainer`` for models with SBM heads."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from sbmgraph.checks import check_range
from sbmgraph.nn import SBMHeads, split_membership
from sbmgraph.record import layer_density, record
from sbmgraph.training.density_control import DensityConfig, DensityControl, bound_density


class SBMTrainer(Trainer):
    """A ``Trainer`` that steers the density of SBM heads and logs it.

    Logs gain ``density`` and ``expected_density`` (means over heads, inputs and the steps since the
    last log), each layer's as ``density/layer{l}``, and the penalty's weight and target; metrics of
    an evaluation gain ``eval_density``. Heads that are dense have density 1 and are not penalised.

    Gradients are exact under gradient checkpointing with ``use_reentrant=False``; with
    ``use_reentrant=True`` too, but a penalty, whose gradient it would cut, is then refused.

    Args:
        *args: Of ``transformers.Trainer``.
        density: How density is penalised. (default: not at all)
        membership_lr: Learning rate of the membership networks; schedules scale both rates alike.
            (default: that of all other weights)
        **kwargs: Of ``transformers.Trainer``.

    Raises:
        ValueError: If ``membership_lr`` is not positive.
    """

    def __init__(
        self,
        *args: Any,
        density: DensityConfig | None = None,
        membership_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        if membership_lr is not None:
            check_range("membership_lr", membership_lr, 0.0, float("inf"), low_open=True)
        super().__init__(*args, **kwargs)
        self.density = density
        self.membership_lr = membership_lr
        self._control: DensityControl | None = None
        if density is not None and density.is_bound:
            bound_density(self.model, density.target)
            if hasattr(self.model.config, "sbm"):
                self.model.config.sbm["max_density"] = density.target
        self._densities: dict[str, list[dict[str, float]]] = {"train": [], "eval": []}

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As its base; with ``membership_lr``, membership networks get groups of their own."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if not new or self.membership_lr is None:
            return optimizer
        inside = set(split_membership(self.model)[1])
        for group in list(optimizer.param_groups):
            taken = [weight for weight in group["params"] if weight in inside]
            if taken:
                group["params"] = [weight for weight in group["params"] if weight not in inside]
                rest = {key: value for key, value in group.items() if key != "params"}
                optimizer.add_param_group({**rest, "params": taken, "lr": self.membership_lr})
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The model's loss and, in training, the density penalty."""
        options: dict[str, Any] = {"num_items_in_batch": num_items_in_batch}
        if self.density is not None and self.density.is_bound:
            target = self.density.target
            if model.training:
                target = self._schedule.target(self.state.global_step)
            bound_density(model, target)
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, **options)
        with record(model) if samples(model) else nullcontext(()) as runs:
            loss, outputs = super().compute_loss(model, inputs, True, **options)
        self._note("train", [(run.name, layer_density(run)) for run in runs])
        penalty = self._penalty(model, runs)
        if penalty is not None:
            scaled = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            if scaled or self.compute_loss_func is not None:
                # The loss is a share of its step's already; make the penalty one as well.
                penalty = penalty / self.current_gradient_accumulation_steps
            loss = loss + penalty.to(loss.device)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """As its base, and notes the densities."""
        if not samples(model):
            return super().prediction_step(model, *args, **kwargs)
        with record(model, keep=lambda run: (run.name, layer_density(run))) as runs:
            found = super().prediction_step(model, *args, **kwargs)
        self._note("eval", list(runs))
        return found

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As its base, with ``eval_density`` among the metrics."""
        self._densities["eval"].clear()
        metrics = super().evaluate(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        if self._densities["eval"]:
            metrics[f"{prefix}_density"] = self._means("eval")["density"]
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs, and the densities with them."""
        if "loss" in logs:
            if self._densities["train"]:
                logs |= self._means("train")
                self._densities["train"].clear()
            if self._control is not None:
                logs |= self._control.values(self.state.global_step)
        elif "eval_loss" in logs and self._densities["eval"]:
            logs["eval_density"] = self._means("eval")["density"]
        super().log(logs, *args, **kwargs)

    @property
    def _schedule(self) -> DensityControl:
        if self._control is None:
            assert self.density is not None
            self._control = DensityControl(self.density, self.state.max_steps)
        return self._control

    def _penalty(self, model: nn.Module, runs: Any) -> Tensor | None:
        if self.density is None or not len(runs):
            return None
        penalty = self._schedule.penalty(runs, self.state.global_step)
        if penalty is not None and not penalty.requires_grad and samples(model, learning=True):
            raise ValueError(
                "'gradient_checkpointing_kwargs' must hold use_reentrant=False for a density "
                "penalty: reentrant checkpointing cuts its gradient"
            )
        return penalty

    def _note(self, stage: str, found: list[tuple[str, Any]]) -> None:
        if not found:
            return
        names = list(dict.fromkeys(name for name, _ in found))
        values: dict[str, float] = {}
        for layer, name in enumerate(names):
            drawn = [float(density.sampled.mean()) for n, density in found if n == name]
            values[f"density/layer{layer}"] = sum(drawn) / len(drawn)
        expected = [float(density.expected.mean()) for _, density in found]
        values["density"] = sum(values.values()) / len(names)
        values["expected_density"] = sum(expected) / len(expected)
        self._densities[stage].append(values)

    def _means(self, stage: str) -> dict[str, float]:
        rows = self._densities[stage]
        return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def samples(model: nn.Module, learning: bool = False) -> bool:
    """Whether a model has SBM heads that sample, and with ``learning`` whether their memberships
    have weights to train."""
    return any(
        not heads.dense
        and (not learning or any(w.requires_grad for w in heads.membership.parameters()))
        for heads in model.modules()
        if isinstance(heads, SBMHeads)
    )
