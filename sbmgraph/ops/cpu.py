"""Edge attention, edge probabilities and the transpose as compiled CPU kernels.

Every function works on vertices: rows of ``[n * H, channels]`` numbered ``node * H + head``. What
is gathered is first copied head by head (``[H * m, channels]``), because one head's rows then fit
the cache; no tensor of shape ``[edges, channels]`` exists. Half precisions are computed in float32,
from inputs cast in the same copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbmgraph._jit import LANES, axpy, dot, exp, inline, jit, mix
from sbmgraph.ops.threads import num_chunks, parallel_for, split_nodes

NEEDS_CSC = False
"""Edge probabilities' gradients walk the CSR; the transpose can leave ``perm`` out."""

BLOCK = 64
"""Edges whose scores are held at once."""

CACHED_BYTES = 2**15
"""Dense rows that a sparse product keeps in the first-level cache."""

CACHED_KEYS = 256
"""Keys whose edges the transpose collects at once."""

# Tensors ##########################################################################################


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _padded(channels: int) -> int:
    return -(-channels // LANES) * LANES


def _rows(tensor: Tensor) -> np.ndarray:
    """``[rows, channels]`` in the computing dtype, channels padded with zeros."""
    tensor = tensor.to(_compute_dtype(tensor))
    missing = _padded(tensor.size(1)) - tensor.size(1)
    if missing:
        tensor = torch.nn.functional.pad(tensor, (0, missing))
    return tensor.contiguous().numpy()


def _by_head(heads: int, *tensors: Tensor) -> np.ndarray:
    """``[H * nodes, channels]``: all given tensors side by side, each padded, head by head."""
    dtype = _compute_dtype(tensors[0])
    widths = [_padded(tensor.size(1)) for tensor in tensors]
    nodes = tensors[0].size(0) // heads
    out = torch.empty(heads, nodes, sum(widths), dtype=dtype)
    start = 0
    for tensor, width in zip(tensors, widths, strict=True):
        channels = tensor.size(1)
        out[..., start : start + channels] = tensor.view(nodes, heads, channels).transpose(0, 1)
        out[..., start + channels : start + width] = 0
        start += width
    return out.view(heads * nodes, sum(widths)).numpy()


def _output(rows: int, channels: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(rows, _padded(channels), dtype=dtype)


def _trimmed(padded: Tensor, like: Tensor) -> Tensor:
    return padded[:, : like.size(1)].to(like.dtype).contiguous()


def _optional(tensor: Tensor | None, dtype: torch.dtype) -> np.ndarray:
    """An empty array stands for no tensor, so that kernels need one signature only."""
    if tensor is None:
        return np.empty(0, dtype=torch.empty(0, dtype=dtype).numpy().dtype)
    return tensor.to(dtype).contiguous().numpy()


# Attention ########################################################################################


@inline
def _keep(seed, edge, dropout, one):
    """The dropout factor of an edge: 0 with probability ``dropout``, else ``1 / (1 - dropout)``."""
    u = mix(seed + np.uint64(edge) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return one / (one - dropout) if np.float64(u) * 2.0**-24 >= dropout else one - one


@jit
def _forward_rows(
    start, stop, query, key_value, rowptr, col, heads, bias, scale, dropout, seed, out, lse
):
    zero, one = query.dtype.type(0), query.dtype.type(1)
    d, width = query.shape[1], out.shape[1]
    num_keys = key_value.shape[0] // heads
    score = np.empty(BLOCK, query.dtype)
    for head in range(heads):
        base = head * num_keys
        for node in range(start, stop):
            r = node * heads + head
            low, high = rowptr[r], rowptr[r + 1]
            top, total = query.dtype.type(-np.inf), zero
            for c in range(width):
                out[r, c] = zero
            for first in range(low, high, BLOCK):
                count = min(BLOCK, high - first)
                t = 0
                while t + 4 <= count:
                    e = first + t
                    j = (base + col[e], base + col[e + 1], base + col[e + 2], base + col[e + 3])
                    score[t], score[t + 1], score[t + 2], score[t + 3] = dot(
                        query, r, key_value, j, 0, d
                    )
                    t += 4
                while t < count:
                    score[t] = dot(query, r, key_value, (base + col[first + t],), 0, d)[0]
                    t += 1
                for t in range(count):
                    score[t] *= scale
                if bias.size:
                    for t in range(count):
                        score[t] += bias[first + t]
                highest = _max(score, count, top)
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
                if dropout > 0:
                    for t in range(count):
                        score[t] *= _keep(seed, first + t, dropout, one)
                t = 0
                while t + 4 <= count:
                    e = first + t
                    j = (base + col[e], base + col[e + 1], base + col[e + 2], base + col[e + 3])
                    p = (score[t], score[t + 1], score[t + 2], score[t + 3])
                    axpy(out, r, p, key_value, j, d, width)
                    t += 4
                while t < count:
                    axpy(out, r, (score[t],), key_value, (base + col[first + t],), d, width)
                    t += 1
            if high > low:
                lse[r] = top + math.log(total)
                for c in range(width):
                    out[r, c] /= total
            else:
                lse[r] = -math.inf


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
def _backward_rows(
    start,
    stop,
    query,
    grad_out,
    key_value,
    stats,
    rowptr,
    col,
    heads,
    bias,
    scale,
    dropout,
    seed,
    clip,
    grad_query,
    grad_bias,
    grad_gate,
):
    """Gradients of what belongs to query vertices and to edges: query, bias, gate."""
    zero, one = query.dtype.type(0), query.dtype.type(1)
    d, width = query.shape[1], grad_out.shape[1]
    num_queries, num_keys = (rowptr.size - 1) // heads, key_value.shape[0] // heads
    score, grad = np.empty(BLOCK, query.dtype), np.empty(BLOCK, query.dtype)
    for head in range(heads):
        base = head * num_keys
        for node in range(start, stop):
            r = node * heads + head
            low, high = rowptr[r], rowptr[r + 1]
            lse, delta = stats[head * num_queries + node]
            if grad_query.size:
                for c in range(d):
                    grad_query[r, c] = zero
            for first in range(low, high, BLOCK):
                count = min(BLOCK, high - first)
                t = 0
                while t + 4 <= count:
                    e = first + t
                    j = (base + col[e], base + col[e + 1], base + col[e + 2], base + col[e + 3])
                    score[t], score[t + 1], score[t + 2], score[t + 3] = dot(
                        query, r, key_value, j, 0, d
                    )
                    grad[t], grad[t + 1], grad[t + 2], grad[t + 3] = dot(
                        grad_out, r, key_value, j, d, width
                    )
                    t += 4
                while t < count:
                    j1 = (base + col[first + t],)
                    score[t] = dot(query, r, key_value, j1, 0, d)[0]
                    grad[t] = dot(grad_out, r, key_value, j1, d, width)[0]
                    t += 1
                for t in range(count):
                    score[t] *= scale
                if bias.size:
                    for t in range(count):
                        score[t] += bias[first + t]
                if dropout > 0:
                    for t in range(count):
                        grad[t] *= _keep(seed, first + t, dropout, one)
                for t in range(count):
                    grad[t] = exp(score[t] - lse) * (grad[t] - delta)
                if grad_bias.size:
                    for t in range(count):
                        grad_bias[first + t] = grad[t]
                if grad_gate.size and clip:
                    for t in range(count):
                        grad_gate[first + t] = min(max(grad[t], -one), one)
                elif grad_gate.size:
                    for t in range(count):
                        grad_gate[first + t] = grad[t] * score[t]
                if grad_query.size == 0:
                    continue
                for t in range(count):
                    grad[t] *= scale
                t = 0
                while t + 4 <= count:
                    e = first + t
                    j = (base + col[e], base + col[e + 1], base + col[e + 2], base + col[e + 3])
                    p = (grad[t], grad[t + 1], grad[t + 2], grad[t + 3])
                    axpy(grad_query, r, p, key_value, j, 0, d)
                    t += 4
                while t < count:
                    axpy(grad_query, r, (grad[t],), key_value, (base + col[first + t],), 0, d)
                    t += 1


@jit
def _backward_columns(
    start,
    stop,
    key,
    value,
    query_grad,
    stats,
    colptr,
    row,
    perm,
    heads,
    bias,
    scale,
    dropout,
    seed,
    grad_key,
    grad_value,
):
    """Gradients of what belongs to key vertices: key and value."""
    zero, one = key.dtype.type(0), key.dtype.type(1)
    d, width = key.shape[1], value.shape[1]
    num_queries = query_grad.shape[0] // heads
    score, grad = np.empty(BLOCK, key.dtype), np.empty(BLOCK, key.dtype)
    for head in range(heads):
        base = head * num_queries
        for node in range(start, stop):
            r = node * heads + head
            low, high = colptr[r], colptr[r + 1]
            for c in range(d):
                grad_key[r, c] = zero
            for c in range(width):
                grad_value[r, c] = zero
            for first in range(low, high, BLOCK):
                count = min(BLOCK, high - first)
                t = 0
                while t + 4 <= count:
                    e = first + t
                    i = (base + row[e], base + row[e + 1], base + row[e + 2], base + row[e + 3])
                    score[t], score[t + 1], score[t + 2], score[t + 3] = dot(
                        key, r, query_grad, i, 0, d
                    )
                    grad[t], grad[t + 1], grad[t + 2], grad[t + 3] = dot(
                        value, r, query_grad, i, d, width
                    )
                    t += 4
                while t < count:
                    i1 = (base + row[first + t],)
                    score[t] = dot(key, r, query_grad, i1, 0, d)[0]
                    grad[t] = dot(value, r, query_grad, i1, d, width)[0]
                    t += 1
                for t in range(count):
                    score[t] = score[t] * scale - stats[base + row[first + t], 0]
                if bias.size:
                    for t in range(count):
                        score[t] += bias[perm[first + t]]
                for t in range(count):
                    score[t] = exp(score[t])
                if dropout > 0:
                    for t in range(count):
                        keep = _keep(seed, perm[first + t], dropout, one)
                        delta = stats[base + row[first + t], 1]
                        grad[t] = scale * score[t] * (grad[t] * keep - delta)
                        score[t] *= keep
                else:
                    for t in range(count):
                        delta = stats[base + row[first + t], 1]
                        grad[t] = scale * score[t] * (grad[t] - delta)
                t = 0
                while t + 4 <= count:
                    e = first + t
                    i = (base + row[e], base + row[e + 1], base + row[e + 2], base + row[e + 3])
                    ds = (grad[t], grad[t + 1], grad[t + 2], grad[t + 3])
                    axpy(grad_key, r, ds, query_grad, i, 0, d)
                    p = (score[t], score[t + 1], score[t + 2], score[t + 3])
                    axpy(grad_value, r, p, query_grad, i, d, width)
                    t += 4
                while t < count:
                    i1 = (base + row[first + t],)
                    axpy(grad_key, r, (grad[t],), query_grad, i1, 0, d)
                    axpy(grad_value, r, (score[t],), query_grad, i1, d, width)
                    t += 1


def _run(kernel: Callable[..., Any], ptr: Tensor, heads: int, *args: Any) -> None:
    """Runs ``kernel(start, stop, *args)`` over all nodes of a CSR."""
    ranges = split_nodes(ptr, heads)
    parallel_for(lambda start, stop: kernel(start, stop, *args), ranges)


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rowptr: Tensor,
    col: Tensor,
    heads: int,
    bias: Tensor | None,
    scale: float,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Attention of every query vertex over its edges by an online softmax.

    Shapes: query :obj:`[n * H, d]`, key :obj:`[m * H, d]`, value :obj:`[m * H, dv]`, bias
    :obj:`[E]` → output :obj:`[n * H, dv]` and log-sum-exp of the scores :obj:`[n * H]`.
    """
    dtype = _compute_dtype(query)
    out = _output(query.size(0), value.size(1), dtype)
    lse = torch.empty(query.size(0), dtype=dtype)
    _run(
        _forward_rows,
        rowptr,
        heads,
        _rows(query),
        _by_head(heads, key, value),
        rowptr.numpy(),
        col.numpy(),
        heads,
        _optional(bias, dtype),
        out.numpy().dtype.type(scale),
        out.numpy().dtype.type(dropout),
        np.uint64(seed),
        out.numpy(),
        lse.numpy(),
    )
    return out[:, : value.size(1)].to(query.dtype).contiguous(), lse


def attention_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    rowptr: Tensor,
    col: Tensor,
    heads: int,
    colptr: Tensor,
    row: Tensor,
    perm: Tensor,
    bias: Tensor | None,
    scale: float,
    dropout: float,
    seed: int,
    estimator: str,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of (query, key, value, bias, gate), each where ``needs`` says so.

    The weights are recomputed from the log-sum-exp: once along the rows for query, bias and gate,
    once along the columns for key and value.
    """
    dtype = _compute_dtype(query)
    delta = (out.to(dtype) * grad_out.to(dtype)).sum(-1)
    stats = torch.stack([lse, delta], -1).view(-1, heads, 2).transpose(0, 1).reshape(-1, 2)
    shared = (
        heads,
        _optional(bias, dtype),
        stats.numpy().dtype.type(scale),
        stats.numpy().dtype.type(dropout),
        np.uint64(seed),
    )
    grads: list[Tensor | None] = [None] * 5
    if needs[0] or needs[3] or needs[4]:
        grad_query = _output(query.size(0) if needs[0] else 0, query.size(1), dtype)
        grad_bias = torch.empty(col.numel() if needs[3] else 0, dtype=dtype)
        grad_gate = torch.empty(col.numel() if needs[4] else 0, dtype=dtype)
        _run(
            _backward_rows,
            rowptr,
            heads,
            _rows(query),
            _rows(grad_out),
            _by_head(heads, key, value),
            stats.numpy(),
            rowptr.numpy(),
            col.numpy(),
            *shared,
            estimator == "mask",
            grad_query.numpy(),
            grad_bias.numpy(),
            grad_gate.numpy(),
        )
        if needs[0]:
            grads[0] = _trimmed(grad_query, query)
        if needs[3]:
            grads[3] = grad_bias if bias is None else grad_bias.to(bias.dtype)
        if needs[4]:
            grads[4] = grad_gate
    if needs[1] or needs[2]:
        grad_key = _output(key.size(0), key.size(1), dtype)
        grad_value = _output(value.size(0), value.size(1), dtype)
        _run(
            _backward_columns,
            colptr,
            heads,
            _rows(key),
            _rows(value),
            _by_head(heads, query, grad_out),
            stats.numpy(),
            colptr.numpy(),
            row.numpy(),
            perm.numpy(),
            *shared,
            grad_key.numpy(),
            grad_value.numpy(),
        )
        grads[1] = _trimmed(grad_key, key) if needs[1] else None
        grads[2] = _trimmed(grad_value, value) if needs[2] else None
    return tuple(grads)


# Edge probabilities ###############################################################################


@jit
def _edge_dots(start, stop, rate, member, rowptr, col, heads, out):
    width, num_keys = rate.shape[1], member.shape[0] // heads
    for head in range(heads):
        base = head * num_keys
        for node in range(start, stop):
            r = node * heads + head
            e, high = rowptr[r], rowptr[r + 1]
            while e + 4 <= high:
                j = (base + col[e], base + col[e + 1], base + col[e + 2], base + col[e + 3])
                out[e], out[e + 1], out[e + 2], out[e + 3] = dot(rate, r, member, j, 0, width)
                e += 4
            while e < high:
                out[e] = dot(rate, r, member, (base + col[e],), 0, width)[0]
                e += 1


@jit
def _first_edge(col, low, high, key):
    """The first of the ascending ``col[low:high]`` that is at least ``key``."""
    while low < high:
        middle = (low + high) // 2
        if col[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def _spmm(start, stop, rowptr, col, weight, dense, heads, block, out):
    """``out[r] = sum of weight[e] * dense[key of e]`` over the edges of row ``r``; ``dense`` lies
    head by head. ``block`` keys at a time stay in cache while all rows pass."""
    width, num_keys = out.shape[1], dense.shape[0] // heads
    cursor = np.empty(stop - start, np.int64)
    for head in range(heads):
        base = head * num_keys
        for node in range(start, stop):
            r = node * heads + head
            cursor[node - start] = rowptr[r]
            for c in range(width):
                out[r, c] = 0
        for first in range(0, num_keys, block):
            limit = first + block
            for node in range(start, stop):
                r = node * heads + head
                e, high = cursor[node - start], rowptr[r + 1]
                while e + 4 <= high and col[e + 3] < limit:
                    j = (base + col[e], base + col[e + 1], base + col[e + 2], base + col[e + 3])
                    w = (weight[e], weight[e + 1], weight[e + 2], weight[e + 3])
                    axpy(out, r, w, dense, j, 0, width)
                    e += 4
                while e < high and col[e] < limit:
                    axpy(out, r, (weight[e],), dense, (base + col[e],), 0, width)
                    e += 1
                cursor[node - start] = e


@jit
def _spmm_transposed(start, stop, rowptr, col, weight, dense, heads, block, out):
    """``out[key of e] += weight[e] * dense[row of e]`` for keys in a range: the sums of ``block``
    keys stay in cache while all rows pass."""
    width, num_queries = out.shape[1], (rowptr.size - 1) // heads
    cursor = np.empty(num_queries, np.int64)
    total = np.empty((block, width), out.dtype)
    for head in range(heads):
        for node in range(num_queries):
            r = node * heads + head
            cursor[node] = rowptr[r]
            if start > 0:
                cursor[node] = _first_edge(col, rowptr[r], rowptr[r + 1], start)
        for first in range(start, stop, block):
            limit = min(first + block, stop)
            total[:] = 0
            for node in range(num_queries):
                r = node * heads + head
                e, high = cursor[node], rowptr[r + 1]
                while e < high and col[e] < limit:
                    axpy(total, col[e] - first, (weight[e],), dense, (r,), 0, width)
                    e += 1
                cursor[node] = e
            for key in range(first, limit):
                for c in range(width):
                    out[key * heads + head, c] = total[key - first, c]


def _keys_at_once(rowptr: Tensor, num_keys: int, wanted: int) -> int:
    """How many keys to treat at once: ``wanted``, or more where a row would have few edges to
    them."""
    pairs = (rowptr.numel() - 1) * num_keys
    edges = max(int(rowptr[-1]), 1)
    return max(1, min(max(wanted, 6 * pairs // edges), num_keys))


def edge_prob_forward(
    rate: Tensor, member: Tensor, rowptr: Tensor, col: Tensor, heads: int
) -> Tensor:
    r""":math:`\\mathbf{w}_i \\cdot \\mathbf{z}_j` of every edge, of shape :obj:`[E]`.

    Shapes: rate :obj:`[n * H, K]`, member :obj:`[m * H, K]`.
    """
    out = torch.empty(col.numel(), dtype=_compute_dtype(rate))
    _run(
        _edge_dots,
        rowptr,
        heads,
        _rows(rate),
        _by_head(heads, member),
        rowptr.numpy(),
        col.numpy(),
        heads,
        out.numpy(),
    )
    return out.to(rate.dtype)


def edge_prob_backward(
    grad: Tensor,
    rate: Tensor,
    member: Tensor,
    rowptr: Tensor,
    col: Tensor,
    heads: int,
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of (rate, member), each where ``needs`` says so: the sparse products with the
    matrix of ``grad`` and with its transpose. The CSC is not used: both walk the CSR."""
    dtype = _compute_dtype(rate)
    weight = grad.to(dtype).contiguous().numpy()
    num_keys = member.size(0) // heads
    csr = (rowptr.numpy(), col.numpy(), weight)
    wanted = CACHED_BYTES // max(_padded(rate.size(1)) * weight.itemsize, 1)
    block = _keys_at_once(rowptr, num_keys, wanted)
    grad_rate = grad_member = None
    if needs[0]:
        out = _output(rate.size(0), rate.size(1), dtype)
        _run(_spmm, rowptr, heads, *csr, _by_head(heads, member), heads, block, out.numpy())
        grad_rate = _trimmed(out, rate)
    if needs[1]:
        out = _output(member.size(0), member.size(1), dtype)
        dense = _rows(rate)
        chunks = min(num_chunks(col.numel()), -(-num_keys // block))
        cuts = [num_keys * i // chunks for i in range(chunks + 1)] if chunks else [0]
        parallel_for(
            lambda start, stop: _spmm_transposed(
                start, stop, *csr, dense, heads, block, out.numpy()
            ),
            pairwise(cuts),
        )
        grad_member = _trimmed(out, member)
    return grad_rate, grad_member


# Transpose ########################################################################################


@jit
def _count_columns(start, stop, rowptr, col, heads, count):
    for head in range(heads):
        for node in range(start, stop):
            r = node * heads + head
            for e in range(rowptr[r], rowptr[r + 1]):
                count[head, col[e]] += 1


@jit
def _first_positions(counts, colptr):
    """Turns counts [chunks, H, m] into where each chunk's first edge goes, and fills colptr."""
    chunks, heads, num_keys = counts.shape
    total = 0
    for key in range(num_keys):
        for head in range(heads):
            colptr[key * heads + head] = total
            for chunk in range(chunks):
                here = counts[chunk, head, key]
                counts[chunk, head, key] = total
                total += here
    colptr[num_keys * heads] = total


@jit
def _fill_columns(start, stop, rowptr, col, heads, block, position, row, perm):
    num_keys = position.shape[1]
    cursor = np.empty(stop - start, np.int64)
    for head in range(heads):
        for node in range(start, stop):
            cursor[node - start] = rowptr[node * heads + head]
        for first in range(0, num_keys, block):
            for node in range(start, stop):
                e, high = cursor[node - start], rowptr[node * heads + head + 1]
                while e < high and col[e] < first + block:
                    key = col[e]
                    at = position[head, key]
                    position[head, key] = at + 1
                    row[at] = node
                    if perm.size:
                        perm[at] = e
                    e += 1
                cursor[node - start] = e


def transpose(
    rowptr: Tensor, col: Tensor, heads: int, num_keys: int, with_perm: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Groups the edges of a CSR by key vertex: a stable counting sort.

    Returns:
        ``(colptr, row, perm)`` of :class:`~sbmgraph.graph.CSC`; ``perm`` is empty unless
        ``with_perm``.
    """
    ranges = split_nodes(rowptr, heads)
    if col.numel() < 4 * num_keys * heads or num_chunks(col.numel()) == 1:
        ranges = [(0, (rowptr.numel() - 1) // heads)]
    counts = np.zeros((len(ranges), heads, num_keys), np.int64)
    colptr = torch.empty(num_keys * heads + 1, dtype=torch.int64)
    row = torch.empty(col.numel(), dtype=torch.int32)
    perm = torch.empty(col.numel() if with_perm else 0, dtype=torch.int64)
    csr = (rowptr.numpy(), col.numpy(), heads)
    block = _keys_at_once(rowptr, num_keys, CACHED_KEYS)
    parallel_for(
        lambda chunk, start, stop: _count_columns(start, stop, *csr, counts[chunk]),
        [(chunk, *range_) for chunk, range_ in enumerate(ranges)],
    )
    _first_positions(counts, colptr.numpy())
    parallel_for(
        lambda chunk, start, stop: _fill_columns(
            start, stop, *csr, block, counts[chunk], row.numpy(), perm.numpy()
        ),
        [(chunk, *range_) for chunk, range_ in enumerate(ranges)],
    )
    return colptr, row, perm
