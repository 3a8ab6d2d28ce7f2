r"""Gradients of attention over edges on the CPU, in one pass over the rows.

With :math:`\alpha_{ij} = e^{s_{ij} - \ell_i}`, :math:`\delta_i = \mathbf{g}_i \cdot \mathbf{o}_i`
and the dropout factors :math:`\kappa_{ij}`,

.. math::
    \partial s_{ij} &= \alpha_{ij} (\kappa_{ij}\, \mathbf{g}_i \cdot \mathbf{v}_j - \delta_i), \\
    \partial \mathbf{q}_i &= \text{scale} \sum_j \partial s_{ij}\, \mathbf{k}_j, \quad
    \partial \mathbf{k}_j = \text{scale} \sum_i \partial s_{ij}\, \mathbf{q}_i, \quad
    \partial \mathbf{v}_j = \sum_i \alpha_{ij} \kappa_{ij}\, \mathbf{g}_i, \\
    G_{ij} &= \partial s_{ij} \cdot s_{ij} \ (\text{logit}), \quad
    \mathrm{clip}(\partial s_{ij}, -1, 1) \ (\text{mask}), \quad
    \partial \mathbf{W} = \mathbf{G} \mathbf{Z}, \quad
    \partial \mathbf{Z} = \mathbf{G}^{\top} \mathbf{W} .

The weights are recomputed from the log-sum-exp. Each thread adds the gradients of keys up in tables
of its own as their edges pass; the transpose is not used.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbmgraph.kernels._numba import layout
from sbmgraph.kernels._numba.dots import DOTS, dots
from sbmgraph.kernels._numba.dropout import keeps
from sbmgraph.kernels._numba.jit import inline, jit
from sbmgraph.kernels._numba.lanes import LANES
from sbmgraph.kernels._numba.math import exp
from sbmgraph.kernels._numba.rows import add_rows, scatter_row
from sbmgraph.kernels._numba.threads import parallel_for, split_tables
from sbmgraph.kernels.attention.cpu import BLOCK, edges_of, graph_of
from sbmgraph.kernels.attention.inputs import Inputs, Needs
from sbmgraph.kernels.edge_dot.cpu import (
    Products,
    cursors,
    edges_at_once,
    end_of_range,
    first_from,
    keys_at_once,
    merge,
    products,
)
from sbmgraph.kernels.options import Options


class Saved(NamedTuple):
    """What the forward pass knew, and the gradient that comes back."""

    query: np.ndarray  # [n * H, d]
    grad_out: np.ndarray  # [n * H, dv]
    key_value: np.ndarray  # [H * m, d + dv]
    stats: np.ndarray  # lse and delta [H * n, 2]
    sampled: np.ndarray  # which edges pass the gate a gradient [E], or [0] for all
    clip: bool  # the mask estimator


class Gradients(NamedTuple):
    """Where gradients go; an empty array is not wanted."""

    query: np.ndarray  # [n * H, d]
    bias: np.ndarray  # [E]
    keys: np.ndarray  # [tables * m, d + dv]


@jit
def _backward_rows(
    first_head, last_head, start, stop, table, saved, edges, keys, factors, limit, grads
):
    """All gradients over a range of heads and nodes.

    Gradients of the keys' side are added to table number ``table``, and those of heads after the
    first to the tables after it: each ``num_keys`` rows. ``keys`` keys at a time stay in cache
    while all nodes pass, and ``limit`` edges' gradients exist at once.
    """
    heads = edges.heads
    num_keys = saved.key_value.shape[0] // heads
    gated = factors.grad_rate.size > 0 or factors.grad_member.size > 0
    for head in range(first_head, last_head):
        own = (table + head - first_head) * num_keys
        if grads.keys.size:
            grads.keys[own : own + num_keys] = 0
        if factors.grad_member.size:
            factors.grad_member[own : own + num_keys] = 0
        begin = start
        while begin < stop:  # ranges of nodes with few enough edges
            end, count = end_of_range(begin, stop, edges.rowptr, heads, head, limit)
            gate = np.empty(count if gated else 0, saved.query.dtype)
            _edge_gradients(begin, end, own, head, saved, edges, keys, grads, gate)
            if gated:
                products(begin, end, own, edges.rowptr, edges.col, heads, head, gate, factors)
            begin = end


@jit
def _edge_gradients(start, stop, own, head, saved, edges, keys, grads, gate):
    """The gradients of attention over the edges of one head's nodes in a range; ``gate`` gets those
    of the mask, one after the other."""
    query, grad_out, key_value = saved.query, saved.grad_out, saved.key_value
    rowptr, col, heads, bias = edges.rowptr, edges.col, edges.heads, edges.bias
    lowest = query.dtype.type(-np.inf)
    d, width = query.shape[1], grad_out.shape[1]
    num_queries, num_keys = (rowptr.size - 1) // heads, key_value.shape[0] // heads
    base = head * num_keys
    score, grad = np.empty(BLOCK + DOTS, query.dtype), np.empty(BLOCK + DOTS, query.dtype)
    keep = np.empty(BLOCK, query.dtype)
    cursor, shift = cursors(start, stop, rowptr, heads, head)
    if grads.query.size:
        for node in range(start, stop):
            grads.query[node * heads + head] = 0
    for above in range(keys, num_keys + keys, keys):  # panels of keys
        graph = 0
        for node in range(start, stop):
            graph = graph_of(node, graph, edges.query_ptr)
            r = node * heads + head
            low, high = cursor[node - start], rowptr[r + 1]
            if above < num_keys:
                high = first_from(above, col, low, high)
            cursor[node - start] = high
            lse, delta = saved.stats[head * num_queries + node]
            if lse == lowest:  # no edge with a finite score: weights are exp(-inf - 0)
                lse = query.dtype.type(0)
            for i in range(low, high, BLOCK):  # blocks of the row's edges in the panel
                j = min(i + BLOCK, high)
                count, at = j - i, i + shift[node - start]
                for t in range(0, count, DOTS):
                    dots(query, r, key_value, base, col, i + t, j, 0, d, score, t)
                    dots(grad_out, r, key_value, base, col, i + t, j, d, width, grad, t)
                for t in range(count):
                    score[t] *= edges.scale
                if bias.size:
                    for t in range(count):
                        score[t] += bias[i + t]
                if edges.dropout > 0:
                    local = (node - edges.query_ptr[graph]) * heads + head
                    first_key = edges.key_ptr[graph]
                    keeps(edges.seed, local, graph, col, i, count, first_key, edges.dropout, keep)
                    for t in range(count):
                        grad[t] *= keep[t]
                if gate.size and not saved.clip:
                    for t in range(count):
                        gate[at + t] = score[t] if score[t] > lowest else query.dtype.type(0)
                for t in range(count):
                    score[t] = exp(score[t] - lse)
                    grad[t] = score[t] * (grad[t] - delta)
                if grads.bias.size:
                    for t in range(count):
                        grads.bias[i + t] = grad[t]
                if gate.size:
                    _gate_gradient(grad, count, saved.clip, gate, at)
                    if saved.sampled.size:
                        for t in range(count):
                            gate[at + t] *= saved.sampled[i + t]
                for t in range(count):
                    grad[t] *= edges.scale
                if grads.query.size:
                    add_rows(grads.query, r, grad, 0, key_value, base, col, i, j, 0, d)
                if grads.keys.size:
                    if edges.dropout > 0:
                        for t in range(count):
                            score[t] *= keep[t]
                    scatter_row(query, r, grad, 0, grads.keys, own, col, i, j, 0, d)
                    scatter_row(grad_out, r, score, 0, grads.keys, own, col, i, j, d, width)


@inline
def _gate_gradient(grad, count, clip, gate, at):
    """From gradients by the (biased) scores to gradients by the mask; unless clipped, ``gate``
    holds the scores."""
    one = grad.dtype.type(1)
    if clip:
        for t in range(count):
            gate[at + t] = min(max(grad[t], -one), one)
    else:
        for t in range(count):
            gate[at + t] *= grad[t]


def backward(
    grad_out: Tensor,
    inputs: Inputs,
    results: tuple[Tensor, Tensor],
    options: Options,
    needs: Needs,
) -> tuple[Tensor | None, ...]:
    """The gradients in the order of :class:`Needs`, :obj:`None` where not needed.

    Args:
        grad_out: That of the output, contiguous, of shape :obj:`[n * H, dv]`.
        inputs: What the forward pass read.
        results: What it returned: output and log-sum-exp.
        options: Its options.
        needs: Which gradients are wanted.
    """
    query, key, value, csr, _, bias, factors, sampled = inputs
    heads, dtype = csr.heads, layout.compute_dtype(query)
    out, lse = results
    delta = (out.to(dtype) * grad_out.to(dtype)).sum(-1)
    stats = torch.stack([lse, delta], -1).view(-1, heads, 2).transpose(0, 1).reshape(-1, 2)
    num_keys = key.size(0) // heads
    tasks, owners = split_tables(csr.rowptr, heads, num_keys)
    tables = (heads + len(owners)) * num_keys
    key_value = layout.by_head(heads, key, value)
    nothing = layout.output(0, LANES, dtype)
    rates = members = nothing.numpy()
    grad_rate = grad_member = nothing
    if factors is not None and (needs.rate or needs.member):
        rate, member = factors
        rates, members = layout.head_rows(rate.to(dtype)), layout.head_rows(member.to(dtype))
        grad_rate = layout.output(rates.shape[0] if needs.rate else 0, rate.size(2), dtype)
        grad_member = layout.output(tables if needs.member else 0, member.size(2), dtype)
    grad_query = layout.output(query.size(0) if needs.query else 0, query.size(1), dtype)
    grad_bias = torch.empty(csr.col.numel() if needs.bias else 0, dtype=dtype, device="cpu")
    needs_keys = needs.key or needs.value
    grad_keys = layout.output(tables if needs_keys else 0, key_value.shape[1], dtype)
    saved = Saved(
        layout.rows(query),
        layout.rows(grad_out),
        key_value,
        stats.numpy(),
        layout.optional(sampled, torch.uint8),
        options.estimator == "mask",
    )
    args = (
        saved,
        edges_of(csr, bias, options, dtype),
        keys_at_once(csr.rowptr, key_value, heads, BLOCK),
        Products(
            rates,
            members,
            keys_at_once(csr.rowptr, members, heads, 6),
            grad_rate.numpy(),
            grad_member.numpy(),
        ),
        edges_at_once(num_keys),
        Gradients(grad_query.numpy(), grad_bias.numpy(), grad_keys.numpy()),
    )
    parallel_for(lambda *task: _backward_rows(*task, *args), tasks)
    grads: list[Tensor | None] = [None] * 6
    if needs.query:
        grads[0] = layout.trimmed(grad_query, query)
    if needs_keys:
        both = merge(grad_keys, heads, owners)
        values = both[..., layout.padded(key.size(1)) :]
        grads[1] = layout.by_vertex(both, key) if needs.key else None
        grads[2] = layout.by_vertex(values, value) if needs.value else None
    if needs.bias:
        grads[3] = grad_bias if bias is None else grad_bias.to(bias.dtype)
    if factors is not None and needs.rate:
        grads[4] = layout.from_head_rows(grad_rate, factors.rate)
    if factors is not None and needs.member:
        merged = merge(grad_member, heads, owners).flatten(0, 1)
        grads[5] = layout.from_head_rows(merged, factors.member)
    return tuple(grads)
