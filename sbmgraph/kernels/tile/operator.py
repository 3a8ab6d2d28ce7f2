"""Tile attention as a torch operator: schema, shapes and gradients, a kernel for each device.

``torch.ops.sbmgraph.tile_attention`` hides from torch's tracers how the kernels run, so that
:func:`torch.compile` sees no graph break. First derivatives only. This is the only place where its
arguments are flat; :class:`_Flat` is their one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.gradients import filled, register_gradient
from sbmgraph.kernels.layout import head_by_head
from sbmgraph.kernels.options import Factors, Options
from sbmgraph.kernels.probe import Probe
from sbmgraph.kernels.tile import reference


class _Flat(NamedTuple):
    """The tensors of the operator, in the order of its schema."""

    query: Tensor  # [n, H, d]
    key: Tensor  # [m, H, d]
    value: Tensor  # [m, H, dv]
    rate: Tensor | None  # [n, H, K]
    member: Tensor | None  # [m, H, K]
    words: Tensor
    word_ptr: Tensor
    query_ptr: Tensor
    key_ptr: Tensor
    seed: Tensor  # [], a tensor so that no two seeds are two graphs to torch.compile
    kept: Tensor | None = None  # the words that dropout leaves, where they are drawn beforehand

    def bits(self) -> Bits:
        return Bits(self.words, self.word_ptr, self.query_ptr, self.key_ptr, self.query.size(1))

    def factors(self) -> Factors | None:
        if self.rate is None or self.member is None:
            return None
        return Factors(self.rate, self.member)

    def options(self, scale: float, dropout: float, estimator: str) -> Options:
        return Options(scale, dropout, int(self.seed), estimator, self.kept)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    factors: Factors | None,
    bits: Bits,
    options: Options,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Attention of every query over its edges, each head on its own.

    Args:
        query: Queries of shape :obj:`[n, H, d]`.
        key: Keys of shape :obj:`[m, H, d]`.
        value: Values of shape :obj:`[m, H, dv]`.
        factors: Inputs only to receive the straight-through gradient.
        bits: The edges, all of them sampled.
        options: Scale, dropout and estimator; its seed is not read.
        seed: The dropout's seed, int64 of shape :obj:`[]` on the CPU.

    Returns:
        The output, of shape :obj:`[n, H, dv]` in the dtype of ``query``, and the log-sum-exp of
        each query vertex's scores, of shape :obj:`[n, H]` in at least float32: zeros and
        :math:`-\infty` where it has no edge.
    """
    flat = _Flat(  # type: ignore[call-arg]
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        *((None, None) if factors is None else factors),
        *bits[:4],
        seed,
    )
    if options.dropout > 0 and query.is_cuda and query.dtype != torch.float64:
        flat = flat._replace(kept=_dropout(*bits[:4], seed, flat.query, dropout=options.dropout))
    return _forward(
        *flat, scale=options.scale, dropout=options.dropout, estimator=options.estimator
    )


def _kernels(device_type: str, dtype: torch.dtype) -> Any:
    """Where a device's ``forward`` and ``backward`` are; those of float64 are the reference's."""
    if dtype == torch.float64:
        return reference
    if device_type == "cuda":
        from sbmgraph.kernels.tile import gpu

        return gpu
    from sbmgraph.kernels.tile import cpu

    return cpu


@custom_op("sbmgraph::tile_dropout", mutates_args=(), device_types="cuda")
def _dropout(
    words: Tensor,
    word_ptr: Tensor,
    query_ptr: Tensor,
    key_ptr: Tensor,
    seed: Tensor,
    query: Tensor,
    *,
    dropout: float,
) -> Tensor:
    """The words that dropout leaves, drawn once for the forward and the backward pass."""
    from sbmgraph.kernels.tile.gpu_dropout import kept_words

    bits = Bits(words, word_ptr, query_ptr, key_ptr, query.size(1))
    kept = kept_words(bits, query.size(0), Options(1.0, dropout, int(seed), "logit"))
    assert kept is not None
    return kept


@_dropout.register_fake
def _(words: Tensor, *tensors: Any, dropout: float) -> Tensor:
    return torch.empty_like(words)


