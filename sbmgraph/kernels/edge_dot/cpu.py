r"""Inner products on edges on the CPU, and the two sparse products that are their gradients.

.. math::
    x_{ij} = \mathbf{w}_i \cdot \mathbf{z}_j, \qquad
    \partial \mathbf{W} = \mathbf{G} \mathbf{Z}, \qquad
    \partial \mathbf{Z} = \mathbf{G}^{\top} \mathbf{W}

with the sparse matrix :math:`\mathbf{G}` of :math:`\partial L / \partial x_{ij}`. Both products
come from one pass over the rows; the second is added up, by each thread in tables of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbmgraph.kernels._numba import layout
from sbmgraph.kernels._numba.dots import DOTS, dots
from sbmgraph.kernels._numba.jit import inline, jit
from sbmgraph.kernels._numba.rows import add_rows, scatter_row
from sbmgraph.kernels._numba.threads import parallel_for, split_heads, split_tables
from sbmgraph.kernels.csr import CSC, CSR
from sbmgraph.kernels.options import Factors

CACHED_BYTES = 2**17
"""Dense rows that the sparse products keep close, whatever the size of the second-level cache: with
eight times as many a step at K = 128 and a fifth of the pairs takes a sixth longer."""

EDGES_AT_ONCE = 2**18
"""Edges whose gradients are held at once."""


class Products(NamedTuple):
    """The dense factors of both sparse products and where they go; an empty array is not wanted."""

    rate: np.ndarray  # [H * n, K]
    member: np.ndarray  # [H * m, K]
    keys: int  # keys whose rows stay in cache while all nodes pass
    grad_rate: np.ndarray  # [H * n, K]
    grad_member: np.ndarray  # [tables * m, K]


def edges_at_once(num_keys: int) -> int:
    """How many edges' gradients are held at once: those of a few whole rows at least."""
    return max(EDGES_AT_ONCE, 4 * num_keys)


