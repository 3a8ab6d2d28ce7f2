"""Attention over edges as a torch operator: schema, shapes and gradients, a kernel for each device.

``torch.ops.sbmgraph.edge_attention`` hides from torch's tracers how the kernels run, so that
:func:`torch.compile` sees attention over a given graph without a graph break. First derivatives
only. This is the only place where its arguments are flat; :class:`_Flat` is their one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from sbmgraph.kernels.attention.inputs import Inputs, Needs
from sbmgraph.kernels.csr import CSC, CSR
from sbmgraph.kernels.gradients import filled, register_gradient
from sbmgraph.kernels.layout import head_by_head
from sbmgraph.kernels.options import Factors, Options
from sbmgraph.kernels.probe import Probe


class _Flat(NamedTuple):
    """The tensors of the operator, in the order of its schema."""

    query: Tensor  # [n * H, d]
    key: Tensor  # [m * H, d]
    value: Tensor  # [m * H, dv]
    bias: Tensor | None  # [E]
    rate: Tensor | None  # [n, H, K]
    member: Tensor | None  # [m, H, K]
    sampled: Tensor | None  # [E]
    rowptr: Tensor
    col: Tensor
    query_ptr: Tensor
    key_ptr: Tensor
    colptr: Tensor | None
    row: Tensor | None
    perm: Tensor | None
    seed: Tensor  # [], a tensor so that no two seeds are two graphs to torch.compile

    def csr(self, heads: int) -> CSR:
        return CSR(self.rowptr, self.col, self.query_ptr, self.key_ptr, heads)

    def csc(self) -> CSC | None:
        if self.colptr is None or self.row is None or self.perm is None:
            return None
        return CSC(self.colptr, self.row, self.perm)

    def factors(self) -> Factors | None:
        if self.rate is None or self.member is None:
            return None
        return Factors(self.rate, self.member)

    def inputs(self, heads: int) -> Inputs:
        return Inputs(
            self.query, self.key, self.value, self.csr(heads), self.csc(), self.bias,
            self.factors(), self.sampled,
        )  # fmt: skip

    def options(self, scale: float, dropout: float, estimator: str) -> Options:
        return Options(scale, dropout, int(self.seed), estimator)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    csr: CSR,
    csc: CSC | None,
    bias: Tensor | None,
    factors: Factors | None,
    sampled: Tensor | None,
    options: Options,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Attention of every query vertex over its edges.

    Args:
        query: Queries of shape :obj:`[n * H, d]`.
        key: Keys of shape :obj:`[m * H, d]`.
        value: Values of shape :obj:`[m * H, dv]`.
        csr: The edges.
        csc: Their transpose, for the gradients of key, value and member where :func:`needs_csc`.
        bias: Added to the scores, of shape :obj:`[E]`.
        factors: Inputs only to receive the straight-through gradient.
        sampled: Which edges pass them one, boolean of shape :obj:`[E]`; all if :obj:`None`.
        options: Scale, dropout and estimator; its seed is not read.
        seed: The dropout's seed, int64 of shape :obj:`[]`.

    Returns:
        The output, of shape :obj:`[n * H, dv]` in the dtype of ``query``, and the log-sum-exp of
        each vertex's scores, of shape :obj:`[n * H]` in at least float32, :math:`-\infty` where it
        has no edge.
    """
    flat = _Flat(  # type: ignore[call-arg]
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        None if bias is None else bias.contiguous(),
        *((None, None) if factors is None else factors),
        sampled,
        *csr[:4],
        *((None, None, None) if csc is None else csc),
        seed,
    )
    return _forward(
        *flat,
        heads=csr.heads,
        scale=options.scale,
        dropout=options.dropout,
        estimator=options.estimator,
    )


@custom_op("sbmgraph::edge_attention", mutates_args=(), device_types="cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    rate: Tensor | None,
    member: Tensor | None,
    sampled: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    query_ptr: Tensor,
    key_ptr: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    seed: Tensor,
    *,
    heads: int,
    scale: float,
    dropout: float,
    estimator: str,
) -> tuple[Tensor, Tensor]:
    from sbmgraph.kernels.attention import cpu

    csr = CSR(rowptr, col, query_ptr, key_ptr, heads)
    options = Options(scale, dropout, int(seed), estimator)
    return cpu.forward(query, key, value, csr, bias, options)


