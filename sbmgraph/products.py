"""Products of node features with a matrix of every head: their gradients sum over many nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LONG = 16384
"""Nodes from which on a GPU sums head by head: cuBLAS splits the sum of one product over the
device, but of a batch of products gives each to a few multiprocessors only."""


def head_product(x: Tensor, weight: Tensor, value: Tensor | None = None) -> Tensor:
    """Node features [n, H, p] times a matrix of each head [H, p, q]: [n, H, q], head by head in
    memory.

    Args:
        x: The features.
        weight: The matrices.
        value: The product, where it is known already: gradients flow all the same.
    """
    with torch.autocast(x.device.type, enabled=False):
        if value is None:
            value = torch.bmm(x.detach().transpose(0, 1), weight.detach()).transpose(0, 1)
        return _HeadProduct.apply(x, weight, value)


def sum_outer(a: Tensor, b: Tensor) -> Tensor:
    """Outer products of features [n, H, p] and [n, H, q], summed over nodes: [H, p, q]."""
    if a.is_cuda and a.size(0) >= LONG:
        return _by_head(a, b)
    return torch.bmm(a.permute(1, 2, 0), b.transpose(0, 1))


def _by_head(a: Tensor, b: Tensor) -> Tensor:
    heads = zip(a.unbind(1), b.unbind(1), strict=True)
    return torch.stack([torch.mm(x.t(), y) for x, y in heads])


class _HeadProduct(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        with torch.autocast(weight.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                product = torch.bmm(grad.transpose(0, 1), weight.transpose(1, 2))
                grad_x = product.transpose(0, 1)
            if ctx.needs_input_grad[1]:
                grad_weight = sum_outer(x, grad)
        return grad_x, grad_weight, None
