"""The authors' variant: a plain dense re-implementation of their whole model, with its n x n mask,
its pooling over the padded length and its straight-through estimator, against ours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sbmgraph import record
from sbmgraph.nn import SBMConv, SBMTransformer
from tests.dense import dense_mask

LENGTHS = torch.tensor([5, 1, 7, 4])
N, HEADS, CHANNELS, CLUSTERS = 8, 2, 8, 5
EXPLORATION = 0.01


class MaskEstimator(torch.autograd.Function):
    """The sampled mask forward; its gradient, clipped to [-1, 1], for the probabilities backward,
    where the edge was sampled."""

    @staticmethod
    def forward(ctx, prob: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return mask

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grad.clamp(-1, 1) * mask, None


class DenseAuthorsModel(nn.Module):
    """Padded tokens [B, N] and given masks [L, B, H, N, N] to scores, with the weights of ours."""

    def __init__(self, weights: dict[str, Tensor], layers: int) -> None:
        super().__init__()
        self.weights = weights
        self.layers = layers

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attention(self, layer: int, x: Tensor, valid: Tensor, mask: Tensor) -> Tensor:
        conv = f"layers.{layer}.attention.conv"

        def heads(name: str) -> Tensor:
            x_ = self.linear(f"{conv}.lin_{name}", x)
            return x_.view(*x.shape[:2], HEADS, -1).transpose(1, 2)

        q, k, v = heads("query"), heads("key"), heads("value")
        membership = f"{conv}.attention.membership"
        clusters = self.weights[f"{membership}.clusters"]

        def blocks(x_: Tensor) -> Tensor:
            hidden = self.linear(f"{membership}.phi.0", x_).clamp(min=0)
            hidden = self.linear(f"{membership}.phi.2", hidden)
            return torch.einsum("bhnd,hkd->bhnk", hidden, clusters).sigmoid()

        affinity = torch.einsum("hkd,hld->hkl", clusters, clusters)
        affinity = affinity.flatten(1).softmax(-1).view_as(affinity)
        prob = torch.einsum("bhnk,hkl,bhml->bhnm", blocks(q), affinity, blocks(k)) + EXPLORATION
        sampled = MaskEstimator.apply(prob, mask)
        score = q @ k.transpose(-1, -2) / q.size(-1) ** 0.5
        score = score.masked_fill(~valid[:, None, None, :], -1e30)
        dense = score.softmax(-1) * sampled
        weight = dense / dense.sum(-1, keepdim=True).clamp(min=1e-30)
        out = (weight @ v).transpose(1, 2).flatten(2)
        return self.linear(f"layers.{layer}.attention.lin_out", out)

    def forward(self, tokens: Tensor, valid: Tensor, masks: Tensor) -> Tensor:
        x = self.weights["token_embedding.weight"][tokens]
        x = x + self.weights["position_embedding.weight"][: tokens.size(1)]
        for layer in range(self.layers):
            name = f"layers.{layer}"
            x = x + self.attention(
                layer, self.norm(f"{name}.norm_attention", x), valid, masks[layer]
            )
            hidden = self.linear(f"{name}.ffn.0", self.norm(f"{name}.norm_ffn", x))
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
            x = x + self.linear(f"{name}.ffn.3", hidden)
        x = self.norm("norm", x) * valid.unsqueeze(-1)
        pooled = x.sum(1) / tokens.size(1)
        return self.linear("classifier.2", self.linear("classifier.0", pooled).clamp(min=0))


def authors_model(**kwargs) -> SBMTransformer:
    torch.manual_seed(0)
    return SBMTransformer(
        20,
        3,
        CHANNELS,
        HEADS,
        num_layers=2,
        max_length=N,
        dropout=0.0,
        num_clusters=CLUSTERS,
        estimator="mask",
        embedding_std=0.02,
        classifier_channels=128,
        cluster_init="authors",
        bias_init="uniform",
        pooling="padded_mean",
        exploration=EXPLORATION,
        explore_in_evaluation=True,
        **kwargs,
    ).double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", ["pyg", "auto"])
def test_logits_and_gradients_are_those_of_the_dense_program(training: bool, backend: str) -> None:
    ours = authors_model(backend=backend).train(training)
    with torch.no_grad():  # away from the start, where all attention is alike
        for weight in ours.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    valid = torch.arange(N) < LENGTHS.unsqueeze(1)
    tokens = torch.randint(1, 20, valid.shape) * valid
    with record(ours) as runs:
        logits = ours(tokens, mask=valid, generator=torch.Generator().manual_seed(0))
    assert {run.exploration for run in runs} == {EXPLORATION}

    place = valid.nonzero()
    masks = torch.zeros(2, len(LENGTHS), HEADS, N, N, dtype=torch.float64)
    for layer, run in enumerate(runs):
        query, head, key = dense_mask(run.graph).nonzero().T
        (sequence, i), j = place[query].T, place[key][:, 1]
        masks[layer, sequence, head, i, j] = 1.0
    empty = (masks.sum(-1) == 0) & valid[None, :, None, :]
    assert empty.any(), "a query without an edge is part of the comparison"

    weights = dict(ours.named_parameters())
    theirs = DenseAuthorsModel(weights, 2)(tokens, valid, masks)
    torch.testing.assert_close(logits, theirs, rtol=0, atol=1e-9)
    label = torch.tensor([0, 2, 1, 0])
    found, expected = (
        torch.autograd.grad(nn.functional.cross_entropy(out, label), list(weights.values()))
        for out in (logits, theirs)
    )
    for name, mine, dense in zip(weights, found, expected, strict=True):
        assert mine.abs().max() > 0, name
        torch.testing.assert_close(
            mine, dense, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_their_initialisation() -> None:
    """Statistics within 5 standard errors."""
    model = SBMTransformer(
        600, 2, 64, 2, embedding_std=0.02, classifier_channels=128, bias_init="uniform"
    )
    std = model.token_embedding.weight.std().item()
    assert std == pytest.approx(0.02, rel=5 * (2 * 600 * 64) ** -0.5)
    assert [type(m) for m in model.classifier] == [nn.Linear, nn.ReLU, nn.Linear]
    assert model.classifier[0].out_features == 128
    conv = model.layers[0].attention.conv
    bias = torch.cat([lin.bias for lin in (conv.lin_query, conv.lin_key, conv.lin_value)])
    assert bias.abs().max() <= 1 / 8
    assert bias.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=5 * (0.2 / 192) ** 0.5)
    lazy = SBMConv(-1, 4, bias_init="uniform")
    lazy(torch.randn(3, 16))
    assert 0 < lazy.lin_key.bias.abs().max() <= 1 / 4
    assert not SBMConv(16, 4).lin_key.bias.any()


def test_padded_mean_divides_by_the_padded_length() -> None:
    x = torch.randn(5, 4)
    batch = torch.tensor([0, 0, 1, 1, 1])
    total = torch.stack([x[:2].sum(0), x[2:].sum(0)])
    for padded, divisor in ((None, 50), (8, 8)):
        model = SBMTransformer(
            9, 2, 4, 1, max_length=50, pooling="padded_mean", padded_length=padded, num_clusters=2
        )
        torch.testing.assert_close(model.pool(x, batch, 2), total / divisor)


@pytest.mark.parametrize("pooling", ["mean", "padded_mean"])
def test_half_precision_pools_in_single(pooling: str) -> None:
    """4,000 tokens of value 20 sum to 80,000, above float16's largest number."""
    model = SBMTransformer(9, 2, 4, 1, max_length=4000, pooling=pooling, num_clusters=2)
    x = torch.full((4000, 4), 20.0, dtype=torch.float16)
    out = model.pool(x, torch.zeros(4000, dtype=torch.int64), 1)
    assert out.dtype == torch.float16
    assert torch.equal(out, torch.full((1, 4), 20.0, dtype=torch.float16))