@_forward.register_kernel("cuda")
def _(*tensors: Any, heads: int, scale: float, dropout: float, estimator: str) -> Any:
    from sbmgraph.kernels.attention import gpu

    flat = _Flat(*tensors)
    options = flat.options(scale, dropout, estimator)
    return gpu.forward(flat.query, flat.key, flat.value, flat.csr(heads), flat.bias, options)


@_forward.register_fake
def _(*tensors: Any, **options: Any) -> Any:
    flat = _Flat(*tensors)
    rows = flat.query.size(0)
    lse = flat.query.new_empty(rows, dtype=torch.promote_types(flat.query.dtype, torch.float32))
    return flat.query.new_empty(rows, flat.value.size(1)), lse


@custom_op("sbmgraph::edge_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    rate: Tensor | None,
    member: Tensor | None,
    sampled: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    query_ptr: Tensor,
    key_ptr: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    seed: Tensor,
    *,
    heads: int,
    scale: float,
    dropout: float,
    estimator: str,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of query, key, value, bias, rate and member; empty where ``needs`` says not
    needed."""
    from sbmgraph.kernels.attention import cpu_backward

    flat = _Flat(
        query, key, value, bias, rate, member, sampled, rowptr, col, query_ptr, key_ptr, colptr,
        row, perm, seed,
    )  # fmt: skip
    options = flat.options(scale, dropout, estimator)
    grads = cpu_backward.backward(
        grad_out.contiguous(), flat.inputs(heads), (out, lse), options, Needs(*needs)
    )
    return filled(grads, query)


@_backward.register_kernel("cuda")
def _(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    *tensors: Any,
    heads: int,
    scale: float,
    dropout: float,
    estimator: str,
    needs: Sequence[bool],
) -> list[Tensor]:
    from sbmgraph.kernels.attention import gpu_backward

    flat = _Flat(*tensors)
    options = flat.options(scale, dropout, estimator)
    grads = gpu_backward.backward(
        grad_out.contiguous(), flat.inputs(heads), (out, lse), options, Needs(*needs)
    )
    return filled(grads, flat.query)


@_backward.register_fake
def _(grad_out, out, lse, *tensors: Any, needs: Sequence[bool], **options: Any) -> Any:
    flat = _Flat(*tensors)
    vertices = [
        torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in (flat.query, flat.key, flat.value)
    ]
    bias = flat.query.new_empty(0) if flat.bias is None else torch.empty_like(flat.bias)
    factors = [
        flat.query.new_empty(0) if x is None else head_by_head(x) for x in (flat.rate, flat.member)
    ]
    grads = (*vertices, bias, *factors)
    return [
        grad if need else flat.query.new_empty(0) for grad, need in zip(grads, needs, strict=True)
    ]


register_gradient(
    _forward,
    _backward,
    6,
    "the fused kernels have no second derivative: use edge_attention(..., backend='reference')",
)


@torch.compiler.assume_constant_result
def needs_csc(device_type: str) -> bool:
    """Whether a device's kernels use the transpose of the edges for the gradients of keys: on the
    CPU they are added up along the rows."""
    return device_type == "cuda"


def _attempt(device: torch.device) -> None:
    one = torch.ones(1, 1, dtype=torch.float32, device=device)
    ptr = torch.tensor([0, 1], dtype=torch.int64, device=device)
    col = torch.zeros(1, dtype=torch.int32, device=device)
    seed = torch.zeros((), dtype=torch.int64, device="cpu")
    csr = CSR(ptr, col, ptr, ptr, 1)
    attention(one, one, one, csr, None, None, None, None, Options(1.0, 0.0, 0, "logit"), seed)


PROBE = Probe("edge attention", _attempt)


@torch.compiler.assume_constant_result
def is_available(device_type: str) -> bool:
    """Whether the compiled kernels run on a device type; if not, warns once and says why."""
    return PROBE.works(device_type)
