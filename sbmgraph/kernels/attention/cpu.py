r"""Attention over edges on the CPU: one pass over each query vertex's edges.

For query vertex :math:`i` with edges :math:`j \in \mathcal{N}(i)`,

.. math::
    s_{ij} = \text{scale} \cdot \mathbf{q}_i \cdot \mathbf{k}_j + b_{ij}, \qquad
    \ell_i = \log \sum_j e^{s_{ij}}, \qquad
    \mathbf{o}_i = \sum_j e^{s_{ij} - \ell_i}\, \mathbf{v}_j ,

by an online softmax over :data:`BLOCK` edges at a time. Rows lie as
:mod:`sbmgraph.kernels._numba.layout` says; no tensor of shape ``[edges, channels]`` exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbmgraph.kernels._numba import layout
from sbmgraph.kernels._numba.dots import DOTS, dots
from sbmgraph.kernels._numba.dropout import keeps
from sbmgraph.kernels._numba.jit import inline, jit
from sbmgraph.kernels._numba.math import exp
from sbmgraph.kernels._numba.rows import add_rows
from sbmgraph.kernels._numba.threads import parallel_for, split_heads
from sbmgraph.kernels.csr import CSR
from sbmgraph.kernels.options import Options

BLOCK = 64
"""Edges whose scores are held at once."""


class Edges(NamedTuple):
    """The graph, and what scores take besides queries and keys."""

    rowptr: np.ndarray  # [n * H + 1]
    col: np.ndarray  # [E]
    query_ptr: np.ndarray  # [G + 1]
    key_ptr: np.ndarray  # [G + 1]
    heads: int
    bias: np.ndarray  # [E] or [0]
    scale: Any  # in the computing dtype, like dropout
    dropout: Any
    seed: np.uint64


def edges_of(csr: CSR, bias: Tensor | None, options: Options, dtype: torch.dtype) -> Edges:
    """The arrays of a CSR, scalars in the computing dtype."""
    bias_array = layout.optional(bias, dtype)
    number = bias_array.dtype.type
    return Edges(
        csr.rowptr.numpy(),
        csr.col.numpy(),
        csr.query_ptr.numpy(),
        csr.key_ptr.numpy(),
        csr.heads,
        bias_array,
        number(options.scale),
        number(options.dropout),
        np.uint64(options.seed),
    )


@inline
def graph_of(node, graph, ptr):
    """The graph of ``node``, which comes at or after the first node of ``graph``."""
    while graph + 2 < ptr.size and node >= ptr[graph + 1]:
        graph += 1
    return graph


@inline
def _max(score, count, start):
    """The largest of ``score[:count]`` and ``start``; four chains hide the latency."""
    a, b, c, d = start, start, start, start
    t = 0
    while t + 4 <= count:
        a = max(a, score[t])
        b = max(b, score[t + 1])
        c = max(c, score[t + 2])
        d = max(d, score[t + 3])
        t += 4
    while t < count:
        a = max(a, score[t])
        t += 1
    return max(max(a, b), max(c, d))


@jit
def _forward_rows(first_head, last_head, start, stop, query, key_value, edges, out, lse):
    rowptr, col, heads, bias = edges.rowptr, edges.col, edges.heads, edges.bias
    zero = query.dtype.type(0)
    lowest = query.dtype.type(-np.inf)
    d, width = query.shape[1], out.shape[1]
    num_keys = key_value.shape[0] // heads
    score = np.empty(BLOCK + DOTS, query.dtype)
    keep = np.empty(BLOCK, query.dtype)
    for head in range(first_head, last_head):
        base = head * num_keys
        graph = 0
        for node in range(start, stop):
            graph = graph_of(node, graph, edges.query_ptr)
            r = node * heads + head
            low, high = rowptr[r], rowptr[r + 1]
            top, total = lowest, zero
            for c in range(width):
                out[r, c] = zero
            for first in range(low, high, BLOCK):  # blocks of the row's edges
                count = min(BLOCK, high - first)
                for t in range(0, count, DOTS):
                    dots(query, r, key_value, base, col, first + t, high, 0, d, score, t)
                for t in range(count):
                    score[t] *= edges.scale
                if bias.size:
                    for t in range(count):
                        score[t] += bias[first + t]
                highest = _max(score, count, top)
                if highest == lowest:  # nothing but biases of minus infinity so far
                    continue
                if highest > top:
                    shrink = exp(top - highest)
                    total *= shrink
                    for c in range(width):
                        out[r, c] *= shrink
                    top = highest
                part = zero
                for t in range(count):
                    score[t] = exp(score[t] - top)
                    part += score[t]
                total += part
                if edges.dropout > 0:
                    local = (node - edges.query_ptr[graph]) * heads + head
                    shift = edges.key_ptr[graph]
                    keeps(edges.seed, local, graph, col, first, count, shift, edges.dropout, keep)
                    for t in range(count):
                        score[t] *= keep[t]
                add_rows(out, r, score, 0, key_value, base, col, first, first + count, d, width)
            if total > 0 or total != total:
                lse[r] = top + math.log(total)
                for c in range(width):
                    out[r, c] /= total
            else:
                lse[r] = lowest


def run(kernel: Callable[..., Any], ptr: Tensor, heads: int, *args: Any) -> None:
    """Runs ``kernel(first_head, last_head, start, stop, *args)`` over all heads and nodes of a
    CSR."""
    parallel_for(lambda *ranges: kernel(*ranges, *args), split_heads(ptr, heads))


def forward(
    query: Tensor, key: Tensor, value: Tensor, csr: CSR, bias: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """See :func:`sbmgraph.kernels.attention.operator.attention`."""
    dtype = layout.compute_dtype(query)
    out = layout.output(query.size(0), value.size(1), dtype)
    lse = torch.empty(query.size(0), dtype=dtype, device="cpu")
    run(
        _forward_rows,
        csr.rowptr,
        csr.heads,
        layout.rows(query),
        layout.by_head(csr.heads, key, value),
        edges_of(csr, bias, options, dtype),
        out.numpy(),
        lse.numpy(),
    )
    return out[:, : value.size(1)].to(query.dtype).contiguous(), lse
