"""The loss, the schedule, the logged densities, and the warning."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from sbmgraph import record
from sbmgraph.nn.transformer import picture_codes
from sbmgraph.training import densities
from sbmgraph.training.schedule import one_cycle


@pytest.fixture
def batch(data):
    return next(iter(data.val_dataloader()))


def test_loss_is_cross_entropy_plus_weighted_density(data, tmp_path, make_model, make_trainer):
    model = make_model(data, density_weight=0.5, dropout=0.0)
    seen = []

    def training_step(batch, batch_idx, step=model.training_step):
        loss = step(batch, batch_idx)
        model._reseed(0, batch_idx)
        with record(model.model) as runs:
            scores = model(batch)
        seen.append(
            (
                loss.item(),
                F.cross_entropy(scores, batch.label).item(),
                runs.expected_density().item(),
            )
        )
        return loss

    model.training_step = training_step
    make_trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(model, data)
    assert len(seen) == 2
    for loss, entropy, density in seen:
        assert loss == pytest.approx(entropy + 0.5 * density, rel=1e-6)


def test_rate_rises_then_falls_linearly(data, tmp_path, make_model, make_trainer):
    model = make_model(data, "full", lr=0.1, warmup_steps=2)
    rates = []
    model.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
    make_trainer(tmp_path, max_steps=6, limit_val_batches=0).fit(model, data)
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.075, 0.05, 0.025])


def test_membership_networks_follow_their_own_rate(data, tmp_path, make_model, make_trainer):
    model = make_model(data, lr=0.1, warmup_steps=2, membership_lr=0.01)
    rates = []
    model.on_before_optimizer_step = lambda optimizer: rates.append(
        [group["lr"] for group in optimizer.param_groups]
    )
    trainer = make_trainer(tmp_path, max_steps=4, limit_val_batches=0)
    trainer.fit(model, data)
    others, own = (group["params"] for group in trainer.optimizers[0].param_groups)
    assert rates == [pytest.approx([10 * rate, rate]) for rate in (0.005, 0.01, 0.01, 0.005)]
    assert {id(weight) for weight in own} == {
        id(weight) for name, weight in model.named_parameters() if ".membership." in name
    }
    assert len(own) + len(others) == len(list(model.parameters()))


def test_a_model_without_membership_networks_has_one_rate(data, tmp_path, make_model, make_trainer):
    trainer = make_trainer(tmp_path, max_steps=2, limit_val_batches=0)
    trainer.fit(make_model(data, "full", membership_lr=0.01), data)
    assert len(trainer.optimizers[0].param_groups) == 1


@pytest.mark.parametrize("warmup", [0, 1])
def test_without_warm_up_the_rate_only_falls(warmup):
    assert [one_cycle(step, warmup, 4) for step in range(4)] == sorted(
        (one_cycle(step, warmup, 4) for step in range(4)), reverse=True
    )
    assert one_cycle(0, warmup, 4) == 1.0


def test_warm_up_must_end_before_the_run(data, tmp_path, make_model, make_trainer):
    model = make_model(data, warmup_steps=4)
    with pytest.raises(ValueError, match="'warmup_steps' must be below the run's 4 steps, got 4"):
        make_trainer(tmp_path).fit(model, data)


def test_densities_are_means_over_graphs(data, batch, make_model):
    model = make_model(data, num_layers=2, heads=2).eval()
    with record(model.model) as runs:
        model(batch)
    values = densities(runs)
    assert len(values) == 8
    for layer, run in enumerate(runs):
        for head in range(2):
            key = f"layer{layer}/head{head}"
            sampled = run.graph.density()[:, head].mean().item()
            expected = run.sbm.expected_density()[:, head].mean().item()
            assert values[f"density/{key}"].item() == pytest.approx(sampled)
            assert values[f"expected_density/{key}"].item() == pytest.approx(expected)


@pytest.mark.parametrize(("init_density", "warns"), [(1e-3, True), (0.2, False)])
def test_warns_once_of_heads_that_live_on_exploration(
    data, tmp_path, init_density, warns, make_model, make_trainer
):
    options = {"sbm": {"num_clusters": 4, "init_density": init_density, "exploration": 0.01}}
    model = make_model(data, options=options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(tmp_path, limit_val_batches=0).fit(model, data)
    found = [str(w.message) for w in caught if "lives on exploration" in str(w.message)]
    assert len(found) == (2 if warns else 0)  # once a head


def test_steps_draw_as_a_function_of_their_place(data, tmp_path, make_model, make_trainer):
    def draws(waste: int) -> list[float]:
        model, drawn = make_model(data, "full"), []

        def training_step(batch, batch_idx, step=model.training_step):
            drawn.append(torch.rand(1).item())
            torch.rand(waste)
            return step(batch, batch_idx)

        model.training_step = training_step
        make_trainer(tmp_path / str(waste), limit_val_batches=0).fit(model, data)
        return drawn

    assert draws(1) == draws(7)
    assert len(set(draws(2))) == 4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "fulll"}, "fulll"),
        ({"lr": 0.0}, "'lr'"),
        ({"density_weight": -1.0}, "'density_weight'"),
        ({"warmup_steps": -1}, "'warmup_steps'"),
        ({"options": {"sbm": {"num_cluster": 4}}}, "num_cluster"),
        ({"options": {"smb": {"num_clusters": 4}}}, "smb"),
    ],
)
def test_bad_arguments(data, options, match, make_model):
    with pytest.raises(ValueError, match=match):
        make_model(data, **options)


def test_positions_and_classifier_reach_the_model(data, make_model):
    model = make_model(data, picture_width=8, classifier_channels=5, position_std=0.5).model
    codes = picture_codes(data.datasets["train"].max_length, 8, 8)
    torch.testing.assert_close(model.position_embedding.weight.detach(), 0.5 * codes)
    assert model.classifier[0].out_features == 5


def test_token_labels(root, make_model):
    from sbmgraph.training import SequenceDataModule

    data = SequenceDataModule(
        "duplicates", str(root), batch_size=2, options={"length": 16, "num_train": 8, "num_val": 8}
    )
    model = make_model(data)
    batch = next(iter(data.val_dataloader()))
    assert model(batch).shape == (32, 2)
    assert math.isfinite(F.cross_entropy(model(batch), batch.token_label).item())
