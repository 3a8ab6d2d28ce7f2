"""The fused kernels as torch operators: one implementation a device, autograd, traceable shapes.

``torch.ops.sbmgraph.*`` hide from torch's tracers how the kernels run, so that
:func:`torch.compile` sees attention over a given graph without a graph break. First derivatives
only.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

_CONTIGUOUS = torch.contiguous_format

KERNELS = {"cpu": "sbmgraph.ops.cpu", "cuda": "sbmgraph.ops.gpu"}
"""The module that holds the kernels of each device type."""


def kernels(device: torch.device) -> ModuleType:
    """The kernels for ``device``."""
    return import_module(KERNELS[device.type])


@torch.compiler.assume_constant_result
def needs_csc(device_type: str) -> bool:
    """Whether a device's kernels use the CSC of the edges for the gradients of keys."""
    return kernels(torch.device(device_type)).NEEDS_CSC


@torch.compiler.assume_constant_result
def is_available(device_type: str) -> bool:
    """Whether the fused kernels run on a device type; if not, warns once and says why."""
    return device_type in KERNELS and _works(device_type)


@cache
def _works(device_type: str) -> bool:
    try:
        device = torch.device(device_type)
        one = torch.ones(1, 1, device=device)
        rowptr = torch.tensor([0, 1], device=device)
        col = torch.zeros(1, dtype=torch.int32, device=device)
        kernels(device).attention_forward(one, one, one, rowptr, col, 1, None, 1.0, 0.0, 0)
    except Exception as error:
        library = "Numba" if device_type == "cpu" else "Triton"
        warnings.warn(
            f"the compiled {device_type} kernels of sbmgraph are not available, its slower "
            f"PyTorch code runs instead; is {library} installed and working? "
            f"({type(error).__name__}: {str(error).strip().splitlines()[:1]})",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _no_second_derivative(ctx: Any, *grads: Tensor) -> Any:
    raise RuntimeError(
        "the fused kernels have no second derivative: use edge_attention(..., backend='pyg')"
    )


def _accumulate(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def head_by_head(like: Tensor) -> Tensor:
    """An uninitialised tensor ``[nodes, H, K]`` whose memory lists one head after the other: how
    memberships and rates come out of their matrix products, and what the kernels gather from."""
    nodes, heads, clusters = like.shape
    return like.new_empty(heads, nodes, clusters).transpose(0, 1)


# Attention ########################################################################################


@custom_op("sbmgraph::edge_attention", mutates_args=())
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    rate: Tensor | None,
    member: Tensor | None,
    learned: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    seed: Tensor,
    heads: int,
    scale: float,
    dropout: float,
    estimator: str,
) -> tuple[Tensor, Tensor]:
    """Attention's output :obj:`[n * H, dv]` and its log-sum-exp :obj:`[n * H]`.

    ``rate`` :obj:`[n, H, K]` and ``member`` :obj:`[m, H, K]` are inputs only to receive the
    straight-through gradient of the edges that are ``learned`` (boolean :obj:`[E]`, all if
    :obj:`None`). The CSC of the edges is for the gradients of key, value and member, on devices
    whose kernels need it.
    """
    forward = kernels(query.device).attention_forward
    return forward(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        rowptr,
        col,
        heads,
        None if bias is None else bias.contiguous(),
        scale,
        dropout,
        int(seed),
    )


@attention.register_fake
def _(query, key, value, *args):
    lse = query.new_empty(query.size(0), dtype=_accumulate(query.dtype))
    return query.new_empty(query.size(0), value.size(1)), lse


@custom_op("sbmgraph::edge_attention_backward", mutates_args=())
def attention_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    rate: Tensor | None,
    member: Tensor | None,
    learned: Tensor | None,
    out: Tensor,
    lse: Tensor,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    seed: Tensor,
    heads: int,
    scale: float,
    dropout: float,
    estimator: str,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of query, key, value, bias, rate and member; empty where ``needs`` says not
    needed."""
    grads = kernels(query.device).attention_backward(
        grad_out.contiguous(),
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        out,
        lse,
        rowptr,
        col,
        heads,
        colptr,
        row,
        perm,
        None if bias is None else bias.contiguous(),
        rate,
        member,
        learned,
        scale,
        dropout,
        int(seed),
        estimator,
        tuple(needs),
    )
    return [query.new_empty(0) if grad is None else grad for grad in grads]


@attention_backward.register_fake
def _(grad_out, query, key, value, bias, rate, member, *args):
    needs = args[-1]
    vertices = [torch.empty_like(x, memory_format=_CONTIGUOUS) for x in (query, key, value)]
    bias = query.new_empty(0) if bias is None else torch.empty_like(bias)
    factors = [query.new_empty(0) if x is None else head_by_head(x) for x in (rate, member)]
    grads = (*vertices, bias, *factors)
    return [grad if need else query.new_empty(0) for grad, need in zip(grads, needs, strict=True)]


def _save_attention(ctx: Any, inputs: tuple, output: tuple) -> None:
    tensors, ctx.options = inputs[:13], inputs[13:]
    ctx.save_for_backward(*tensors[:7], *output, *tensors[7:])
    ctx.set_materialize_grads(False)


def _attention_gradient(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple:
    needs = list(ctx.needs_input_grad[:6])
    if grad_out is None:
        return (None,) * 17
    grads = torch.ops.sbmgraph.edge_attention_backward(
        grad_out, *ctx.saved_tensors, *ctx.options, needs
    )
    grads = [grad if needed else None for grad, needed in zip(grads, needs, strict=True)]
    return (*grads, *(None,) * 11)


attention.register_autograd(_attention_gradient, setup_context=_save_attention)
attention_backward.register_autograd(_no_second_derivative)


# Edge probabilities ###############################################################################


@custom_op("sbmgraph::edge_prob", mutates_args=())
def edge_prob(
    rate: Tensor,
    member: Tensor,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    heads: int,
) -> Tensor:
    """The inner product of each edge's rate and membership, :obj:`[n, H, K]` and
    :obj:`[m, H, K]`."""
    return kernels(rate.device).edge_prob_forward(rate, member, rowptr, col, heads)


@edge_prob.register_fake
def _(rate, member, rowptr, col, *args):
    return rate.new_empty(col.size(0))


@custom_op("sbmgraph::edge_prob_backward", mutates_args=())
def edge_prob_backward(
    grad: Tensor,
    rate: Tensor,
    member: Tensor,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    heads: int,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of rate and member; empty where ``needs`` says not needed."""
    grads = kernels(rate.device).edge_prob_backward(
        grad.contiguous(), rate, member, rowptr, col, heads, colptr, row, perm, tuple(needs)
    )
    return [rate.new_empty(0) if g is None else g for g in grads]


@edge_prob_backward.register_fake
def _(grad, rate, member, rowptr, col, colptr, row, perm, heads, needs):
    return [
        head_by_head(like) if needed else rate.new_empty(0)
        for like, needed in zip((rate, member), needs, strict=True)
    ]


def _save_edge_prob(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.heads = inputs[7]


def _edge_prob_gradient(ctx: Any, grad: Tensor) -> tuple:
    needs = list(ctx.needs_input_grad[:2])
    grads = torch.ops.sbmgraph.edge_prob_backward(grad, *ctx.saved_tensors, ctx.heads, needs)
    return (*(g if need else None for g, need in zip(grads, needs, strict=True)), *(None,) * 6)


edge_prob.register_autograd(_edge_prob_gradient, setup_context=_save_edge_prob)
edge_prob_backward.register_autograd(_no_second_derivative)


# Transpose ########################################################################################


@custom_op("sbmgraph::transpose", mutates_args=())
def transpose(
    rowptr: Tensor, col: Tensor, heads: int, num_keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``(colptr, row, perm)`` of :class:`~sbmgraph.graph.CSC`."""
    return kernels(col.device).transpose(rowptr, col, heads, num_keys)


@transpose.register_fake
def _(rowptr, col, heads, num_keys):
    colptr = rowptr.new_empty(num_keys * heads + 1)
    return colptr, torch.empty_like(col), rowptr.new_empty(col.size(0))
