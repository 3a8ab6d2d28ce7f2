"""Products with a matrix of every head against einsum in float64."""

from __future__ import annotations

import torch

from sbmgraph import products
from sbmgraph.products import head_product, sum_outer


def random_inputs(nodes: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(nodes, 3, 4, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)


def test_values_and_gradients_are_einsums() -> None:
    x, weight = random_inputs()
    expected = torch.einsum("nhp,hpq->nhq", x, weight)
    for value in (None, expected.detach()):
        out = head_product(x, weight, value)
        torch.testing.assert_close(out, expected)
        grad = torch.randn_like(out)
        found = torch.autograd.grad(out, (x, weight), grad)
        truth = torch.autograd.grad(expected, (x, weight), grad, retain_graph=True)
        torch.testing.assert_close(found, truth)


def test_second_derivatives_and_partial_gradients() -> None:
    x, weight = random_inputs(5)
    assert torch.autograd.gradgradcheck(head_product, (x, weight))
    assert torch.autograd.gradcheck(lambda w: head_product(x.detach(), w), (weight,))
    assert torch.autograd.gradcheck(lambda y: head_product(y, weight.detach()), (x,))


def test_no_nodes() -> None:
    x, weight = random_inputs(0)
    out = head_product(x, weight)
    assert out.shape == (0, 3, 5)
    assert not torch.autograd.grad(out.sum(), weight)[0].any()


def test_sums_head_by_head_are_the_same() -> None:
    x, _ = random_inputs(40)
    other = torch.randn(40, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(products._by_head(x, other), sum_outer(x, other))
    torch.testing.assert_close(sum_outer(x, other), torch.einsum("nhp,nhq->hpq", x, other))
