"""How the keys of each block are drawn: sums, alias tables, and shares for rejection."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sbmgraph.kernels._numba.groups import ranges
from sbmgraph.kernels._numba.jit import inline, jit
from sbmgraph.kernels._numba.lanes import LANES
from sbmgraph.kernels._numba.threads import parallel_for

TABLE_PAYS = 2.0
"""Rejected proposals per key and block from which alias tables are worth their construction."""


class Problem(NamedTuple):
    """What the kernels read of a model. Rates and memberships lie head by head."""

    rate: np.ndarray  # [H * n, K], K padded to a multiple of LANES
    member: np.ndarray  # [H * m, K]
    query_ptr: np.ndarray  # [G + 1]
    key_ptr: np.ndarray  # [G + 1]
    heads: int
    clusters: int  # K before padding
    exploration: float
    bernoulli: bool
    seed: np.uint64


class Tables(NamedTuple):
    """Alias tables [H, K, m]: a uniform key stays where a 31-bit number is below its threshold, and
    becomes its alias otherwise. Apart, so that what most draws read is small enough for caches."""

    sure: np.ndarray  # uint8, thresholds in 256ths, rounded down
    threshold: np.ndarray  # int32
    alias: np.ndarray  # int32, keys of the graph


class Blocks(NamedTuple):
    """How the keys of every block are drawn.

    A proposal of a head that is ``direct`` takes a uniform key and keeps it with probability
    membership / ``largest``, one of another takes a key from the block's alias table.
    """

    direct: np.ndarray  # boolean [G, H]
    mass: np.ndarray  # proposals for a rate of 1 [G, H, K]
    largest: np.ndarray  # membership [G, H, K]
    tables: Tables  # [H, K, m]
    share: np.ndarray  # [H, K, m], see _shares
    expected: float  # edges, at most as many as pairs


def tabulate(problem: Problem) -> Blocks:
    """The tables of a model."""
    mass, largest = _block_sums(problem, problem.member, problem.key_ptr)
    weight, _ = _block_sums(problem, problem.rate, problem.query_ptr)
    num_keys = np.diff(problem.key_ptr)[:, None]
    most = num_keys[:, None] * largest
    # Few rejections do not repay tables.
    rejected = (weight * (most - mass)).sum(-1)
    direct = rejected <= TABLE_PAYS * num_keys * problem.clusters
    pairs = np.diff(problem.query_ptr)[:, None] * num_keys
    expected = np.minimum((weight * mass).sum(-1) + problem.exploration * pairs, pairs)
    return Blocks(
        direct,
        np.where(direct[:, :, None], most, mass),
        largest,
        _block_tables(problem, mass, direct),
        _shares(problem, largest, direct),
        float(np.nansum(expected)),
    )


def _block_sums(
    problem: Problem, matrix: np.ndarray, ptr: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and maximum of each block's column over the nodes of each graph and head, [G, H, K]."""
    shape = (ptr.size - 1, problem.heads, problem.clusters)
    total, top = np.zeros(shape), np.zeros(shape)
    units = shape[0] * shape[1]
    parallel_for(
        lambda start, stop: _column_sums(start, stop, matrix, ptr, total, top),
        ranges(units, 100_000 * units // max(matrix.size, 1)),
    )
    return total, top


@jit
def _column_sums(start, stop, matrix, ptr, total, top):
    """Walks pairs of a graph and a head."""
    heads, clusters = total.shape[1], total.shape[2]
    for unit in range(start, stop):
        g, h = unit // heads, unit % heads
        base = h * ptr[-1]
        for node in range(ptr[g], ptr[g + 1], 2):
            row, last = base + node, base + min(node + 2, ptr[g + 1]) - 1
            for v in range(clusters):
                total[g, h, v] += matrix[row, v]
            if last > row:
                for v in range(clusters):
                    total[g, h, v] += matrix[last, v]
            for v in range(clusters):  # of two rows at once: of one, LLVM makes masked stores
                top[g, h, v] = max(max(top[g, h, v], matrix[row, v]), matrix[last, v])


def _block_tables(problem: Problem, mass: np.ndarray, direct: np.ndarray) -> Tables:
    """The alias tables of the graphs and heads that are not ``direct``."""
    graphs, heads = problem.key_ptr.size - 1, problem.heads
    num_keys = 0 if direct.all() else int(problem.key_ptr[-1])
    shape = (heads, problem.clusters, num_keys)
    tables = Tables(np.empty(shape, np.uint8), np.empty(shape, np.int32), np.empty(shape, np.int32))
    if num_keys == 0:
        return tables
    groups = -(-problem.clusters // LANES)
    size = max(tables.alias.size, 1) // max(graphs * heads * groups, 1)
    parallel_for(
        lambda start, stop: _alias_tables(
            start, stop, problem.member, problem.key_ptr, mass, direct, tables
        ),
        ranges(graphs * heads * groups, 20_000 // max(size, 1)),
    )
    return tables


@jit
def _alias_tables(start, stop, member, key_ptr, mass, direct, tables):
    """Alias tables (Walker 1977; in one sweep as in Huebschle-Schneider and Sanders 2022) for
    LANES blocks at a time."""
    heads, clusters = tables.alias.shape[0], tables.alias.shape[1]
    num_keys = key_ptr[-1]
    groups = -(-clusters // LANES)
    longest = 0
    for g in range(key_ptr.size - 1):
        longest = max(longest, key_ptr[g + 1] - key_ptr[g])
    weight = np.empty((LANES, longest + 8))  # not all rows in the same cache sets
    order = np.empty(longest, np.int32)
    for unit in range(start, stop):
        g, rest = unit // (heads * groups), unit % (heads * groups)
        h, first = rest // groups, rest % groups * LANES
        low = key_ptr[g]
        m = key_ptr[g + 1] - low
        last = min(first + LANES, clusters)
        if direct[g, h]:
            continue
        for j in range(m):
            for v in range(first, last):
                weight[v - first, j] = member[h * num_keys + low + j, v]
        for v in range(first, last):
            total = mass[g, h, v]
            if total > 0:
                threshold = tables.threshold[h, v, low : low + m]
                alias = tables.alias[h, v, low : low + m]
                _alias_table(weight[v - first, :m], total, order, threshold, alias)
                for j in range(m):
                    tables.sure[h, v, low + j] = np.uint8(threshold[j] >> 23)


@inline
def _alias_table(weight, total, order, threshold, alias):
    m = weight.size
    light, heavy = 0, m
    for j in range(m):
        weight[j] = weight[j] / total * m  # shares first: the sum may be tiny
        is_light = weight[j] < 1.0
        order[light] = j
        order[heavy - 1] = order[heavy - 1] if is_light else j
        light += is_light
        heavy -= not is_light
    # ``order`` holds the light entries in front and the heavy ones, reversed, behind.
    for k in range(heavy, m):
        threshold[order[k]] = 2147483647
        alias[order[k]] = order[k]
    if heavy == m:
        for j in range(m):
            threshold[j] = 2147483647
            alias[j] = j
        return
    k = m - 1
    donor = order[k]
    left = weight[donor]
    for i in range(light):
        j = order[i]
        threshold[j] = np.int32(weight[j] * 2147483647.0)
        alias[j] = donor
        left -= 1.0 - weight[j]
        while left < 1.0 and k > heavy:
            k -= 1
            threshold[donor] = np.int32(max(left, 0.0) * 2147483647.0)
            alias[donor] = order[k]
            donor = order[k]
            left += weight[donor] - 1.0


def _shares(problem: Problem, largest: np.ndarray, direct: np.ndarray) -> np.ndarray:
    """Each key's membership in 256ths of the block's largest, rounded down, [H, K, m]: what decides
    nearly all of the rejections."""
    graphs, heads = problem.key_ptr.size - 1, problem.heads
    num_keys = int(problem.key_ptr[-1]) if direct.any() else 0
    share = np.empty((heads, problem.clusters, num_keys), np.uint8)
    groups = -(-problem.clusters // LANES)
    size = max(share.size, 1) // max(graphs * heads * groups, 1)
    parallel_for(
        lambda start, stop: _fill_shares(
            start, stop, problem.member, problem.key_ptr, largest, share
        ),
        ranges(graphs * heads * groups if num_keys else 0, 100_000 // max(size, 1)),
    )
    return share


@jit
def _fill_shares(start, stop, member, key_ptr, largest, share):
    """Walks LANES blocks of a graph and head at a time."""
    heads, clusters, num_keys = share.shape
    groups = -(-clusters // LANES)
    some, factor = np.empty((64, LANES), np.uint8), np.empty(LANES)
    for unit in range(start, stop):
        g, rest = unit // (heads * groups), unit % (heads * groups)
        h, first = rest // groups, rest % groups * LANES
        width = min(LANES, clusters - first)
        for v in range(width):
            top = largest[g, h, first + v]
            factor[v] = 256.0 / top if top > 0 else 256.0
        for low in range(key_ptr[g], key_ptr[g + 1], 64):  # few keys keep all blocks in cache
            count = min(64, key_ptr[g + 1] - low)
            for j in range(count):
                row = h * num_keys + low + j
                for v in range(width):
                    part = np.float64(member[row, first + v]) * factor[v]
                    some[j, v] = np.uint8(min(np.int32(part), np.int32(255)))
            for v in range(width):
                for j in range(count):
                    share[h, first + v, low + j] = some[j, v]
