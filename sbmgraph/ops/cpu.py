"""Edge attention, edge probabilities and the transpose as compiled CPU kernels.

Every function works on vertices: rows of ``[n * H, channels]`` numbered ``node * H + head``. What
is gathered lies head by head (``[H * m, channels]``), because one head's rows then fit the cache;
no tensor of shape ``[edges, channels]`` exists. Half precisions are computed in float32, from
inputs cast while they are laid out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbmgraph._jit import DOTS, LANES, add_rows, dots, exp, inline, jit, mix
from sbmgraph.ops.threads import num_chunks, parallel_for, split_heads, split_nodes

NEEDS_PERM = False
"""Without bias, dropout or given edges the kernels work with an empty ``perm``."""

BLOCK = 64
"""Edges whose scores are held at once."""

CACHED_BYTES = 2**20
"""Dense rows that a sparse product keeps in the second-level cache."""

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


def _head_rows(tensor: Tensor) -> np.ndarray:
    """``[H * nodes, channels]`` of a tensor ``[nodes, H, channels]``; no copy where it lies head by
    head already and needs no padding."""
    return _rows(tensor.transpose(0, 1).reshape(-1, tensor.size(2)))


def _head_output(like: Tensor, dtype: torch.dtype) -> Tensor:
    return _output(like.size(0) * like.size(1), like.size(2), dtype)


def _from_head_rows(padded: Tensor, like: Tensor) -> Tensor:
    """The tensor ``[nodes, H, channels]``, lying head by head, of padded rows."""
    out = padded[:, : like.size(2)].to(like.dtype)
    return out.view(like.size(1), like.size(0), like.size(2)).transpose(0, 1)


def _optional(tensor: Tensor | None, dtype: torch.dtype) -> np.ndarray:
    """An empty array stands for no tensor, so that kernels need one signature only."""
    if tensor is None:
        return torch.zeros(0, dtype=dtype).numpy()
    return tensor.to(dtype).contiguous().numpy()


# Attention ########################################################################################


@inline
def _keep(seed, edge, dropout, one):
    """The dropout factor of an edge: 0 with probability ``dropout``, else ``1 / (1 - dropout)``."""
    u = mix(seed + np.uint64(edge) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return one / (one - dropout) if np.float64(u) * 2.0**-24 >= dropout else one - one


@jit
def _forward_rows(
    first_head, last_head, start, stop, query, key_value, rowptr, col, heads, bias, scale, dropout,
    seed, out, lse,
):  # fmt: skip
    zero, one = query.dtype.type(0), query.dtype.type(1)
    d, width = query.shape[1], out.shape[1]
    num_keys = key_value.shape[0] // heads
    score = np.empty(BLOCK + DOTS, query.dtype)
    for head in range(first_head, last_head):
        base = head * num_keys
        for node in range(start, stop):
            r = node * heads + head
            low, high = rowptr[r], rowptr[r + 1]
            top, total = query.dtype.type(-np.inf), zero
            for c in range(width):
                out[r, c] = zero
            for first in range(low, high, BLOCK):
                count = min(BLOCK, high - first)
                for t in range(0, count, DOTS):
                    dots(query, r, key_value, base, col, first + t, high, 0, d, score, t)
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
                add_rows(out, r, score, 0, key_value, base, col, first, first + count, d, width)
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
def _most_edges(first_head, last_head, start, stop, ptr, heads):
    """The number of edges that the head with the most has in a range of nodes."""
    out = 0
    for head in range(first_head, last_head):
        count = 0
        for node in range(start, stop):
            count += ptr[node * heads + head + 1] - ptr[node * heads + head]
        out = max(out, count)
    return out


@jit
def _backward_rows(
    first_head, last_head, start, stop, query, grad_out, key_value, stats, rowptr, col, heads, bias,
    learned, scale, dropout, seed, clip, member, block, grad_query, grad_bias, grad_rate,
):  # fmt: skip
    """Gradients of what belongs to query vertices and to edges: query, rate, bias."""
    zero, one = query.dtype.type(0), query.dtype.type(1)
    d, width = query.shape[1], grad_out.shape[1]
    num_queries, num_keys = (rowptr.size - 1) // heads, key_value.shape[0] // heads
    score, grad = np.empty(BLOCK + DOTS, query.dtype), np.empty(BLOCK + DOTS, query.dtype)
    gated = grad_rate.size > 0
    gate = np.empty(
        _most_edges(first_head, last_head, start, stop, rowptr, heads) if gated else 0, query.dtype
    )
    for head in range(first_head, last_head):
        base = head * num_keys
        done = 0
        for node in range(start, stop):
            r = node * heads + head
            low, high = rowptr[r], rowptr[r + 1]
            lse, delta = stats[head * num_queries + node]
            if grad_query.size:
                for c in range(d):
                    grad_query[r, c] = zero
            for first in range(low, high, BLOCK):
                count = min(BLOCK, high - first)
                for t in range(0, count, DOTS):
                    dots(query, r, key_value, base, col, first + t, high, 0, d, score, t)
                    dots(grad_out, r, key_value, base, col, first + t, high, d, width, grad, t)
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
                if gated:
                    _gate_gradient(grad, score, count, clip, gate, done)
                    if learned.size:
                        for t in range(count):
                            gate[done + t] *= learned[first + t]
                    done += count
                if grad_query.size == 0:
                    continue
                for t in range(count):
                    grad[t] *= scale
                add_rows(grad_query, r, grad, 0, key_value, base, col, first, first + count, 0, d)
        if gated:
            _spmm(start, stop, rowptr, col, heads, head, gate, member, block, grad_rate)


@inline
def _gate_gradient(grad, score, count, clip, out, at):
    """From gradients by the (biased) scores to gradients by the mask, see
    :func:`sbmgraph.ops.edge_attention`."""
    one = grad.dtype.type(1)
    if clip:
        for t in range(count):
            out[at + t] = min(max(grad[t], -one), one)
    else:
        for t in range(count):
            out[at + t] = grad[t] * score[t]


@jit
def _backward_columns(
    first_head, last_head, start, stop, key, value, query_grad, stats, colptr, row, perm, heads,
    bias, learned, scale, dropout, seed, clip, rate, block, grad_key, grad_value, grad_member,
):  # fmt: skip
    """Gradients of what belongs to key vertices: key, value, membership."""
    one = key.dtype.type(1)
    d, width = key.shape[1], value.shape[1]
    num_queries = query_grad.shape[0] // heads
    score, grad = np.empty(BLOCK + DOTS, key.dtype), np.empty(BLOCK + DOTS, key.dtype)
    weight, keep = np.empty(BLOCK, key.dtype), np.empty(BLOCK, key.dtype)
    gated = grad_member.size > 0
    gate = np.empty(
        _most_edges(first_head, last_head, start, stop, colptr, heads) if gated else 0, key.dtype
    )
    for head in range(first_head, last_head):
        base = head * num_queries
        done = 0
        for node in range(start, stop):
            r = node * heads + head
            low, high = colptr[r], colptr[r + 1]
            grad_key[r] = 0
            grad_value[r] = 0
            for first in range(low, high, BLOCK):
                count = min(BLOCK, high - first)
                for t in range(0, count, DOTS):
                    dots(key, r, query_grad, base, row, first + t, high, 0, d, score, t)
                    dots(value, r, query_grad, base, row, first + t, high, d, width, grad, t)
                for t in range(count):
                    score[t] *= scale
                if bias.size:
                    for t in range(count):
                        score[t] += bias[perm[first + t]]
                for t in range(count):
                    weight[t] = score[t] - stats[base + row[first + t], 0]
                for t in range(count):
                    weight[t] = exp(weight[t])
                if dropout > 0:
                    for t in range(count):
                        keep[t] = _keep(seed, perm[first + t], dropout, one)
                        grad[t] *= keep[t]
                for t in range(count):
                    grad[t] = weight[t] * (grad[t] - stats[base + row[first + t], 1])
                if gated:
                    _gate_gradient(grad, score, count, clip, gate, done)
                    if learned.size:
                        for t in range(count):
                            gate[done + t] *= learned[perm[first + t]]
                    done += count
                for t in range(count):
                    grad[t] *= scale
                if dropout > 0:
                    for t in range(count):
                        weight[t] *= keep[t]
                last = first + count
                add_rows(grad_key, r, grad, 0, query_grad, base, row, first, last, 0, d)
                add_rows(grad_value, r, weight, 0, query_grad, base, row, first, last, d, width)
        if gated:
            _spmm(start, stop, colptr, row, heads, head, gate, rate, block, grad_member)


@jit
def _spmm(start, stop, ptr, index, heads, head, weight, dense, block, out):
    """``out[i] = sum of weight[e] * dense[index[e]]`` over the edges of one head's nodes in a
    range. ``weight`` lists the range's edges of that head; ``dense`` and ``out`` lie head by head.
    ``block`` rows of ``dense`` at a time stay in cache while all nodes of the range pass."""
    nodes, others, width = out.shape[0] // heads, dense.shape[0] // heads, out.shape[1]
    cursor, shift = np.empty(stop - start, np.int64), np.empty(stop - start, np.int64)
    done = 0
    for node in range(start, stop):
        low, high = ptr[node * heads + head], ptr[node * heads + head + 1]
        cursor[node - start], shift[node - start] = low, done - low
        done += high - low
        out[head * nodes + node] = 0
    for limit in range(block, others + block, block):
        for node in range(start, stop):
            low, high = cursor[node - start], ptr[node * heads + head + 1]
            last = high
            if limit < others:
                last = low
                while last < high and index[last] < limit:
                    last += 1
            first = low + shift[node - start]
            add_rows(
                out, head * nodes + node, weight, first, dense, head * others, index, low, last, 0,
                width,
            )  # fmt: skip
            cursor[node - start] = last


def _run(kernel: Callable[..., Any], ptr: Tensor, heads: int, *args: Any) -> None:
    """Runs ``kernel(first_head, last_head, start, stop, *args)`` over all heads and nodes of a
    CSR."""
    parallel_for(lambda *ranges: kernel(*ranges, *args), split_heads(ptr, heads))


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
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    bias: Tensor | None,
    rate: Tensor | None,
    member: Tensor | None,
    learned: Tensor | None,
    scale: float,
    dropout: float,
    seed: int,
    estimator: str,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of (query, key, value, bias, rate, member), each where ``needs`` says so; rate
    :obj:`[n, H, K]` and member :obj:`[m, H, K]` take those of the straight-through gate.

    The weights are recomputed from the log-sum-exp: once along the rows for query, bias and rate,
    once along the columns for key, value and member.
    """
    dtype = _compute_dtype(query)
    delta = (out.to(dtype) * grad_out.to(dtype)).sum(-1)
    stats = torch.stack([lse, delta], -1).view(-1, heads, 2).transpose(0, 1).reshape(-1, 2)
    shared = (
        heads,
        _optional(bias, dtype),
        _optional(learned, torch.uint8),
        stats.numpy().dtype.type(scale),
        stats.numpy().dtype.type(dropout),
        np.uint64(seed),
        estimator == "mask",
    )
    none = torch.empty(0, LANES, dtype=dtype)
    factors: list[np.ndarray] = [none.numpy()] * 2
    if rate is not None and member is not None and (needs[4] or needs[5]):
        factors = [_head_rows(rate.to(dtype)), _head_rows(member.to(dtype))]
    grads: list[Tensor | None] = [None] * 6
    if needs[0] or needs[3] or needs[4]:
        grad_query = _output(query.size(0) if needs[0] else 0, query.size(1), dtype)
        grad_bias = torch.empty(col.numel() if needs[3] else 0, dtype=dtype)
        grad_rate = _head_output(rate, dtype) if needs[4] and rate is not None else none
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
            factors[1],
            _rows_at_once(rowptr, factors[1], heads),
            grad_query.numpy(),
            grad_bias.numpy(),
            grad_rate.numpy(),
        )
        if needs[0]:
            grads[0] = _trimmed(grad_query, query)
        if needs[3]:
            grads[3] = grad_bias if bias is None else grad_bias.to(bias.dtype)
        if needs[4] and rate is not None:
            grads[4] = _from_head_rows(grad_rate, rate)
    if needs[1] or needs[2] or needs[5]:
        if colptr is None or row is None or perm is None:
            by_edge = bias is not None or learned is not None or dropout > 0
            colptr, row, perm = transpose(rowptr, col, heads, key.size(0) // heads, by_edge)
        grad_key = _output(key.size(0), key.size(1), dtype)
        grad_value = _output(value.size(0), value.size(1), dtype)
        grad_member = _head_output(member, dtype) if needs[5] and member is not None else none
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
            factors[0],
            _rows_at_once(colptr, factors[0], heads),
            grad_key.numpy(),
            grad_value.numpy(),
            grad_member.numpy(),
        )
        grads[1] = _trimmed(grad_key, key) if needs[1] else None
        grads[2] = _trimmed(grad_value, value) if needs[2] else None
        if needs[5] and member is not None:
            grads[5] = _from_head_rows(grad_member, member)
    return tuple(grads)


