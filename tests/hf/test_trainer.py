"""Training with a density penalty, two learning rates, and both kinds of checkpointing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("lightning")

from sbmgraph import hf, record
from sbmgraph.hf.trainer import SBMTrainer
from sbmgraph.nn import SBMHeads
from sbmgraph.training.density_control import DensityConfig
from tests.hf.conftest import TEXT

WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Rows(torch.utils.data.Dataset):
    """Token rows with a label each."""

    def __init__(self, count: int = 8) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(3, 50, (count, 9), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index, 0] % 2}


def make_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    options = {"num_clusters": 4, "init_density": 0.5, **changes}
    config = hf.SBMBertConfig(**TEXT, **WITHOUT_DROPOUT, **options)
    return hf.SBMBertForSequenceClassification(config)


def make_trainer(model: Any, folder: Path, **changes: Any) -> SBMTrainer:
    own = {key: changes.pop(key) for key in ("density", "membership_lr") if key in changes}
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **changes,
    }
    arguments = transformers.TrainingArguments(**settings)
    return SBMTrainer(model, arguments, train_dataset=Rows(), eval_dataset=Rows(4), **own)


def gradients(trainer: SBMTrainer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of one step that the trainer makes."""
    model = trainer.model.train()
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.current_gradient_accumulation_steps = 1
    trainer.state.max_steps = 2
    torch.manual_seed(4)
    loss = trainer.compute_loss(model, inputs)
    model.zero_grad()
    loss.backward()
    return loss.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def test_the_penalty_is_the_mean_expected_density(tmp_path: Path) -> None:
    model = make_model()
    plain, _ = gradients(make_trainer(model, tmp_path))
    penalised, found = gradients(make_trainer(model, tmp_path, density=DensityConfig(weight=2.0)))
    inputs = next(iter(make_trainer(model, tmp_path).get_train_dataloader()))
    torch.manual_seed(4)
    with record(model) as runs:
        loss = model(**inputs).loss
    expected = torch.stack([run.sbm.expected_density().mean() for run in runs]).mean()
    torch.testing.assert_close(penalised - plain, 2.0 * expected.detach())
    model.zero_grad()
    (loss + 2.0 * expected).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-5)


def test_nothing_is_penalised_below_the_target(tmp_path: Path) -> None:
    model = make_model()
    plain, _ = gradients(make_trainer(model, tmp_path))
    below = DensityConfig(weight=2.0, target=0.9)
    same, _ = gradients(make_trainer(model, tmp_path, density=below))
    assert torch.equal(plain, same)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_under_checkpointing_are_exact_or_refused(
    tmp_path: Path, reentrant: bool
) -> None:
    density = DensityConfig(weight=2.0)
    _, expected = gradients(make_trainer(make_model(), tmp_path, density=density))
    _, unpenalised = gradients(make_trainer(make_model(), tmp_path))

    def checkpointed(**changes: Any) -> dict[str, torch.Tensor]:
        model = make_model()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        return gradients(make_trainer(model, tmp_path, **changes))[1]

    if reentrant:
        with (
            pytest.warns(UserWarning, match="reentrant checkpointing cuts the gradient"),
            pytest.raises(ValueError, match="must hold use_reentrant=False"),
        ):
            checkpointed(density=density)
        expected = unpenalised
        with pytest.warns(UserWarning, match="reentrant"):
            found = checkpointed()
    else:
        found = checkpointed(density=density)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


def test_two_learning_rates(tmp_path: Path) -> None:
    trainer = make_trainer(make_model(), tmp_path, membership_lr=1e-5, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    rates = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    model = trainer.model
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        rate, decay = rates[id(parameter)]
        assert rate == (1e-5 if ".membership." in name else 1e-3), name
        assert decay == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.1), name


