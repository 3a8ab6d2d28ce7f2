"""The encoder on ragged and padded batches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sbmgraph.nn import SBMTransformer, Transformer
from sbmgraph.nn.transformer import picture_codes

LENGTHS = torch.tensor([5, 1, 7, 3])
BATCH = torch.arange(4).repeat_interleave(LENGTHS)
TOKENS = torch.randint(1, 20, (16,), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(7) < LENGTHS.unsqueeze(1)
PADDED = torch.zeros(4, 7, dtype=torch.int64).masked_scatter(MASK, TOKENS)


def model(**kwargs) -> SBMTransformer:
    torch.manual_seed(0)
    defaults = {"channels": 8, "num_clusters": 4, "max_length": 9}
    return SBMTransformer(20, 3, **(defaults | kwargs)).eval()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("pooling", ["mean", "cls", "none"])
def test_padded_equals_flat(pooling: str) -> None:
    net = model(pooling=pooling)
    flat = net(TOKENS, BATCH, generator=seeded())
    padded = net(PADDED, mask=MASK, generator=seeded())
    if pooling == "none":
        assert flat.shape == (16, 3)
        assert not padded[~MASK].any()
        padded = padded[MASK]
    else:
        assert flat.shape == (4, 3)
    torch.testing.assert_close(padded, flat)


class CountTokens(nn.Module):
    """An attention that hands every token the mean of its sequence."""

    def forward(self, x, batch=None, generator=None):
        total = torch.zeros(int(batch[-1]) + 1, x.size(1)).index_add(0, batch, x)
        return (total / torch.bincount(batch).unsqueeze(1))[batch]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_sequence_does_not_depend_on_its_batch_mates(pooling: str) -> None:
    torch.manual_seed(0)
    net = Transformer(20, 3, CountTokens, 8, max_length=9, pooling=pooling).eval()
    together = net(TOKENS, BATCH)
    for number in range(4):
        alone = net(TOKENS[number == BATCH])
        torch.testing.assert_close(together[number : number + 1], alone)


def test_two_documents() -> None:
    net = model(num_documents=2)
    assert net(TOKENS, BATCH).shape == (2, 3)
    with pytest.raises(ValueError, match="two documents an item, got 3 sequences"):
        net(TOKENS[BATCH < 3], BATCH[BATCH < 3])


def test_picture_codes_follow_their_formula() -> None:
    codes = picture_codes(18, 8, 5)
    for pixel, code in enumerate(codes.tolist()):
        angles = [place * 5**-power for place in divmod(pixel, 5) for power in (0.0, 0.5)]
        expected = [math.sqrt(2) * wave(a) for wave in (math.sin, math.cos) for a in angles]
        assert code == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(codes.square().mean(dim=1), torch.ones(18))


def test_products_of_picture_codes_tell_the_displacement() -> None:
    codes = picture_codes(32 * 32, 16, 32).double()
    similarity = (codes @ codes.T).view(32, 32, 32, 32)
    for dy, dx in [(0, 1), (2, -3), (7, 5)]:
        rows = torch.arange(8, 24)
        shifted = similarity[rows[:, None], rows, rows[:, None] + dy, rows + dx]
        torch.testing.assert_close(shifted, shifted[:1, :1].expand_as(shifted), atol=1e-5, rtol=0)
    assert int(similarity.view(1024, 1024).argmax(dim=1).eq(torch.arange(1024)).sum()) == 1024


def test_positions_of_a_picture_replace_the_drawn_ones_alone() -> None:
    drawn = model(max_length=12).state_dict()
    coded = model(max_length=12, picture_width=4, position_std=0.5).state_dict()
    assert drawn.keys() == coded.keys()
    different = [name for name in drawn if not torch.equal(drawn[name], coded[name])]
    assert different == ["position_embedding.weight"]
    torch.testing.assert_close(coded[different[0]], 0.5 * picture_codes(12, 8, 4))


def test_classifier_channels() -> None:
    for documents, features in ((1, 8), (2, 32)):
        net = model(num_documents=documents, classifier_channels=6)
        shapes = [tuple(weight.shape) for weight in net.classifier.parameters()]
        assert shapes == [(6, features), (6,), (3, 6), (3,)]
        assert net(TOKENS, BATCH).shape == (4 // documents, 3)


def test_dropout_and_gradients() -> None:
    net = model(dropout=0.2).train()
    net(TOKENS, BATCH).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"tokens": TOKENS.float()}, "'tokens' must be an int64 tensor"),
        ({"tokens": TOKENS + 19}, r"'tokens' must lie in \[0, 20\)"),
        ({"tokens": TOKENS - 20}, r"'tokens' must lie in \[0, 20\)"),
        ({"batch": BATCH.flip(0)}, "'batch' must be sorted"),
        ({"batch": BATCH + (BATCH > 1)}, "got none of sequence 2"),
        ({"batch": BATCH[:-1]}, "'batch' must hold one graph number"),
        ({"batch": torch.zeros(16, dtype=torch.int64)}, "'max_length' = 9 tokens, got one of 16"),
        ({"mask": MASK}, "'mask' must be None"),
        ({"tokens": PADDED}, "'batch' must be None"),
        ({"tokens": PADDED, "batch": None, "mask": MASK.int()}, "'mask' must be a boolean"),
        (
            {
                "tokens": PADDED,
                "batch": None,
                "mask": MASK & (BATCH.new_tensor([[1], [1], [0], [1]]) > 0),
            },
            "got all padding in sequence 2",
        ),
        ({"tokens": TOKENS[:0], "batch": BATCH[:0]}, "'tokens' must hold a token"),
    ],
)
def test_bad_input(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        model()(**({"tokens": TOKENS, "batch": BATCH} | kwargs))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"pooling": "max"}, "'pooling' must be one of"),
        ({"max_length": 0}, "'max_length' must be"),
        ({"num_documents": 3}, "'num_documents' must be 1 or 2"),
        ({"num_documents": 2, "pooling": "none"}, "'pooling' must not be 'none'"),
        ({"dropout": -0.1}, "'dropout' must be a number"),
        ({"picture_width": 0}, "'picture_width' must be"),
        ({"picture_width": 3, "channels": 6}, "'channels' must be a multiple of 4"),
        ({"classifier_channels": 0}, "'classifier_channels' must be"),
        ({"law": "gauss"}, "'law' must be one of"),
    ],
)
def test_bad_arguments(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        model(**kwargs)