@custom_op("sbmgraph::tile_attention", mutates_args=())
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rate: Tensor | None,
    member: Tensor | None,
    words: Tensor,
    word_ptr: Tensor,
    query_ptr: Tensor,
    key_ptr: Tensor,
    seed: Tensor,
    kept: Tensor | None = None,
    *,
    scale: float,
    dropout: float,
    estimator: str,
) -> tuple[Tensor, Tensor]:
    flat = _Flat(query, key, value, rate, member, words, word_ptr, query_ptr, key_ptr, seed, kept)
    options = flat.options(scale, dropout, estimator)
    return reference.forward(query, key, value, flat.bits(), options)


@_forward.register_kernel(("cpu", "cuda"))
def _(*tensors: Any, scale: float, dropout: float, estimator: str) -> tuple[Tensor, Tensor]:
    flat = _Flat(*tensors)
    kernels = _kernels(flat.query.device.type, flat.query.dtype)
    options = flat.options(scale, dropout, estimator)
    return kernels.forward(flat.query, flat.key, flat.value, flat.bits(), options)


@_forward.register_fake
def _(*tensors: Any, **options: Any) -> tuple[Tensor, Tensor]:
    query, _, value, *_ = tensors
    shape, wide = query.shape[:2], torch.promote_types(query.dtype, torch.float32)
    return query.new_empty(*shape, value.size(2)), query.new_empty(shape, dtype=wide)


@custom_op("sbmgraph::tile_attention_backward", mutates_args=())
def _backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rate: Tensor | None,
    member: Tensor | None,
    words: Tensor,
    word_ptr: Tensor,
    query_ptr: Tensor,
    key_ptr: Tensor,
    seed: Tensor,
    kept: Tensor | None = None,
    *,
    scale: float,
    dropout: float,
    estimator: str,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of query, key, value, rate and member; empty where ``needs`` says not needed."""
    flat = _Flat(query, key, value, rate, member, words, word_ptr, query_ptr, key_ptr, seed, kept)
    options = flat.options(scale, dropout, estimator)
    return _run_backward(reference, grad_out, out, lse, flat, options, needs)


@_backward.register_kernel(("cpu", "cuda"))
def _(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    *tensors: Any,
    scale: float,
    dropout: float,
    estimator: str,
    needs: Sequence[bool],
) -> list[Tensor]:
    flat = _Flat(*tensors)
    kernels = _kernels(flat.query.device.type, flat.query.dtype)
    options = flat.options(scale, dropout, estimator)
    return _run_backward(kernels, grad_out, out, lse, flat, options, needs)


def _run_backward(
    kernels: Any,
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    flat: _Flat,
    options: Options,
    needs: Sequence[bool],
) -> list[Tensor]:
    grads = kernels.backward(
        grad_out.contiguous(), flat.query, flat.key, flat.value, flat.factors(), flat.bits(), out,
        lse, options, tuple(needs),
    )  # fmt: skip
    laid_out = [x if x is None else _laid_out(x, position) for position, x in enumerate(grads)]
    return filled(laid_out, flat.query)


def _laid_out(grad: Tensor, position: int) -> Tensor:
    """A gradient as the shapes for tracing promise it: a factor's lies head by head."""
    if position < 3:
        return grad.contiguous()
    return grad.transpose(0, 1).contiguous().transpose(0, 1)


@_backward.register_fake
def _(
    grad_out: Tensor, out: Tensor, lse: Tensor, *tensors: Any, needs: Sequence[bool], **options: Any
) -> list[Tensor]:
    flat = _Flat(*tensors)
    empty = flat.query.new_empty(0)
    grads = [
        torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in (flat.query, flat.key, flat.value)
    ]
    grads += [empty if x is None else head_by_head(x) for x in (flat.rate, flat.member)]
    return [x if need else flat.query.new_empty(0) for x, need in zip(grads, needs, strict=True)]


register_gradient(
    _forward,
    _backward,
    5,
    "the tile kernels have no second derivative: use edge_attention(..., backend='reference')",
)


def _attempt(device: torch.device) -> None:
    one = torch.ones(1, 1, 1, dtype=torch.float32, device=device)
    ptr = torch.tensor([0, 1], dtype=torch.int64, device=device)
    word = torch.ones(1, dtype=torch.int32, device=device)
    seed = torch.zeros((), dtype=torch.int64, device="cpu")
    bits = Bits(word, ptr, ptr, ptr, 1)
    attention(one, one, one, None, bits, Options(1.0, 0.0, 0, "logit"), seed)


PROBE = Probe("tile attention", _attempt)


@torch.compiler.assume_constant_result
def is_available(device_type: str) -> bool:
    """Whether the compiled kernels run on a device type; if not, warns once and says why."""
    return PROBE.works(device_type)
