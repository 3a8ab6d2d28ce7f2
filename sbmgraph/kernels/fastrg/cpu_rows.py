r"""One query vertex's proposals, compiled for the CPU: arrivals, their keys, order and thinning.

Blocks lie on an axis, each as wide as the proposals expected from it,
:math:`c_i w_{iv} s_v`, and exploration last, :math:`c_i \delta m`. The arrivals of a Poisson
process of rate 1 on it are the proposals: an arrival's place tells its block. Draw :math:`t` owns
the four 31-bit numbers :math:`(a, b, c, d)` of a Philox counter: the waiting time is
:math:`-\log(1 - v)`, :math:`v = (a + d / 2^{31}) / 2^{31}`, the key :math:`\lfloor b m / 2^{31}
\rfloor` is uniform, and :math:`c` decides whether it stays or which of two keys it becomes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sbmgraph.kernels._numba.bits import ranks, take_marks, trailing_zeros
from sbmgraph.kernels._numba.dots import dot
from sbmgraph.kernels._numba.jit import inline
from sbmgraph.kernels._numba.math import log
from sbmgraph.kernels._numba.random import DRAWS, draw_bits, edge_uniforms
from sbmgraph.kernels.random import PROPOSAL, THINNING

SORTED = 24
"""Up to so many keys of a row are sorted by insertion."""


class Row(NamedTuple):
    """The query vertex whose proposals are made."""

    seed: np.uint64
    vertex: int  # inside its graph
    graph: int
    keys: int  # of its graph


class Draws(NamedTuple):
    """Numbers of a row's draws, and what becomes of them. All arrays are as long as the first."""

    wait: np.ndarray  # int32, word 0
    number: np.ndarray  # word 1, then the uniform key
    part: np.ndarray  # word 2
    fine: np.ndarray  # word 3, then scratch
    chosen: np.ndarray  # int32, keys that stay
    hits: np.ndarray  # int32, blocks
    arrival: np.ndarray  # float64


@inline
def new_draws(size):
    # Not a multiple of 4 KiB apart: loads would wait for stores at the same offset.
    integers = np.empty((6, size | 80), np.int32)
    arrival = np.empty(size | 80)
    return Draws(
        integers[0], integers[1], integers[2], integers[3], integers[4], integers[5], arrival
    )


@inline
def _longer(draws, size):
    """Room for twice as many draws; the first ``size`` stay."""
    out = new_draws(2 * draws.arrival.size)
    out.number[:size] = draws.number[:size]
    out.part[:size] = draws.part[:size]
    out.arrival[:size] = draws.arrival[:size]
    return out


@inline
def cumulate(rate, place, factor, mass, explored, axis):
    """The proposals that a row expects from the blocks up to each, and from exploration last."""
    total = 0.0
    for v in range(mass.size):
        total += factor * np.float64(rate[place, v]) * mass[v]
        axis[v] = total
    axis[mass.size] = total + explored


@inline
def _waiting_times(row, total, size, at, draws):
    """Goes on with draw number ``size`` at the place ``at`` of the axis until the axis ends or
    the room does; returns the next number and place."""
    half, unit = np.float32(0.5), np.float32(2.0**-31)
    one, third, quarter = np.float32(1), np.float32(1 / 3), np.float32(0.25)
    wait, fine, arrival = draws.wait, draws.fine, draws.arrival
    words = (wait, draws.number, draws.part, fine)
    while at < total and size + DRAWS <= arrival.size:
        draw_bits(row.seed, row.vertex, row.graph, size, PROPOSAL, words, size)
        for i in range(size, size + DRAWS):
            first, last = wait[i], fine[i]
            share = (np.float32(first) + np.float32(last) * unit) * unit
            small = share * (one + share * (half + share * (third + share * quarter)))
            rest = (np.float32(np.int32(np.int32(2147483647) - first)) + half) * unit
            gap = small if share < np.float32(0.015625) else -log(rest)
            arrival[i] = np.float64(gap)
        for i in range(size, size + DRAWS):
            at += arrival[i]
            arrival[i] = at
        size += DRAWS
    return size, at


@inline
def arrivals(row, axis, draws):
    """Draws until the axis ends: the block of each arrival in order, and its numbers. Returns how
    many arrivals there are, and the draws, which grow as needed."""
    size, at = _waiting_times(row, axis[-1], 0, 0.0, draws)
    while at < axis[-1]:
        draws = _longer(draws, size)
        size, at = _waiting_times(row, axis[-1], size, at, draws)
    low = 0
    for first in range(0, size, DRAWS):  # neighbours on the axis: few blocks to compare with
        high = low
        while high < axis.size and axis[high] < draws.arrival[first + DRAWS - 1]:
            high += 1
        ranks(axis, low, high, draws.arrival, first, draws.hits)
        low = high
    while size > 0 and draws.hits[size - 1] == axis.size:
        size -= 1
    return size, draws