# Edge probabilities ###############################################################################


@jit
def _edge_dots(first_head, last_head, start, stop, rate, member, rowptr, col, heads, out):
    width, num_queries, num_keys = rate.shape[1], rate.shape[0] // heads, member.shape[0] // heads
    found = np.empty(DOTS, out.dtype)
    for head in range(first_head, last_head):
        for node in range(start, stop):
            r = node * heads + head
            low, high = rowptr[r], rowptr[r + 1]
            mine, base = head * num_queries + node, head * num_keys
            for e in range(low, high, DOTS):
                dots(rate, mine, member, base, col, e, high, 0, width, found, 0)
                for t in range(min(DOTS, high - e)):
                    out[e + t] = found[t]


@jit
def _spmm_rows(
    first_head, last_head, start, stop, ptr, index, perm, heads, grad, dense, block, out
):
    """The sparse product with ``grad``, the weights of all edges in CSR order."""
    weight = np.empty(_most_edges(first_head, last_head, start, stop, ptr, heads), grad.dtype)
    for head in range(first_head, last_head):
        done = 0
        for node in range(start, stop):
            for e in range(ptr[node * heads + head], ptr[node * heads + head + 1]):
                weight[done] = grad[perm[e] if perm.size else e]
                done += 1
        _spmm(start, stop, ptr, index, heads, head, weight, dense, block, out)


