"""SBMAttention: padded and flat input are the same thing."""

from __future__ import annotations

import pytest
import torch

from sbmgraph import record
from sbmgraph.nn import SBMAttention


def attention(**kwargs) -> SBMAttention:
    torch.manual_seed(0)
    return SBMAttention(8, 2, num_clusters=4, **kwargs)


X = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.arange(6) < torch.tensor([[6], [2], [4]])


def test_name_and_sizes() -> None:
    layer = attention()
    assert str(layer) == "SBMAttention(8, heads=2, head_channels=4, num_clusters=4)"
    assert layer(X).shape == X.shape
    assert attention(head_channels=5)(X, MASK).shape == X.shape


def test_padded_equals_flat_and_padding_is_zero() -> None:
    layer = attention().eval()
    flat = layer(
        X[MASK],
        batch=torch.arange(3).repeat_interleave(MASK.sum(1)),
        generator=torch.Generator().manual_seed(0),
    )
    padded = layer(X, MASK, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(padded[MASK], flat)
    assert not padded[~MASK].any()


def test_padding_is_never_a_candidate() -> None:
    layer = attention(init_density=0.999)
    with record(layer) as runs:
        layer(X, MASK)
    graph = runs[0].graph
    assert graph.num_keys == MASK.sum()
    assert graph.num_edges <= 2 * (36 + 4 + 16)
    changed = X.clone()
    changed[~MASK] = float("nan")
    out = layer.eval()(changed, MASK, generator=torch.Generator().manual_seed(0))
    expected = layer(X, MASK, generator=torch.Generator().manual_seed(0))
    assert torch.equal(out, expected)


def test_a_fully_padded_sequence_is_zeros() -> None:
    mask = MASK.clone()
    mask[1] = False
    x = X.clone().requires_grad_()
    out = attention()(x, mask)
    assert not out[1].any()
    out.sum().backward()
    assert bool(torch.isfinite(x.grad).all())


def test_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert attention()(X, MASK).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"x": X[..., :3]}, "'x' must have shape"),
        ({"x": X[0, 0]}, "'x' must have shape"),
        ({"mask": MASK[:, :4]}, "'mask' must be a boolean tensor of shape"),
        ({"mask": MASK.float()}, "'mask' must be a boolean tensor"),
        ({"batch": torch.zeros(6, dtype=torch.int64)}, "'batch' must be None"),
        ({"x": X[0], "mask": MASK}, "'mask' must be None"),
    ],
)
def test_bad_input(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        attention()(**({"x": X} | kwargs))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="'channels' must be a multiple of 'heads'"):
        SBMAttention(9, 2)
    with pytest.raises(ValueError, match="'concat' must be left out"):
        SBMAttention(8, 2, concat=False)
