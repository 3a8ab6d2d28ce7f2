"""Training a sequence classifier with any of the attentions: the loss with its density penalty,
the optimizer and its schedule, and the densities that every head is logged with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from sbmgraph.checks import check_choice, check_positive_int, check_range
from sbmgraph.data import SequenceBatch
from sbmgraph.nn.config import EncoderConfig
from sbmgraph.nn.membership import split_membership
from sbmgraph.nn.models import MODELS, build_model
from sbmgraph.record import LayerSample, record
from sbmgraph.training.density_control import DensityConfig, DensityControl, bound_density
from sbmgraph.training.schedule import SCHEDULES, check_warmup, make_schedule

STAGES = ("train", "val", "test")


class SequenceClassifier(L.LightningModule):
    """A Transformer encoder trained to classify sequences, or each of their tokens.

    Randomness is a pure function of ``(seed, rank, epoch, batch)``: torch is reseeded before every
    batch, so that a resumed run draws what an uninterrupted one would have drawn.

    Args:
        task: Name of the task, kept in checkpoints: a run resumes from its own task only.
        vocab_size: The number of token types.
        num_classes: The number of classes.
        max_length: The largest number of tokens of a sequence.
        num_documents: Documents of an item, 1 or 2.
        token_labels: Whether every token has a label (then nothing is pooled).
        name: The attention, one of :data:`sbmgraph.nn.models.MODELS`.
        options: Options of each attention, by its name, e.g. ``{"sbm": {"num_clusters": 32}}``.
        channels: Channels of the tokens.
        heads: The number of heads.
        num_layers: The number of blocks.
        ffn_channels: Hidden channels of the feed-forward networks.
        dropout: Dropout probability.
        pooling: ``"mean"``, ``"padded_mean"`` or ``"cls"``.
        embedding_std: Standard deviation of the initial embeddings.
        position_std: The same for the position embeddings. (default: ``embedding_std``)
        picture_width: Pixels of a row, where tokens are pixels: position embeddings then start as
            sinusoidal codes of row and column. (default: drawn at random)
        classifier_channels: Channels of the classifier's hidden layer. (default: no hidden layer
            for one document, ``ffn_channels`` for two)
        lr: The largest learning rate.
        warmup_steps: Optimizer steps in which the rate grows to it.
        final_lr: The rate that it falls to with the linear schedule.
        schedule: ``"linear"``, ``"one_cycle_momentum"`` (the SBM-Transformer authors') or
            ``"constant"``; see :func:`~sbmgraph.training.schedule.make_schedule`.
        membership_lr: The largest learning rate of membership networks; it grows and falls with the
            other. (default: ``lr``)
        weight_decay: Weight decay of AdamW.
        density_weight: Weight of the mean expected density of all heads in the loss (the paper's
            lambda, Section 3.3).
        density: A target density and schedules of weight and target instead, see
            :class:`~sbmgraph.training.DensityConfig`. (default: ``density_weight`` throughout)
        padded_length: Tokens that another program pads every sequence to: ``padded_density`` is
            then logged beside ``density``, counted as the SBM-Transformer authors do: sampled edges
            over all pairs of padded sequences, plus 0.01. With pooling ``"padded_mean"`` it is the
            divisor, too. (default: not logged)
        seed: Seed of dropout, sampled graphs and whatever else is drawn in a step.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    #: The metric whose largest value the best checkpoint has.
    monitor = "val/accuracy"

    def __init__(
        self,
        task: str,
        vocab_size: int,
        num_classes: int,
        max_length: int,
        num_documents: int = 1,
        token_labels: bool = False,
        name: str = "sbm",
        options: dict[str, dict[str, Any]] | None = None,
        channels: int = 64,
        heads: int = 2,
        num_layers: int = 2,
        ffn_channels: int = 128,
        dropout: float = 0.1,
        pooling: str = "mean",
        embedding_std: float = 1.0,
        position_std: float | None = None,
        picture_width: int | None = None,
        classifier_channels: int | None = None,
        lr: float = 5e-4,
        warmup_steps: int = 1000,
        final_lr: float = 0.0,
        schedule: str = "linear",
        membership_lr: float | None = None,
        weight_decay: float = 0.0,
        density_weight: float = 1e-4,
        density: DensityConfig | None = None,
        padded_length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range("lr", lr, 0.0, float("inf"), low_open=True)
        check_range("final_lr", final_lr, 0.0, lr)
        if membership_lr is not None:
            check_range("membership_lr", membership_lr, 0.0, float("inf"))
        check_range("weight_decay", weight_decay, 0.0, float("inf"))
        check_range("density_weight", density_weight, 0.0, float("inf"))
        check_positive_int("warmup_steps", warmup_steps, 0)
        check_choice("schedule", schedule, SCHEDULES)
        if padded_length is not None:
            check_positive_int("padded_length", padded_length)
        if isinstance(density, dict):  # from a checkpoint, which holds plain values
            density = DensityConfig(**density)
        self._density = DensityConfig(weight=density_weight) if density is None else density
        # Checkpoints keep what `save_hyperparameters` finds in these variables.
        density = None if density is None else asdict(density)  # type: ignore[assignment]
        for attention in options or {}:
            check_choice("options", attention, MODELS)
        self.save_hyperparameters()
        encoder = {key: self.hparams[key] for key in EncoderConfig.names() if key in self.hparams}
        encoder["pooling"] = "none" if token_labels else pooling
        if encoder["pooling"] != "padded_mean":
            encoder["padded_length"] = None
        self.model = self.make_model(EncoderConfig(**encoder), (options or {}).get(name, {}))
        self._bound_as_in_evaluation()
        self.accuracy = torch.nn.ModuleDict(
            {
                # Two at least: a regression's one class has no accuracy.
                f"{stage}_accuracy": MulticlassAccuracy(max(num_classes, 2), average="micro")
                for stage in STAGES
            }
        )
        self._starved: set[str] = set()
        self._control: DensityControl | None = None

    @property
    def num_steps(self) -> int | None:
        """Optimizer steps of the whole run; :obj:`None` where only time ends it."""
        steps = self.trainer.estimated_stepping_batches
        return int(steps) if steps < float("inf") else None

    @property
    def control(self) -> DensityControl:
        """What steers the density of this run."""
        if self._control is None:
            self._control = DensityControl(self._density, self.num_steps)
        return self._control

    def make_model(self, config: EncoderConfig, options: dict[str, Any]) -> torch.nn.Module:
        """Makes what is trained."""
        return build_model(self.hparams["name"], config, **options)

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Class scores of a batch: one row an item, or a token where tokens are labelled."""
        return self.model(
            batch.tokens,
            batch.batch,
            position=batch.positions,
            num_sequences=batch.num_sequences,
        )

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """The cross-entropy and the weighted expected density of a batch."""
        with record(self.model) as runs:
            loss = self._evaluate(batch, "train")
        penalty = self.control.penalty(runs, self.global_step)
        if penalty is not None:
            loss = loss + penalty
        every = self.trainer.log_every_n_steps
        if every and (self.global_step + 1) % every == 0:
            self._log_densities(runs, batch, "train")
            if len(runs) and self.hparams["density"] is not None:
                self._log("train", self.control.values(self.global_step), len(batch))
            self._warn_if_starved(runs)
        return loss

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Loss, accuracy and densities of a validation batch."""
        self._evaluate_recorded(batch, "val")

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Loss, accuracy and densities of a test batch."""
        self._evaluate_recorded(batch, "test")

    def on_train_batch_start(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Makes the step's randomness a function of its place in the run, as its bound is."""
        self._reseed(0, batch_idx)
        if self._density.is_bound:
            bound_density(self.model, self.control.target(self.global_step))

    def on_validation_batch_start(self, batch: SequenceBatch, batch_idx: int, *_: int) -> None:
        """As for training; every validation draws alike."""
        self._reseed(1, batch_idx)
        self._bound_as_in_evaluation()

    def on_test_batch_start(self, batch: SequenceBatch, batch_idx: int, *_: int) -> None:
        """As for training; every test draws alike."""
        self._reseed(2, batch_idx)
        self._bound_as_in_evaluation()

    def on_predict_batch_start(self, batch: SequenceBatch, batch_idx: int, *_: int) -> None:
        """As for training; every prediction draws alike."""
        self._reseed(3, batch_idx)
        self._bound_as_in_evaluation()

    def _bound_as_in_evaluation(self) -> None:
        if self._density.is_bound:
            bound_density(self.model, self._density.target)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and its schedule; eps is 1e-6, or 1e-4 where weights are float16, in which squared
        gradients round to zero and the smaller one would blow steps up."""
        hparams = self.hparams
        half = any(weight.dtype == torch.float16 for weight in self.parameters())
        check_warmup(hparams["schedule"], hparams["warmup_steps"], self.num_steps)
        optimizer = torch.optim.AdamW(
            self._parameter_groups(),
            lr=hparams["lr"],
            eps=1e-4 if half else 1e-6,
            weight_decay=hparams["weight_decay"],
        )
        final = hparams["final_lr"] / hparams["lr"]
        scheduler = make_schedule(
            hparams["schedule"], optimizer, hparams["warmup_steps"], self.num_steps, final
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _parameter_groups(self) -> list[dict[str, Any]]:
        others, membership = split_membership(self)
        rate = self.hparams["membership_lr"]
        if rate is None or not membership:
            return [{"params": list(self.parameters())}]
        return [{"params": others}, {"params": membership, "lr": rate}]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the checkpoint of another task or model.

        Raises:
            ValueError: Naming what differs.
        """
        theirs = checkpoint.get("hyper_parameters", {})
        for key in ("task", "name", "vocab_size", "num_classes", "max_length"):
            if theirs.get(key) != self.hparams[key]:
                raise ValueError(
                    f"'ckpt_path' must be a checkpoint with {key} = {self.hparams[key]!r}, "
                    f"got one with {key} = {theirs.get(key)!r}"
                )

    def _evaluate(self, batch: SequenceBatch, stage: str) -> Tensor:
        scores = self(batch)
        label = batch.label if batch.token_label is None else batch.token_label
        loss = F.cross_entropy(scores.float(), label)
        accuracy = self.accuracy[f"{stage}_accuracy"]
        accuracy(scores, label)
        self._log(stage, {"loss": loss, "accuracy": accuracy}, label.numel(), prog_bar=True)
        return loss

    def _evaluate_recorded(self, batch: SequenceBatch, stage: str) -> None:
        with record(self.model) as runs:
            self._evaluate(batch, stage)
        self._log_densities(runs, batch, stage)

    def _log_densities(self, runs: Sequence[LayerSample], batch: SequenceBatch, stage: str) -> None:
        if not len(runs):
            return
        values = densities(runs)
        values["density"] = torch.stack(
            [value for key, value in values.items() if key.startswith("density/")]
        ).mean()
        if self.hparams["padded_length"] is not None:
            values["padded_density"] = padded_density(runs, self.hparams["padded_length"])
        self._log(stage, values, len(batch))

    def _log(self, stage: str, values: dict[str, Any], size: int, **kwargs: Any) -> None:
        training = stage == "train"
        self.log_dict(
            {f"{stage}/{key}": value for key, value in values.items()},
            on_step=training,
            on_epoch=not training,
            batch_size=size,
            sync_dist=not training,
            **kwargs,
        )

    def _warn_if_starved(self, runs: Sequence[LayerSample]) -> None:
        exploration = {run.exploration for run in runs}
        for key, value in densities(runs).items():
            if not key.startswith("expected") or key in self._starved:
                continue
            bound = 0.25 * max(exploration)
            if float(value) < bound:
                self._starved.add(key)
                warnings.warn(
                    f"{key} is {float(value):.2g}, far below the exploration {max(exploration):g}: "
                    "the head lives on exploration only and will attend to next to nothing in "
                    "evaluation; lower 'density_weight' or raise 'init_density'",
                    stacklevel=2,
                )

    def _reseed(self, stage: int, batch_idx: int) -> None:
        epoch = self.trainer.current_epoch if stage == 0 else 0
        place = (self.hparams["seed"], self.global_rank, stage, epoch, batch_idx)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))