@inline
def uniform_keys(count, m, draws):
    """Turns each draw's second number into a uniform key."""
    for i in range(count):
        draws.number[i] = np.int32((np.int64(draws.number[i]) * m) >> 31)


@inline
def by_table(count, h, low, tables, draws):
    """Turns the uniform keys of ``count`` hits into keys of their blocks by alias tables."""
    waiting = 0
    for i in range(count):  # without branches, in a table that stays in cache
        j, v = np.uint64(low + draws.number[i]), np.uint64(draws.hits[i])
        draws.chosen[i] = draws.number[i]
        draws.fine[waiting] = i
        waiting += int((draws.part[i] >> 23) >= np.int32(tables.sure[h, v, j]))
    for t in range(waiting):
        i = draws.fine[t]
        j, v = np.uint64(low + draws.number[i]), np.uint64(draws.hits[i])
        leaves = (draws.part[i] >> 23) > np.int32(tables.sure[h, v, j])
        if leaves or draws.part[i] >= tables.threshold[h, v, j]:
            draws.chosen[i] = tables.alias[h, v, j]


@inline
def by_rejection(count, h, low, share, member, largest, draws):
    """Chooses among the uniform keys of ``count`` hits those that are kept; returns how many."""
    kept, doubtful, unsure = 0, 0, draws.fine
    for i in range(count):  # without branches: the memory accesses overlap
        j, v = np.uint64(low + draws.number[i]), np.uint64(draws.hits[i])
        limit, known = draws.part[i] >> 23, np.int32(share[h, v, j])
        draws.chosen[kept] = draws.number[i]
        kept += int(limit < known)
        unsure[doubtful] = i
        doubtful += int(limit == known)
    base = h * share.shape[2] + low
    for i in range(doubtful):
        at = unsure[i]
        z = np.float64(member[base + draws.number[at], draws.hits[at]]) / largest[draws.hits[at]]
        draws.chosen[kept] = draws.number[at]
        kept += int(draws.part[at] * 2.0**-31 < z)
    return kept


@inline
def sort(values, count):
    """Sorts a few values in place and drops repetitions; returns how many are left."""
    kept = 0
    for i in range(count):
        x = values[i]
        at = kept
        while at > 0 and values[at - 1] > x:
            at -= 1
        if at > 0 and values[at - 1] == x:
            continue
        for k in range(kept, at, -1):
            values[k] = values[k - 1]
        values[at] = x
        kept += 1
    return kept


@inline
def sort_by_marks(values, count, m, marks, groups):
    """The same for many values below ``m``: a byte for each, and one for each 64 of those."""
    for i in range(count):
        j = np.uint64(values[i])
        marks[j] = 1
        groups[j >> np.uint64(6)] = 1
    kept = 0
    for first in range(0, (m + 63) >> 6, 64):
        some_groups = take_marks(groups, first)
        while some_groups:
            group = first + np.int64(trailing_zeros(some_groups))
            some_groups &= some_groups - np.uint64(1)
            present = take_marks(marks, group * 64)
            while present:
                values[kept] = group * 64 + np.int64(trailing_zeros(present))
                present &= present - np.uint64(1)
                kept += 1
    return kept


@inline
def thin(found, start, stop, row, low, problem, place, base, excess, uniforms):
    """Keeps each proposed edge of a row with probability ``p / (1 - exp(-excess * p))``.

    That is at least ``1 / excess``, so most edges stay before their ``p`` is known. ``found`` has
    room for 8 more edges, and ``uniforms`` for as many.
    """
    width = problem.rate.shape[1]
    for t in range(start, stop, 8):
        edge_uniforms(row.seed, row.vertex, row.graph, found, low, t, THINNING, uniforms, t - start)
    unsure = np.empty(4, np.int64)
    waiting, kept = 0, start
    doubt = np.float32(1.0 / excess)
    for t in range(stop - start):
        unsure[waiting] = t
        waiting += int(uniforms[t] >= doubt)
        if waiting < 4 and not (t == stop - start - 1 and waiting > 0):
            continue
        last = waiting - 1
        vertices = (
            base + found[start + unsure[0]],
            base + found[start + unsure[min(1, last)]],
            base + found[start + unsure[min(2, last)]],
            base + found[start + unsure[min(3, last)]],
        )
        probs = dot(problem.rate, place, problem.member, vertices, 0, width)
        for q in range(waiting):
            p = problem.exploration + np.float64(probs[q])
            u = np.float64(uniforms[unsure[q]])
            if not u * -math.expm1(-excess * p) < p:
                uniforms[unsure[q]] = np.float32(-1.0)
        waiting = 0
    for t in range(stop - start):
        found[kept] = found[start + t]
        kept += int(uniforms[t] >= np.float32(0.0))
    return kept
