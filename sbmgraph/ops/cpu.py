"""Edge attention, edge probabilities and the transpose as compiled CPU kernels.

Every function works on vertices: rows of ``[n * H, channels]`` numbered ``node * H + head``. What
is gathered, or added to, lies head by head (``[H * m, channels]``), because one head's rows then
fit the cache; no tensor of shape ``[edges, channels]`` exists. The backward pass walks the CSR once
and adds up the gradients of keys as their edges pass, each thread in tables of its own. Half
precisions are computed in float32, from inputs cast while they are laid out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbmgraph._jit import DOTS, LANES, add_rows, dots, exp, inline, jit, mix, scatter_row
from sbmgraph.ops.threads import num_chunks, parallel_for, split_heads, split_nodes, split_tables

NEEDS_CSC = False
"""The gradients of keys are added up along the rows of the CSR."""

BLOCK = 64
"""Edges whose scores are held at once."""

CACHED_BYTES = 2**20
"""Dense rows that the sparse products keep in the second-level cache."""

EDGES_AT_ONCE = 2**18
"""Edges whose gradients are held at once."""

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


@inline
def _end_of_range(start, stop, ptr, heads, head, limit):
    """The node after the last of those from ``start`` whose edges of one head are ``limit`` at most
    (one node at least), and their number."""
    node, count = start, 0
    while node < stop:
        r = node * heads + head
        edges = ptr[r + 1] - ptr[r]
        if node > start and count + edges > limit:
            break
        count += edges
        node += 1
    return node, count


@inline
def _cursors(start, stop, ptr, heads, head):
    """The first edges of one head's nodes in a range, and what makes an edge's number one among
    those of the range."""
    cursor, shift = np.empty(stop - start, np.int64), np.empty(stop - start, np.int64)
    done = 0
    for node in range(start, stop):
        low, high = ptr[node * heads + head], ptr[node * heads + head + 1]
        cursor[node - start], shift[node - start] = low, done - low
        done += high - low
    return cursor, shift


@inline
def _first_from(key, index, low, high):
    """The first of the edges ``low <= e < high`` whose key is ``key`` or above, else ``high``."""
    while low < high and index[low] < key:
        low += 1
    return low


@jit
def _backward_rows(
    first_head, last_head, start, stop, table, query, grad_out, key_value, stats, rowptr, col,
    heads, bias, learned, scale, dropout, seed, clip, keys, rate, member, clusters_keys, limit,
    grad_query, grad_bias, grad_rate, grad_keys, grad_member,
):  # fmt: skip
    """All gradients in one pass over the rows.

    Gradients of the keys' side are added to table number ``table``, and those of heads after the
    first to the tables after it: each ``num_keys`` rows of ``grad_keys`` and ``grad_member``.
    """
    num_keys = key_value.shape[0] // heads
    gated = grad_rate.size > 0 or grad_member.size > 0
    for head in range(first_head, last_head):
        own = (table + head - first_head) * num_keys
        if grad_keys.size:
            grad_keys[own : own + num_keys] = 0
        if grad_member.size:
            grad_member[own : own + num_keys] = 0
        begin = start
        while begin < stop:
            end, edges = _end_of_range(begin, stop, rowptr, heads, head, limit)
            gate = np.empty(edges if gated else 0, query.dtype)
            _edge_gradients(
                begin, end, own, query, grad_out, key_value, stats, rowptr, col, heads, head, bias,
                learned, scale, dropout, seed, clip, keys, grad_query, grad_bias, grad_keys, gate,
            )  # fmt: skip
            if gated:
                _products(
                    begin, end, own, rowptr, col, heads, head, gate, rate, member, clusters_keys,
                    grad_rate, grad_member,
                )  # fmt: skip
            begin = end


@jit
def _edge_gradients(
    start, stop, own, query, grad_out, key_value, stats, rowptr, col, heads, head, bias, learned,
    scale, dropout, seed, clip, keys, grad_query, grad_bias, grad_keys, gate,
):  # fmt: skip
    """The gradients of attention over the edges of one head's nodes in a range; ``gate`` gets those
    of the mask, one after the other. ``keys`` keys at a time stay in cache while all nodes pass."""
    one = query.dtype.type(1)
    d, width = query.shape[1], grad_out.shape[1]
    num_queries, num_keys = (rowptr.size - 1) // heads, key_value.shape[0] // heads
    base = head * num_keys
    score, grad = np.empty(BLOCK + DOTS, query.dtype), np.empty(BLOCK + DOTS, query.dtype)
    keep = np.empty(BLOCK, query.dtype)
    cursor, shift = _cursors(start, stop, rowptr, heads, head)
    if grad_query.size:
        for node in range(start, stop):
            grad_query[node * heads + head] = 0
    for above in range(keys, num_keys + keys, keys):
        for node in range(start, stop):
            r = node * heads + head
            low, high = cursor[node - start], rowptr[r + 1]
            if above < num_keys:
                high = _first_from(above, col, low, high)
            cursor[node - start] = high
            lse, delta = stats[head * num_queries + node]
            for i in range(low, high, BLOCK):
                j = min(i + BLOCK, high)
                count, at = j - i, i + shift[node - start]
                for t in range(0, count, DOTS):
                    dots(query, r, key_value, base, col, i + t, j, 0, d, score, t)
                    dots(grad_out, r, key_value, base, col, i + t, j, d, width, grad, t)
                for t in range(count):
                    score[t] *= scale
                if bias.size:
                    for t in range(count):
                        score[t] += bias[i + t]
                if dropout > 0:
                    for t in range(count):
                        keep[t] = _keep(seed, i + t, dropout, one)
                        grad[t] *= keep[t]
                if gate.size and not clip:
                    for t in range(count):
                        gate[at + t] = score[t]
                for t in range(count):
                    score[t] = exp(score[t] - lse)
                    grad[t] = score[t] * (grad[t] - delta)
                if grad_bias.size:
                    for t in range(count):
                        grad_bias[i + t] = grad[t]
                if gate.size:
                    _gate_gradient(grad, count, clip, gate, at)
                    if learned.size:
                        for t in range(count):
                            gate[at + t] *= learned[i + t]
                for t in range(count):
                    grad[t] *= scale
                if grad_query.size:
                    add_rows(grad_query, r, grad, 0, key_value, base, col, i, j, 0, d)
                if grad_keys.size:
                    if dropout > 0:
                        for t in range(count):
                            score[t] *= keep[t]
                    scatter_row(query, r, grad, 0, grad_keys, own, col, i, j, 0, d)
                    scatter_row(grad_out, r, score, 0, grad_keys, own, col, i, j, d, width)


@inline
def _gate_gradient(grad, count, clip, gate, at):
    """From gradients by the (biased) scores to gradients by the mask, see
    :func:`sbmgraph.ops.edge_attention`; unless clipped, ``gate`` holds the scores."""
    one = grad.dtype.type(1)
    if clip:
        for t in range(count):
            gate[at + t] = min(max(grad[t], -one), one)
    else:
        for t in range(count):
            gate[at + t] *= grad[t]


@jit
def _products(
    start, stop, own, ptr, index, heads, head, weight, rate, member, keys, grad_rate, grad_member
):  # fmt: skip
    """The products of one head's sparse matrix with ``member``, and of its transpose with ``rate``,
    over the edges of a range of nodes, whose weights ``weight`` lists. ``keys`` keys at a time stay
    in cache while all nodes pass."""
    num_queries, num_keys = (ptr.size - 1) // heads, member.shape[0] // heads
    width, base = member.shape[1], head * num_keys
    cursor, shift = _cursors(start, stop, ptr, heads, head)
    if grad_rate.size:
        for node in range(start, stop):
            grad_rate[head * num_queries + node] = 0
    for above in range(keys, num_keys + keys, keys):
        for node in range(start, stop):
            r = head * num_queries + node
            low, high = cursor[node - start], ptr[node * heads + head + 1]
            if above < num_keys:
                high = _first_from(above, index, low, high)
            cursor[node - start] = high
            first = low + shift[node - start]
            if grad_rate.size:
                add_rows(grad_rate, r, weight, first, member, base, index, low, high, 0, width)
            if grad_member.size:
                scatter_row(rate, r, weight, first, grad_member, own, index, low, high, 0, width)


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

    The weights are recomputed from the log-sum-exp, along the rows; the transpose is not used.
    """
    dtype = _compute_dtype(query)
    delta = (out.to(dtype) * grad_out.to(dtype)).sum(-1)
    stats = torch.stack([lse, delta], -1).view(-1, heads, 2).transpose(0, 1).reshape(-1, 2)
    keys = key.size(0) // heads
    tasks, owners = split_tables(rowptr, heads, keys)
    tables = (heads + len(owners)) * keys
    needs_key_value = needs[1] or needs[2]
    factors = torch.empty(0, LANES, dtype=dtype)
    rates = members = factors.numpy()
    grad_rate = grad_member = factors
    if rate is not None and member is not None and (needs[4] or needs[5]):
        rates, members = _head_rows(rate.to(dtype)), _head_rows(member.to(dtype))
        grad_rate = _output(rates.shape[0] if needs[4] else 0, rate.size(2), dtype)
        grad_member = _output(tables if needs[5] else 0, member.size(2), dtype)
    grad_query = _output(query.size(0) if needs[0] else 0, query.size(1), dtype)
    grad_bias = torch.empty(col.numel() if needs[3] else 0, dtype=dtype)
    key_value = _by_head(heads, key, value)
    grad_keys = _output(tables if needs_key_value else 0, key_value.shape[1], dtype)
    args = (
        _rows(query),
        _rows(grad_out),
        key_value,
        stats.numpy(),
        rowptr.numpy(),
        col.numpy(),
        heads,
        _optional(bias, dtype),
        _optional(learned, torch.uint8),
        stats.numpy().dtype.type(scale),
        stats.numpy().dtype.type(dropout),
        np.uint64(seed),
        estimator == "mask",
        _keys_at_once(rowptr, key_value, heads, BLOCK),
        rates,
        members,
        _keys_at_once(rowptr, members, heads, 6),
        max(EDGES_AT_ONCE, 4 * keys),
        grad_query.numpy(),
        grad_bias.numpy(),
        grad_rate.numpy(),
        grad_keys.numpy(),
        grad_member.numpy(),
    )
    parallel_for(lambda *task: _backward_rows(*task, *args), tasks)
    grads: list[Tensor | None] = [None] * 6
    if needs[0]:
        grads[0] = _trimmed(grad_query, query)
    if needs_key_value:
        both = _merge(grad_keys, heads, owners)
        grads[1] = _by_vertex(both, key) if needs[1] else None
        grads[2] = _by_vertex(both[..., _padded(key.size(1)) :], value) if needs[2] else None
    if needs[3]:
        grads[3] = grad_bias if bias is None else grad_bias.to(bias.dtype)
    if needs[4] and rate is not None:
        grads[4] = _from_head_rows(grad_rate, rate)
    if needs[5] and member is not None:
        grads[5] = _from_head_rows(_merge(grad_member, heads, owners).flatten(0, 1), member)
    return tuple(grads)


