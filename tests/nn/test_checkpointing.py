"""Activation checkpointing: what is computed twice samples the same graph, or is refused."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.utils.checkpoint import CheckpointError, checkpoint

from sbmgraph import record
from sbmgraph.nn import SBMConv
from sbmgraph.record import layer_density

REENTRANT = pytest.mark.parametrize("reentrant", [False, True])


def layer() -> SBMConv:
    torch.manual_seed(0)
    return SBMConv(4, 4, heads=2, num_clusters=3, dropout=0.2).double()


def features() -> torch.Tensor:
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x.requires_grad_()


def gradients(conv: SBMConv, loss: torch.Tensor) -> list[torch.Tensor]:
    conv.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in conv.parameters() if p.grad is not None]


@REENTRANT
def test_gradients_are_those_without_checkpointing(reentrant: bool) -> None:
    conv, x = layer(), features()
    torch.manual_seed(1)
    expected = gradients(conv, conv(x).square().sum())
    torch.manual_seed(1)
    out = checkpoint(conv, x, use_reentrant=reentrant)
    torch.manual_seed(2)
    found = gradients(conv, out.square().sum())
    assert len(found) == len(expected) == len(list(conv.parameters()))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@REENTRANT
def test_a_generator_that_moved_on_is_refused(reentrant: bool) -> None:
    conv, x = layer(), features()
    generator = torch.Generator().manual_seed(0)
    out = (
        checkpoint(conv, x, generator=generator, use_reentrant=reentrant)
        if not reentrant
        else (checkpoint(lambda x: conv(x, generator=generator), x, use_reentrant=True))
    )
    with pytest.raises(ValueError, match=r"'generator' must be None under torch.utils.checkpoint"):
        out.sum().backward()


@REENTRANT
def test_a_generator_that_is_seeded_inside_is_fine(reentrant: bool) -> None:
    conv, x = layer(), features()
    conv.attention.dropout = 0.0

    def run(x: torch.Tensor) -> torch.Tensor:
        return conv(x, generator=torch.Generator().manual_seed(7))

    expected = gradients(conv, run(x).square().sum())
    found = gradients(conv, checkpoint(run, x, use_reentrant=reentrant).square().sum())
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@REENTRANT
def test_recomputation_without_the_random_state_is_refused(reentrant: bool) -> None:
    conv, x = layer(), features()
    out = checkpoint(conv, x, use_reentrant=reentrant, preserve_rng_state=False)
    with pytest.raises((ValueError, CheckpointError), match="'preserve_rng_state' True"):
        out.sum().backward()


@pytest.mark.parametrize("keep", [None, layer_density])
def test_a_checkpointed_layer_is_recorded_once_with_its_gradient(keep) -> None:
    conv, x = layer(), features()
    torch.manual_seed(1)
    with record(conv, keep=keep) as runs:
        out = conv(x)
        expected = gradients(conv, out.square().sum() + runs.expected_density())
    torch.manual_seed(1)
    with record(conv, keep=keep) as runs:
        out = checkpoint(conv, x, use_reentrant=False)
        found = gradients(conv, out.square().sum() + runs.expected_density())
        assert len(runs) == 1
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_a_penalty_that_reentrant_checkpointing_cut_is_refused() -> None:
    conv, x = layer(), features()
    with record(conv) as runs:
        with pytest.warns(UserWarning, match="reentrant checkpointing cuts the gradient"):
            out = checkpoint(conv, x, use_reentrant=True)
        with pytest.raises(ValueError, match="checkpoint with use_reentrant=False"):
            runs.expected_density()
        with torch.no_grad():
            assert 0 < runs.expected_density() < 1
        out.sum().backward()
        assert len(runs) == 1
    runs.clear()
    with torch.no_grad(), record(conv) as runs:
        conv(x)
    assert 0 < runs.expected_density() < 1, "measuring without gradients is no checkpointing"


@REENTRANT
@pytest.mark.parametrize("density", [None, 1])
@pytest.mark.parametrize("forward_inside", [True, False])
@pytest.mark.filterwarnings("ignore:reentrant checkpointing cuts")
def test_recording_weights_of_one_of_both_passes(
    reentrant: bool, density: int | None, forward_inside: bool
) -> None:
    """Weights are recorded by another way through the layer, which recomputation must follow."""
    torch.manual_seed(0)
    conv, x = SBMConv(4, 4, heads=2, num_clusters=3, init_density=density).double(), features()
    torch.manual_seed(1)
    expected = gradients(conv, conv(x).square().sum())
    torch.manual_seed(1)
    with record(conv, weights=True) if forward_inside else nullcontext([]) as runs:
        out = checkpoint(conv, x, use_reentrant=reentrant)
    assert len(runs) == forward_inside
    with nullcontext([]) if forward_inside else record(conv, weights=True) as runs:
        found = gradients(conv, out.square().sum())
    assert not forward_inside or runs == []
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
