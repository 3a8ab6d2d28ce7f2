"""The density penalty: its schedules in closed form, its gradients against autograd and by hand."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from sbmgraph import record
from sbmgraph.nn import SBMConv, SBMHeads
from sbmgraph.training import DensityConfig, DensityControl
from sbmgraph.training.density_control import bound_density, expected_density, sampled_density
from sbmgraph.training.module import padded_density


def sampled(seed: int = 0, batch=(0, 0, 0, 0, 0, 1, 1)):
    torch.manual_seed(seed)
    conv = SBMConv(8, 8, heads=2, num_clusters=3).double()
    x = torch.randn(len(batch), 8, dtype=torch.float64)
    with record(conv) as runs:
        conv(x, torch.tensor(batch))
    return conv, runs


def test_weight_starts_late_and_grows():
    control = DensityControl(DensityConfig(weight=0.5, start=10, ramp=20))
    assert [control.weight(step) for step in (0, 9, 10, 15, 30, 99)] == [0, 0, 0, 0.125, 0.5, 0.5]


def test_shares_are_of_the_run():
    shares = DensityControl(DensityConfig(weight=0.5, start=0.1, ramp=0.2), steps=100)
    steps = DensityControl(DensityConfig(weight=0.5, start=10, ramp=20))
    assert [shares.weight(t) for t in range(100)] == pytest.approx(
        [steps.weight(t) for t in range(100)]
    )
    with pytest.raises(ValueError, match="'start' must be a number of steps"):
        DensityControl(DensityConfig(start=0.1))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_target_falls_to_its_end(shape):
    control = DensityControl(
        DensityConfig(target=0.2, start_target=1.0, start=10, anneal=40, shape=shape)
    )
    half = control.target(20)
    quarter = 0.25 if shape == "linear" else (1 - math.cos(math.pi / 4)) / 2
    assert [control.target(t) for t in (0, 10, 30, 50, 99)] == pytest.approx(
        [1.0, 1.0, 0.6, 0.2, 0.2]
    )
    assert half == pytest.approx(1.0 - 0.8 * quarter)
    assert control.values(30) == {"density_weight": 1e-4, "target_density": pytest.approx(0.6)}


def test_nothing_is_penalised_below_the_target():
    conv, runs = sampled()
    density = float(expected_density(runs).detach())
    below = DensityControl(DensityConfig(weight=2.0, target=density + 0.1)).penalty(runs, 0)
    assert below.item() == 0
    above = DensityControl(DensityConfig(weight=2.0, target=density - 0.1)).penalty(runs, 0)
    assert above.item() == pytest.approx(0.2)
    above.backward()
    assert any(bool((w.grad != 0).any()) for w in conv.parameters() if w.grad is not None)
    assert DensityControl(DensityConfig(weight=0.0)).penalty(runs, 0) is None
    assert DensityControl(DensityConfig()).penalty([], 0) is None


@pytest.mark.parametrize("batch", [(0, 0, 0, 0, 0, 1, 1), (0, 0, 0, 0)])
def test_sampled_density_has_the_gradient_of_drawn_edges(batch):
    """By hand: p on every pair from the memberships, summed where an edge was drawn."""
    conv, runs = sampled(batch=batch)
    weights = [w for w in conv.parameters() if w.requires_grad]
    value = sampled_density(runs)
    assert value.item() == pytest.approx(runs[0].graph.density().double().mean().item())
    found = torch.autograd.grad(value, weights, allow_unused=True)

    conv2, runs2 = sampled(batch=batch)
    sbm, graph = runs2[0].sbm, runs2[0].graph
    p = torch.einsum("ihk,hkl,jhl->hij", sbm.query_membership, sbm.affinity, sbm.key_membership)
    graphs = torch.tensor(batch)
    key, query = graph.edge_index
    pairs = torch.bincount(graphs).square()[graphs[query]]
    by_hand = (p[graph.head, query, key] / pairs).sum() / (2 * len(set(batch)))
    expected = torch.autograd.grad(by_hand, list(conv2.parameters()), allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)
    assert any(a is not None and bool((a != 0).any()) for a in found)


def test_padded_density_counts_all_pairs():
    _, runs = sampled()
    density = runs[0].graph.density().double()
    expected = (density * torch.tensor([[25.0], [4.0]], dtype=torch.float64) / 64).mean() + 0.01
    assert padded_density(runs, 8).item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="'padded_length' must be at least the longest"):
        padded_density(runs, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": -1.0}, "'weight'"),
        ({"target": 1.5}, "'target'"),
        ({"start": -1}, "'start'"),
        ({"target": 0.5, "start_target": 0.3}, "'start_target'"),
        ({"start_target": 0.9}, "'anneal' must be above 0"),
        ({"shape": "cubic"}, "'shape' must be one of 'linear', 'cosine'"),
        ({"penalty": "both"}, "'penalty' must be one of"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ValueError, match=message):
        DensityConfig(**values)


def test_training_logs_and_keeps_the_control(data, tmp_path, make_model, make_trainer):
    config = DensityConfig(weight=0.5, target=0.1, start=1, penalty="sampled")
    model = make_model(data, density=config, padded_length=64)
    trainer = make_trainer(tmp_path)
    trainer.fit(model, data)
    logged = (tmp_path / "metrics.csv").read_text()
    assert "train/density_weight" in logged.splitlines()[0]
    assert float(trainer.callback_metrics["train/density_weight"]) == 0.5
    assert float(trainer.callback_metrics["train/target_density"]) == pytest.approx(0.1)
    padded = float(trainer.callback_metrics["train/padded_density"])
    assert 0.01 < padded < float(trainer.callback_metrics["train/density"])
    again = make_model(data, **{"density": model.hparams["density"]})
    assert again._density == config


def test_the_old_weight_is_a_control_without_a_target(data, make_model):
    assert make_model(data, density_weight=0.3)._density == DensityConfig(weight=0.3)


def test_a_bound_penalises_nothing():
    _, runs = sampled()
    control = DensityControl(DensityConfig(weight=2.0, target=0.05, penalty="bound"))
    assert control.penalty(runs, 0) is None
    assert control.values(0) == {"density_weight": 0.0, "target_density": 0.05}
    with pytest.raises(ValueError, match="'target' must be above 0 where it is a bound"):
        DensityConfig(penalty="bound")


def test_a_bound_follows_its_schedule_and_is_the_target_in_evaluation(
    data, tmp_path, make_model, make_trainer
):
    config = DensityConfig(target=0.1, start_target=1.0, anneal=0.9, penalty="bound")
    model = make_model(data, density=config)
    heads = [m for m in model.modules() if isinstance(m, SBMHeads)]
    assert {h.max_density for h in heads} == {0.1}
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            done = trainer.global_step - 1  # the step that was just taken, from 0
            expected = module.control.target(done)
            assert {h.max_density for h in heads} == {None if expected >= 1 else expected}
            seen.append(expected)

        def on_validation_batch_end(self, trainer, module, *args):
            assert {h.max_density for h in heads} == {0.1}

    trainer = make_trainer(tmp_path)
    trainer.callbacks.append(Watch())
    trainer.fit(model, data)
    assert seen[0] == 1.0
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 1.0
    trainer.test(model, data, verbose=False)
    found = [
        v for k, v in trainer.callback_metrics.items() if k.startswith("test/expected_density")
    ]
    assert found
    assert max(map(float, found)) <= 0.1 + 1e-6


def test_dense_heads_are_not_bound():
    conv = SBMConv(8, 8, heads=2, num_clusters=3, init_density=1)
    bound_density(conv, 0.3)
    assert conv.attention.max_density is None
    conv.attention.set_dense(False, 0.5)
    bound_density(conv, 0.3)
    assert conv.attention.max_density == 0.3
