r"""Tile attention written out: each graph's bits unpacked, each formula in its own line.

For a head of a graph, with queries :math:`\mathbf{Q}`, keys :math:`\mathbf{K}`, values
:math:`\mathbf{V}` and the mask :math:`\mathbf{M}`,

.. math::
    \mathbf{S} = \mathrm{scale} \cdot \mathbf{Q} \mathbf{K}^{\top} \qquad
    \alpha = \mathrm{softmax}(\mathbf{S} \text{ where } \mathbf{M}) \qquad
    \mathrm{out} = (\alpha \odot \mathbf{F}) \mathbf{V}

where :math:`\mathbf{F}` is 0 at dropped edges and 1 / (1 - dropout) at the others. The truth that
the kernels are tested against, on any device and in any floating-point type; its memory is that of
all pairs of the largest graph.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Factors, Options
from sbmgraph.kernels.random import DROPOUT, row_bits, uniform


def forward(
    query: Tensor, key: Tensor, value: Tensor, bits: Bits, options: Options
) -> tuple[Tensor, Tensor]:
    r"""Attention over the edges in ``bits``.

    Args:
        query: Queries of shape :obj:`[n, H, d]`.
        key: Keys of shape :obj:`[m, H, d]`.
        value: Values of shape :obj:`[m, H, dv]`.
        bits: The edges.
        options: How scores become weights.

    Returns:
        The output, of shape :obj:`[n, H, dv]` in the dtype of ``query``, and the log-sum-exp of
        each query vertex's scores, of shape :obj:`[n, H]` in at least float32: zeros and
        :math:`-\infty` where it has no edge.
    """
    out = torch.zeros(*query.shape[:2], value.size(2), dtype=query.dtype, device=query.device)
    wide = accumulator(query.dtype)
    lse = torch.full(query.shape[:2], -torch.inf, dtype=wide, device=query.device)
    for queries, keys, mask, factor in _graphs(bits, options, wide):
        Q, K, V = (x.to(wide) for x in (query[queries], key[keys], value[keys]))
        S = options.scale * torch.einsum("nhd,mhd->nhm", Q, K)
        L = torch.logsumexp(S.masked_fill(~mask, -torch.inf), dim=-1)
        alpha = torch.exp(S - L.unsqueeze(-1)).masked_fill(~mask, 0.0)
        out[queries] = torch.einsum("nhm,mhv->nhv", alpha * factor, V).to(out.dtype)
        lse[queries] = L
    return out, lse


def backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    factors: Factors | None,
    bits: Bits,
    out: Tensor,
    lse: Tensor,
    options: Options,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    r"""Gradients of :func:`forward` and, through the straight-through gate, of the factors.

    With :math:`g_{ij} = F_{ij} \langle \partial L / \partial \mathrm{out}_i, \mathbf{v}_j \rangle`
    the gradient of a score is :math:`\delta_{ij} = \alpha_{ij} (g_{ij} - \sum_l \alpha_{il}
    g_{il})`, and that of an edge's probability :math:`\delta_{ij} S_{ij}` with estimator
    ``"logit"``, :math:`\delta_{ij}` clipped to [-1, 1] with ``"mask"``.

    Args:
        grad_out: Gradient of the output, of shape :obj:`[n, H, dv]`.
        query, key, value, bits, options: As in the forward pass.
        factors: Rates and memberships of the edge probabilities, :obj:`None` for no gate.
        out, lse: Results of the forward pass.
        needs: Which of query, key, value, rate and member take a gradient.

    Returns:
        The five gradients, :obj:`None` where not needed.
    """
    inputs = (query, key, value) if factors is None else (query, key, value, *factors)
    grads = [
        torch.zeros(x.shape, dtype=accumulator(x.dtype), device=x.device) if need else None
        for x, need in zip(inputs, needs, strict=False)
    ]
    for queries, keys, mask, factor in _graphs(bits, options, lse.dtype):
        places = (queries, keys, keys, queries, keys)[: len(inputs)]
        Q, K, V, *WZ = (x[at].to(lse.dtype) for x, at in zip(inputs, places, strict=True))
        G = grad_out[queries].to(lse.dtype)
        S = options.scale * torch.einsum("nhd,mhd->nhm", Q, K)
        alpha = torch.exp(S - lse[queries].unsqueeze(-1)).masked_fill(~mask, 0.0)
        g = factor * torch.einsum("nhv,mhv->nhm", G, V)
        dS = alpha * (g - (alpha * g).sum(-1, keepdim=True))
        dP = dS * S if options.estimator == "logit" else dS.clamp(-1, 1)
        found = [
            options.scale * torch.einsum("nhm,mhd->nhd", dS, K),
            options.scale * torch.einsum("nhm,nhd->mhd", dS, Q),
            torch.einsum("nhm,nhv->mhv", alpha * factor, G),
        ]
        if factors is not None:
            W, Z = WZ
            found += [torch.einsum("nhm,mhk->nhk", dP, Z), torch.einsum("nhm,nhk->mhk", dP, W)]
        for grad, at, part in zip(grads, places, found, strict=True):
            if grad is not None:
                grad[at] = part.to(grad.dtype)
    grads = [g if g is None else g.to(x.dtype) for g, x in zip(grads, inputs, strict=True)]
    return *grads, *(None,) * (5 - len(grads))


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums over edges are taken in."""
    return torch.promote_types(dtype, torch.float32)


def unpack(bits: Bits) -> Iterator[tuple[slice, slice, Tensor]]:
    """The queries, the keys and the mask, boolean of shape :obj:`[n_g, H, m_g]`, of each graph."""
    shift = torch.arange(32, dtype=torch.int32, device=bits.words.device)
    starts = [x.tolist() for x in (bits.word_ptr, bits.query_ptr, bits.key_ptr)]
    for word, query, key, query_stop, key_stop in zip(
        *(x[:-1] for x in starts), *(x[1:] for x in starts[1:]), strict=True
    ):
        rows, size = (query_stop - query) * bits.heads, key_stop - key
        count = (size + 31) // 32
        words = bits.words[word : word + rows * count]
        words = words.view(query_stop - query, bits.heads, count, 1)
        mask = ((words >> shift) & 1).flatten(2)[:, :, :size].bool()
        yield slice(query, query_stop), slice(key, key_stop), mask


def _graphs(
    bits: Bits, options: Options, dtype: torch.dtype
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """:func:`unpack`, and what dropout multiplies the weights by."""
    for graph, (queries, keys, mask) in enumerate(unpack(bits)):
        if mask.numel() > 0:
            yield queries, keys, mask, _dropout_factor(graph, mask, options, dtype)


def _dropout_factor(graph: int, mask: Tensor, options: Options, dtype: torch.dtype) -> Tensor:
    if options.dropout == 0:
        return torch.ones((), dtype=dtype, device=mask.device)
    vertex = torch.arange(mask.shape[:2].numel(), dtype=torch.int64, device=mask.device)
    number = row_bits(options.seed, vertex, torch.full_like(vertex, graph), mask.size(2), DROPOUT)
    keep = uniform(number).view(mask.shape) >= options.dropout
    return keep.to(dtype) / (1 - options.dropout)
