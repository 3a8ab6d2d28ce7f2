"""record(): what a model sampled, without touching its forward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sbmgraph import record
from sbmgraph.nn import SBMConv, SBMTransformer


def model() -> SBMTransformer:
    torch.manual_seed(0)
    return SBMTransformer(10, 3, channels=8, num_clusters=4, max_length=20)


TOKENS = torch.arange(12) % 10
BATCH = torch.arange(12) // 5


def test_records_each_layer_in_order() -> None:
    net = model()
    with record(net) as runs:
        net(TOKENS, BATCH)
    assert [run.name for run in runs] == ["layers.0.attention.conv", "layers.1.attention.conv"]
    assert runs[0].layer is net.get_submodule(runs[0].name)
    assert runs[1].graph.num_queries == 12
    assert runs[0].sbm.num_graphs == 3
    assert runs[0].exploration == 0.01
    net(TOKENS, BATCH)
    assert len(runs) == 2, "nothing is recorded outside the block"
    runs.clear()
    assert len(runs) == 0


def test_output_is_the_same_with_and_without() -> None:
    net = model().eval()
    generator = torch.Generator().manual_seed(0)
    plain = net(TOKENS, BATCH, generator=generator)
    with record(net):
        recorded = net(TOKENS, BATCH, generator=generator.manual_seed(0))
    assert torch.equal(plain, recorded)


def test_exploration_is_off_in_evaluation() -> None:
    net = model().eval()
    with record(net) as runs:
        net(TOKENS, BATCH)
    assert {run.exploration for run in runs} == {0.0}


def test_expected_density_is_the_mean_and_has_a_gradient() -> None:
    net = model()
    with record(net) as runs:
        net(TOKENS, BATCH)
    density = runs.expected_density()
    expected = torch.stack([run.sbm.expected_density() for run in runs]).mean()
    torch.testing.assert_close(density, expected)
    density.backward()
    for run in runs:
        assert run.layer.membership.clusters.grad.abs().sum() > 0


def test_several_samples_are_several_runs() -> None:
    conv = SBMConv(4, 4, num_clusters=3, num_samples=3).eval()
    with record(conv) as runs:
        conv(torch.randn(6, 4))
    assert list(runs.by_layer()) == [""]
    assert len(runs.by_layer()[""]) == 3


def test_recordings_nest_and_see_their_own_model_only() -> None:
    first, second = SBMConv(4, 4, num_clusters=3), SBMConv(4, 4, num_clusters=3)
    both = nn.ModuleList([first, second])
    x = torch.randn(5, 4)
    with record(both) as outer, record(second) as inner:
        first(x)
        second(x)
    assert [run.name for run in outer] == ["0", "1"]
    assert [run.name for run in inner] == [""]


def test_an_error_ends_the_recording() -> None:
    conv = SBMConv(4, 4, num_clusters=3)
    with pytest.raises(RuntimeError, match="stop"), record(conv) as runs:
        raise RuntimeError("stop")
    conv(torch.randn(5, 4))
    assert len(runs) == 0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"'model' must be a torch.nn.Module"), record("model"):
        pass
    with record(nn.Linear(2, 2)) as runs:
        pass
    with pytest.raises(ValueError, match="needs a recorded sample"):
        runs.expected_density()
