"""Attention over bits on the CPU, the backward pass.

All gradients in one pass over the tiles: scores and weights are computed again from the
log-sum-exp, one sweep turns a tile of them into the gradients by the scores and by the edge
probabilities, and five products add these to the gradients of queries, rates, keys, values and
memberships. A task owns its keys' gradients; where one head's queries are cut into parts, the
parts' are added up in order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbmgraph.kernels._numba.heads import most_keys, part_of, round_up, split
from sbmgraph.kernels._numba.jit import jit
from sbmgraph.kernels._numba.layout import compute_dtype, floating
from sbmgraph.kernels._numba.math import exp
from sbmgraph.kernels._numba.operands import (
    KEYS,
    PITCH,
    QUERIES,
    add_panels,
    aligned,
    clear,
    drop,
    from_panels,
    inner_products,
    to_columns,
    to_panels,
    to_rows,
)
from sbmgraph.kernels._numba.threads import parallel_for
from sbmgraph.kernels._numba.tiles import ROWS, lanes_of, select
from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Factors, Options
from sbmgraph.kernels.tile.cpu_arrays import edges_of, rules_of

Needs = tuple[bool, bool, bool, bool, bool]

OFF = -1e30
"""The score of a pair that is no edge: its weight is 0, and so is 0 times it."""


class Saved(NamedTuple):
    """What the forward pass knew, and the gradient that comes back."""

    query: np.ndarray  # [n, H, d]
    key: np.ndarray  # [m, H, d]
    value: np.ndarray  # [m, H, dv]
    grad_out: np.ndarray  # [n, H, dv]
    rate: np.ndarray  # [n, H, K]
    member: np.ndarray  # [m, H, K]
    delta: np.ndarray  # [n, H]
    lse: np.ndarray  # [n, H]


class Tiles(NamedTuple):
    """A tile [QUERIES, PITCH] of each: what :func:`_gradients` turns into one another."""

    score: np.ndarray  # then the weights after dropout
    grad: np.ndarray  # by the weights, then by the scores
    gate: np.ndarray  # by the edge probabilities
    keep: np.ndarray  # factors of the dropout


@jit
def _gradients(tiles, count, columns, words, word, num_words, lse, delta, gated, clip, drops):
    """The rows of a tile of scores become weights (after dropout), those of gradients by the
    weights gradients by the scores; ``gate`` gets those by the edge probabilities, see
    :func:`sbmgraph.ops.edge_attention`. Row r's bits begin at ``words[word + r * num_words]``."""
    score, grad, gate, keep = tiles
    one = score.dtype.type(1)
    for r in range(count):
        at, end = r * PITCH, r * PITCH + columns
        weights, grads, gates = score[at:end], grad[at:end], gate[at:end]
        if lse[r] == -math.inf:  # no edge
            weights[:], grads[:], gates[:] = 0, 0, 0
            continue
        select(words, word + r * num_words, score, at, columns, OFF)
        row_lse, row_delta, factors = lse[r], delta[r], keep[at:end]
        if drops:
            for t in range(columns):
                grads[t] *= factors[t]
        if gated and not clip:
            for t in range(columns):
                gates[t] = weights[t]
        for t in range(columns):
            weight = exp(weights[t] - row_lse)
            weights[t] = weight
            grads[t] = weight * (grads[t] - row_delta)
        if gated and clip:
            for t in range(columns):
                limited = one if grads[t] > one else grads[t]
                gates[t] = -one if limited < -one else limited
        elif gated:
            for t in range(columns):
                gates[t] *= grads[t]
        if drops:
            for t in range(columns):
                weights[t] *= factors[t]