def test_training_logs_densities_and_evaluates(tmp_path: Path) -> None:
    density = DensityConfig(weight=1.0, target=0.1)
    trainer = make_trainer(make_model(), tmp_path, density=density, max_steps=3)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 3
    for row in rows:
        assert 0 < row["expected_density"] < 1
        layers = [row["density/layer0"], row["density/layer1"]]
        assert row["density"] == pytest.approx(sum(layers) / 2)
        assert (row["density_weight"], row["target_density"]) == (1.0, 0.1)
    metrics = trainer.evaluate()
    assert 0 < metrics["eval_density"] < 1
    assert trainer.state.log_history[-1]["eval_density"] == metrics["eval_density"]


def test_a_penalty_thins_heads_out(tmp_path: Path) -> None:
    changes = {"max_steps": 12, "membership_lr": 0.05, "density": DensityConfig(weight=10.0)}
    trainer = make_trainer(make_model(), tmp_path, **changes)
    trainer.train()
    seen = [row["expected_density"] for row in trainer.state.log_history if "loss" in row]
    assert seen[-1] < 0.7 * seen[0]


def test_dense_heads_train_without_sampling(tmp_path: Path) -> None:
    model = make_model(init_density=1.0)
    trainer = make_trainer(model, tmp_path, density=DensityConfig(weight=1.0))
    trainer.train()
    assert all("density" not in row for row in trainer.state.log_history)
    assert all(heads.dense for heads in model.heads())


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Schedules of the penalty are functions of the step."""
    density = DensityConfig(weight=1.0, start_target=0.5, anneal=0.9, target=0.1)
    common = {"max_steps": 4, "density": density, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(make_model(), tmp_path / "whole", **common)
    whole.train()
    again = make_trainer(make_model(), tmp_path / "again", **common)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for (name, mine), theirs in zip(
        again.model.named_parameters(), whole.model.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, msg=name)


def test_the_penalty_of_a_step_is_that_of_its_batches(tmp_path: Path) -> None:
    """Two batches of four with their gradients added up are as one of eight."""
    density = DensityConfig(weight=5.0)
    weights = []
    for batch, steps in ((8, 1), (4, 2)):
        model = make_model()
        for heads in model.heads():
            heads.set_dense(False, 0.5)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        network = model.heads()[0].membership
        network.clusters.requires_grad_(True)
        changes = {
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": steps,
            "optim": "sgd",
            "learning_rate": 1.0,
            "max_grad_norm": 0.0,
            "max_steps": 1,
            "lr_scheduler_type": "constant",
        }
        before = network.clusters.detach().clone()
        trainer = make_trainer(model, tmp_path, density=density, **changes)
        trainer.train()
        weights.append(network.clusters.detach() - before)
    assert float(weights[0].abs().max()) > 1e-4
    torch.testing.assert_close(weights[1], weights[0], atol=1e-6, rtol=1e-3)


def test_a_rate_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'membership_lr' must be"):
        make_trainer(make_model(), tmp_path, membership_lr=-1.0)


def test_a_bound_follows_its_schedule_and_is_saved(tmp_path: Path) -> None:
    model = make_model()
    heads = [module for module in model.modules() if isinstance(module, SBMHeads)]
    density = DensityConfig(target=0.1, start_target=0.4, anneal=4, penalty="bound")
    seen = []

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            [bound] = {module.max_density for module in heads}
            seen.append(bound)

    trainer = make_trainer(model, tmp_path, density=density, max_steps=4)
    assert {module.max_density for module in heads} == {0.1}
    trainer.add_callback(Watch())
    trainer.train()
    assert seen == pytest.approx([0.4, 0.325, 0.25, 0.175])
    with record(model) as runs:
        trainer.evaluate()
    assert max(float(run.sbm.expected_density().max()) for run in runs) <= 0.1 + 1e-6
    model.save_pretrained(tmp_path / "model")
    again = hf.SBMBertForSequenceClassification.from_pretrained(tmp_path / "model")
    assert {m.max_density for m in again.modules() if isinstance(m, SBMHeads)} == {0.1}