def keys_at_once(ptr: Tensor, rows: np.ndarray, heads: int, few: int) -> int:
    """How many keys to treat at once: those whose rows and their gradients the cache holds, or more
    where a node would have fewer than ``few`` edges to them."""
    keys = rows.shape[0] // heads
    pairs, edges = (ptr.numel() - 1) * keys, max(int(ptr[-1]), 1)
    held = CACHED_BYTES // (2 * rows.shape[1] * rows.itemsize)
    return max(1, min(max(held, few * pairs // edges), keys))


@inline
def end_of_range(start, stop, ptr, heads, head, limit):
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
def cursors(start, stop, ptr, heads, head):
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
def first_from(key, index, low, high):
    """The first of the edges ``low <= e < high`` whose key is ``key`` or above, else ``high``."""
    while low < high and index[low] < key:
        low += 1
    return low


@jit
def products(start, stop, own, ptr, index, heads, head, weight, factors):
    """The products of one head's sparse matrix with ``member``, and of its transpose with ``rate``,
    over the edges of a range of nodes, whose weights ``weight`` lists; the latter goes to the table
    that starts at row ``own``."""
    rate, member, keys = factors.rate, factors.member, factors.keys
    grad_rate, grad_member = factors.grad_rate, factors.grad_member
    num_queries, num_keys = (ptr.size - 1) // heads, member.shape[0] // heads
    width, base = member.shape[1], head * num_keys
    cursor, shift = cursors(start, stop, ptr, heads, head)
    if grad_rate.size:
        for node in range(start, stop):
            grad_rate[head * num_queries + node] = 0
    for above in range(keys, num_keys + keys, keys):  # panels of keys
        for node in range(start, stop):
            r = head * num_queries + node
            low, high = cursor[node - start], ptr[node * heads + head + 1]
            if above < num_keys:
                high = first_from(above, index, low, high)
            cursor[node - start] = high
            first = low + shift[node - start]
            if grad_rate.size:
                add_rows(grad_rate, r, weight, first, member, base, index, low, high, 0, width)
            if grad_member.size:
                scatter_row(rate, r, weight, first, grad_member, own, index, low, high, 0, width)


@jit
def _edge_dots(first_head, last_head, start, stop, rate, member, rowptr, col, heads, out):
    width, num_queries, num_keys = rate.shape[1], rate.shape[0] // heads, member.shape[0] // heads
    found = np.empty(DOTS, out.dtype)
    for head in range(first_head, last_head):
        for node in range(start, stop):
            r = node * heads + head
            low, high = rowptr[r], rowptr[r + 1]
            mine, base = head * num_queries + node, head * num_keys
            for e in range(low, high, DOTS):  # a few of the row's edges
                dots(rate, mine, member, base, col, e, high, 0, width, found, 0)
                for t in range(min(DOTS, high - e)):
                    out[e + t] = found[t]


@jit
def _gradients(first_head, last_head, start, stop, table, grad, rowptr, col, heads, factors, limit):
    num_keys = factors.member.shape[0] // heads
    for head in range(first_head, last_head):
        own = (table + head - first_head) * num_keys
        if factors.grad_member.size:
            factors.grad_member[own : own + num_keys] = 0
        begin = start
        while begin < stop:  # ranges of nodes with few enough edges
            end, edges = end_of_range(begin, stop, rowptr, heads, head, limit)
            weight = np.empty(edges, grad.dtype)
            done = 0
            for node in range(begin, end):
                for e in range(rowptr[node * heads + head], rowptr[node * heads + head + 1]):
                    weight[done] = grad[e]
                    done += 1
            products(begin, end, own, rowptr, col, heads, head, weight, factors)
            begin = end


def merge(tables: Tensor, heads: int, owners: list[int]) -> Tensor:
    """``[H, m, channels]``: every head's table, with the further ones of ``owners`` added to it."""
    count = heads + len(owners)
    tables = tables.view(count, tables.size(0) // count, tables.size(1))
    for table, head in enumerate(owners, start=heads):
        tables[head] += tables[table]
    return tables[:heads]


def forward(factors: Factors, csr: CSR) -> Tensor:
    """See :func:`sbmgraph.kernels.edge_dot.operator.edge_dot`."""
    rate, member = factors
    out = torch.empty(csr.col.numel(), dtype=layout.compute_dtype(rate), device="cpu")
    arrays = (layout.head_rows(rate), layout.head_rows(member), csr.rowptr.numpy(), csr.col.numpy())
    parallel_for(
        lambda *ranges: _edge_dots(*ranges, *arrays, csr.heads, out.numpy()),
        split_heads(csr.rowptr, csr.heads),
    )
    return out.to(rate.dtype)


def backward(
    grad: Tensor, factors: Factors, csr: CSR, csc: CSC | None, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """See :func:`sbmgraph.kernels.edge_dot.operator.edge_dot_backward`."""
    (rate, member), heads = factors, csr.heads
    dtype = layout.compute_dtype(rate)
    tasks, owners = split_tables(csr.rowptr, heads, member.size(0))
    rates, members = layout.head_rows(rate), layout.head_rows(member)
    grad_rate = layout.output(rates.shape[0] if needs[0] else 0, rate.size(2), dtype)
    tables = (heads + len(owners)) * member.size(0)
    grad_member = layout.output(tables if needs[1] else 0, member.size(2), dtype)
    keys = keys_at_once(csr.rowptr, members, heads, 6)
    args = (
        grad.to(dtype).contiguous().numpy(),
        csr.rowptr.numpy(),
        csr.col.numpy(),
        heads,
        Products(rates, members, keys, grad_rate.numpy(), grad_member.numpy()),
        edges_at_once(member.size(0)),
    )
    parallel_for(lambda *task: _gradients(*task, *args), tasks)
    return (
        layout.from_head_rows(grad_rate, rate) if needs[0] else None,
        layout.from_head_rows(merge(grad_member, heads, owners).flatten(0, 1), member)
        if needs[1]
        else None,
    )