def _by_vertex(padded: Tensor, like: Tensor) -> Tensor:
    """The tensor ``[nodes * H, channels]`` of ``[H, nodes, channels and more]``."""
    heads, nodes = padded.shape[:2]
    out = torch.empty_like(like)
    out.view(nodes, heads, like.size(1)).copy_(padded[..., : like.size(1)].transpose(0, 1))
    return out


def _merge(tables: Tensor, heads: int, owners: list[int]) -> Tensor:
    """``[H, m, channels]``: every head's table, with the further ones of ``owners`` added to it."""
    count = heads + len(owners)
    tables = tables.view(count, tables.size(0) // count, tables.size(1))
    for table, head in enumerate(owners, start=heads):
        tables[head] += tables[table]
    return tables[:heads]


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
def _edge_prob_gradients(
    first_head, last_head, start, stop, table, grad, rate, member, rowptr, col, heads, keys, limit,
    grad_rate, grad_member,
):  # fmt: skip
    num_keys = member.shape[0] // heads
    for head in range(first_head, last_head):
        own = (table + head - first_head) * num_keys
        if grad_member.size:
            grad_member[own : own + num_keys] = 0
        begin = start
        while begin < stop:
            end, edges = _end_of_range(begin, stop, rowptr, heads, head, limit)
            weight = np.empty(edges, grad.dtype)
            done = 0
            for node in range(begin, end):
                for e in range(rowptr[node * heads + head], rowptr[node * heads + head + 1]):
                    weight[done] = grad[e]
                    done += 1
            _products(
                begin, end, own, rowptr, col, heads, head, weight, rate, member, keys, grad_rate,
                grad_member,
            )  # fmt: skip
            begin = end


def _keys_at_once(ptr: Tensor, rows: np.ndarray, heads: int, few: int) -> int:
    """How many keys to treat at once: those whose rows and their gradients the cache holds, or more
    where a node would have fewer than ``few`` edges to them."""
    keys = rows.shape[0] // heads
    pairs, edges = (ptr.numel() - 1) * keys, max(int(ptr[-1]), 1)
    held = CACHED_BYTES // (2 * rows.shape[1] * rows.itemsize)
    return max(1, min(max(held, few * pairs // edges), keys))


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
    """Gradients of (rate, member), each where ``needs`` says so: the products with the sparse
    matrix of ``grad`` and with its transpose."""
    dtype = _compute_dtype(rate)
    tasks, owners = split_tables(rowptr, heads, member.size(0))
    factors = (_head_rows(rate), _head_rows(member))
    grad_rate = _output(factors[0].shape[0] if needs[0] else 0, rate.size(2), dtype)
    tables = (heads + len(owners)) * member.size(0)
    grad_member = _output(tables if needs[1] else 0, member.size(2), dtype)
    args = (
        grad.to(dtype).contiguous().numpy(),
        *factors,
        rowptr.numpy(),
        col.numpy(),
        heads,
        _keys_at_once(rowptr, factors[1], heads, 6),
        max(EDGES_AT_ONCE, 4 * member.size(0)),
        grad_rate.numpy(),
        grad_member.numpy(),
    )
    parallel_for(lambda *task: _edge_prob_gradients(*task, *args), tasks)
    return (
        _from_head_rows(grad_rate, rate) if needs[0] else None,
        _from_head_rows(_merge(grad_member, heads, owners).flatten(0, 1), member)
        if needs[1]
        else None,
    )


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
                    perm[at] = e
                    e += 1
                cursor[node - start] = e


def transpose(
    rowptr: Tensor, col: Tensor, heads: int, num_keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Groups the edges of a CSR by key vertex, a stable counting sort: ``(colptr, row, perm)`` of
    :class:`~sbmgraph.graph.CSC`."""
    ranges = split_nodes(rowptr, heads)
    if col.numel() < 4 * num_keys * heads or num_chunks(col.numel()) == 1:
        ranges = [(0, (rowptr.numel() - 1) // heads)]
    counts = np.zeros((len(ranges), heads, num_keys), np.int64)
    colptr = torch.empty(num_keys * heads + 1, dtype=torch.int64)
    row = torch.empty(col.numel(), dtype=torch.int32)
    perm = torch.empty(col.numel(), dtype=torch.int64)
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