def _rows_at_once(ptr: Tensor, dense: np.ndarray, heads: int) -> int:
    """How many rows of ``dense`` a sparse product treats at once: what the cache holds, or more
    where a node would have few edges to them."""
    others = dense.shape[0] // heads
    pairs, edges = (ptr.numel() - 1) * others, max(int(ptr[-1]), 1)
    held = CACHED_BYTES // (dense.shape[1] * dense.itemsize)
    return max(1, min(max(held, 6 * pairs // edges), others))


def edge_prob_forward(
    rate: Tensor, member: Tensor, rowptr: Tensor, col: Tensor, heads: int
) -> Tensor:
    r""":math:`\mathbf{w}_i \cdot \mathbf{z}_j` of every edge, of shape :obj:`[E]`.

    Shapes: rate :obj:`[n, H, K]`, member :obj:`[m, H, K]`.
    """
    out = torch.empty(col.numel(), dtype=_compute_dtype(rate))
    factors = (_head_rows(rate), _head_rows(member))
    _run(_edge_dots, rowptr, heads, *factors, rowptr.numpy(), col.numpy(), heads, out.numpy())
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
    matrix of ``grad`` and with its transpose."""

    def product(ptr: Tensor, index: Tensor, perm: Tensor, other: Tensor, like: Tensor) -> Tensor:
        dtype = _compute_dtype(rate)
        dense, out = _head_rows(other), _head_output(like, dtype)
        _run(
            _spmm_rows,
            ptr,
            heads,
            ptr.numpy(),
            index.numpy(),
            perm.numpy(),
            heads,
            grad.to(dtype).contiguous().numpy(),
            dense,
            _rows_at_once(ptr, dense, heads),
            out.numpy(),
        )
        return _from_head_rows(out, like)

    grad_rate = grad_member = None
    if needs[0]:
        grad_rate = product(rowptr, col, rowptr.new_empty(0), member, rate)
    if needs[1]:
        if colptr is None or row is None or perm is None:
            colptr, row, perm = transpose(rowptr, col, heads, member.size(0))
        grad_member = product(colptr, row, perm, rate, member)
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
    pairs, edges = (rowptr.numel() - 1) * num_keys, max(col.numel(), 1)
    block = max(1, min(max(CACHED_KEYS, 6 * pairs // edges), num_keys))
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