@jit
def _backward_heads(first, last, part, parts, saved, edges, rules, by_query, by_key):
    """The gradients of query and rate go to ``by_query``, those of key, value and member to
    ``by_key``. An array without channels takes no gradient. Those of keys have every key and head,
    or, for the second part of a head and those after it, this head's keys only."""
    query, key, value, grad_out, rate, member, delta, lse = saved
    words, word_ptr, query_ptr, key_ptr = edges
    grad_query, grad_rate = by_query
    grad_key, grad_value, grad_member = by_key
    scale, dropout, drops = rules.scale, rules.dropout, rules.dropout > 0
    heads, d, dv, k = query.shape[1], query.shape[2], value.shape[2], rate.shape[2]
    like, width = query, lanes_of(query)
    one = query.dtype.type(1)
    gated = grad_rate.shape[2] > 0 or grad_member.shape[2] > 0
    panels_d, panels_dv, panels_k = (
        (d + width - 1) // width, (dv + width - 1) // width, (k + width - 1) // width
    )  # fmt: skip
    most = round_up(most_keys(first, last, heads, key_ptr), width)
    columns_key, columns_value = aligned(most * d, like), aligned(most * dv, like)
    needs_query, needs_rate = grad_query.shape[2] > 0, grad_rate.shape[2] > 0
    needs_key, needs_value = grad_key.shape[2] > 0, grad_value.shape[2] > 0
    needs_member = grad_member.shape[2] > 0
    all_key = aligned(panels_d * width * most if needs_query else 0, like)
    all_member = aligned(panels_k * width * most if needs_rate else 0, like)
    spare = most + ROWS  # the last tile's products pass its keys
    sum_key = aligned(panels_d * width * spare if needs_key else 0, like)
    sum_value = aligned(panels_dv * width * spare if needs_value else 0, like)
    sum_member = aligned(panels_k * width * spare if needs_member else 0, like)
    rows_query, rows_grad = aligned(QUERIES * d, like), aligned(QUERIES * dv, like)
    some_query = aligned(panels_d * width * QUERIES, like)
    some_grad = aligned(panels_dv * width * QUERIES, like)
    some_rate = aligned(panels_k * width * QUERIES, like)
    sum_query = aligned(panels_d * width * QUERIES, like)
    sum_rate = aligned(panels_k * width * QUERIES, like)
    score, grad = aligned(QUERIES * PITCH, like), aligned(QUERIES * PITCH, like)
    gate, keep = aligned(QUERIES * PITCH, like), aligned(QUERIES * PITCH, like)
    tiles = Tiles(score, grad, gate, keep)
    some_lse, some_delta = aligned(QUERIES, like), aligned(QUERIES, like)
    scales, ones = np.full(1, scale, query.dtype), np.ones(1, query.dtype)
    for index in range(first, last):
        g, head = index // heads, index % heads
        first_query, first_key = query_ptr[g], key_ptr[g]
        num_keys = key_ptr[g + 1] - first_key
        num_words, padded = (num_keys + 31) // 32, round_up(num_keys, width)
        spare = padded + ROWS
        begin, end = part_of(part, parts, query_ptr[g + 1] - first_query)
        to_columns(key, first_key, num_keys, head, columns_key)
        to_columns(value, first_key, num_keys, head, columns_value)
        if needs_query:
            to_panels(key, first_key, num_keys, head, one, padded, all_key)
        if needs_rate:
            to_panels(member, first_key, num_keys, head, one, padded, all_member)
        sum_key[:], sum_value[:], sum_member[:] = 0, 0, 0
        for start in range(begin, end, QUERIES):  # blocks of queries
            count, node = min(QUERIES, end - start), first_query + start
            rows = round_up(count, ROWS)
            to_rows(query, node, count, head, scale, rows, rows_query)
            to_rows(grad_out, node, count, head, one, rows, rows_grad)
            to_panels(query, node, count, head, scale, rows, some_query)
            to_panels(grad_out, node, count, head, one, rows, some_grad)
            if needs_member:
                to_panels(rate, node, count, head, one, rows, some_rate)
            for r in range(count):
                some_lse[r], some_delta[r] = lse[node + r, head], delta[node + r, head]
            sum_query[:], sum_rate[:] = 0, 0
            for low in range(0, padded, KEYS):  # blocks of keys
                columns = min(KEYS, padded - low)
                inner_products(rows_query, rows, d, columns_key, low, columns, score, PITCH)
                inner_products(rows_grad, rows, dv, columns_value, low, columns, grad, PITCH)
                vertex = start * heads + head
                word = word_ptr[g] + vertex * num_words + low // 32
                if drops:
                    keep[:] = 1
                    drop(keep, count, columns, rules.seed, vertex, heads, g, low, dropout)
                _gradients(
                    tiles, count, columns, words, word, heads * num_words, some_lse, some_delta,
                    gated, rules.clip, drops,
                )  # fmt: skip
                for tile in (score, grad, gate):
                    clear(tile, count, rows, columns)
                if needs_query:
                    add_panels(
                        grad, PITCH, 1, rows, all_key, low * width, padded, panels_d, columns,
                        sum_query, 0, rows,
                    )  # fmt: skip
                if needs_rate:
                    add_panels(
                        gate, PITCH, 1, rows, all_member, low * width, padded, panels_k, columns,
                        sum_rate, 0, rows,
                    )  # fmt: skip
                if needs_key:
                    add_panels(
                        grad, 1, PITCH, columns, some_query, 0, rows, panels_d, rows, sum_key,
                        low * width, spare,
                    )  # fmt: skip
                if needs_value:
                    add_panels(
                        score, 1, PITCH, columns, some_grad, 0, rows, panels_dv, rows, sum_value,
                        low * width, spare,
                    )  # fmt: skip
                if needs_member:
                    add_panels(
                        gate, 1, PITCH, columns, some_rate, 0, rows, panels_k, rows, sum_member,
                        low * width, spare,
                    )  # fmt: skip
            if needs_query:
                from_panels(sum_query, rows, count, scales, 0, grad_query, node, head)
            if needs_rate:
                from_panels(sum_rate, rows, count, ones, 0, grad_rate, node, head)
        node, owner = (first_key, head) if part == 0 else (first_key * 0, head * 0)
        if needs_key:
            from_panels(sum_key, spare, num_keys, ones, 0, grad_key, node, owner)
        if needs_value:
            from_panels(sum_value, spare, num_keys, ones, 0, grad_value, node, owner)
        if needs_member:
            from_panels(sum_member, spare, num_keys, ones, 0, grad_member, node, owner)


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
    needs: Needs,
) -> tuple[Tensor | None, ...]:
    """Gradients of (query, key, value, rate, member), each where ``needs`` says so.

    Args:
        grad_out (Tensor): The gradient of ``out``.
        query, key, value (Tensor): As in :func:`sbmgraph.kernels.tile.cpu.forward`.
        factors (Factors, optional): The factors of the edge probabilities, which take the
            straight-through gradient.
        bits (Bits): The edges.
        out (Tensor): The forward pass's output.
        lse (Tensor): The forward pass's log-sum-exp.
        options (Options): Those of the forward pass, and the estimator.
        needs (tuple): Which of the five gradients are wanted.
    """
    dtype = compute_dtype(query)
    gated = factors is not None
    needs = (*needs[:3], needs[3] and gated, needs[4] and gated)
    rate, member = (
        (factors.rate, factors.member) if factors is not None else (query[..., :0], key[..., :0])
    )
    delta = (out.to(dtype) * grad_out.to(dtype)).sum(-1)
    number = delta.numpy().dtype.type
    inputs = (query, key, value, rate, member)
    by_query = [_like(x, need, dtype) for x, need in ((query, needs[0]), (rate, needs[3]))]
    wanted = ((key, needs[1]), (value, needs[2]), (member, needs[4]))
    by_key = [_like(x, need, dtype) for x, need in wanted]
    saved = Saved(  # type: ignore[call-arg]
        *(floating(x) for x in (query, key, value, grad_out)),
        *(x.to(dtype).contiguous().numpy() for x in (rate, member)),
        delta.numpy(),
        lse.contiguous().numpy(),
    )
    args = (saved, edges_of(bits), rules_of(options, number), tuple(x.numpy() for x in by_query))
    tasks = split(bits.query_ptr, bits.key_ptr, bits.heads)
    sizes = bits.key_ptr.diff().tolist()
    shares = []
    for first, _, part, _ in tasks:
        keys = sizes[first // bits.heads]
        shares.append(by_key if part == 0 else [x.new_empty(keys, 1, x.size(2)) for x in by_key])
    parallel_for(
        lambda task, share: _backward_heads(*task, *args, tuple(x.numpy() for x in share)),
        zip(tasks, shares, strict=True),
    )
    for (first, _, part, _), share in zip(tasks, shares, strict=True):
        if part > 0:
            g, head = divmod(first, bits.heads)
            low, high = bits.key_ptr[g], bits.key_ptr[g + 1]
            for total, x in zip(by_key, share, strict=True):
                total[low:high, head] += x[:, 0]
    grads = (by_query[0], *by_key[:2], by_query[1], by_key[2])
    return tuple(
        grad.to(x.dtype) if need else None
        for grad, x, need in zip(grads, inputs, needs, strict=True)
    )


def _like(x: Tensor, needed: bool, dtype: torch.dtype) -> Tensor:
    """Where the gradient of ``x`` goes: without channels if none is wanted."""
    channels = x.size(2) if needed else 0
    return torch.empty(*x.shape[:2], channels, dtype=dtype, device="cpu")