def densities(runs: Sequence[LayerSample]) -> dict[str, Tensor]:
    """Each head's densities, averaged over the graphs of a batch.

    Returns:
        ``expected_density/layer{l}/head{h}`` (as learned, exploration left out) and
        ``density/layer{l}/head{h}`` (as sampled), scalars.
    """
    values: dict[str, Tensor] = {}
    for layer, layer_runs in enumerate(by_layer(runs)):
        expected = torch.cat([run.sbm.expected_density().detach() for run in layer_runs]).mean(0)
        sampled = torch.cat([run.graph.density() for run in layer_runs]).float().mean(0)
        for head in range(expected.numel()):
            values[f"expected_density/layer{layer}/head{head}"] = expected[head].float()
            values[f"density/layer{layer}/head{head}"] = sampled[head]
    return values


def by_layer(runs: Sequence[LayerSample]) -> list[list[LayerSample]]:
    """The samples of each layer, in the order of their first call."""
    layers: dict[str, list[LayerSample]] = {}
    for run in runs:
        layers.setdefault(run.name, []).append(run)
    return list(layers.values())


def padded_density(runs: Sequence[LayerSample], padded_length: int) -> Tensor:
    """Density as the SBM-Transformer authors report it: edges over all pairs of sequences that are
    padded to one length, plus 0.01, averaged over samples, sequences and heads.

    Args:
        runs: What the layers sampled.
        padded_length: Tokens of a padded sequence.

    Raises:
        ValueError: If a sequence is longer.
    """
    shares = []
    for run in runs:
        lengths = run.graph.query_ptr.diff()
        if lengths.numel() and int(lengths.max()) > padded_length:
            raise ValueError(
                f"'padded_length' must be at least the longest sequence's {int(lengths.max())} "
                f"tokens, got {padded_length}"
            )
        valid = (lengths.to(torch.float64) / padded_length).square()
        shares.append((run.graph.density().double() * valid.unsqueeze(1)).mean())
    return (torch.stack(shares).mean() + 0.01).float()
