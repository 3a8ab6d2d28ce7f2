"""Both sampling algorithms as compiled CPU kernels.

Random numbers are functions of (seed, graph, head, row, counter): a graph's sample depends neither
on the number of threads nor on its batch-mates.

Work is cut into *tiles*: rows (query vertices) of one head of one graph. A thread writes the sorted
edges of its rows into its own buffer; in the end all rows are copied to their place in the CSR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbmgraph.kernels._numba.bits import ranks, take_marks, trailing_zeros
from sbmgraph.kernels._numba.dots import dot, multiply
from sbmgraph.kernels._numba.jit import inline, jit
from sbmgraph.kernels._numba.lanes import LANES
from sbmgraph.kernels._numba.math import log
from sbmgraph.sampling._splitmix import mix, random_bits, stream
from sbmgraph.kernels._numba.threads import CHUNKS_PER_THREAD, parallel_for
from sbmgraph.sampling.reference import MAX_BOUND
from sbmgraph.sbm import SBM

TILE_ROWS = 512
"""Rows of a tile of fastRG."""

DENSE_ROWS = 64
"""Rows of a tile of the dense algorithm."""

PANEL = 2 * LANES
"""Keys whose probabilities the dense algorithm computes at once."""

TABLE_PAYS = 2.0
"""Rejected proposals per key and block from which alias tables are worth their construction."""

SORTED = 24
"""Up to so many keys of a row are sorted by insertion."""


class Problem(NamedTuple):
    """An SBM as arrays. Rows of the CSR are vertices, numbered ``node * heads + head``; rate and
    member lie head by head, so that one head's nodes lie together."""

    rate: np.ndarray  # [H * n, K], K padded to a multiple of LANES
    member: np.ndarray  # [H * m, K]
    query_ptr: np.ndarray  # [G + 1]
    key_ptr: np.ndarray
    graph: np.ndarray  # graph of each query node [n]
    heads: int
    clusters: int  # K before padding
    exploration: float
    seed: np.uint64
    expected: float  # edges, at most


def _problem(sbm: SBM, exploration: float, seed: int) -> Problem:
    missing = -sbm.num_clusters % LANES

    def padded(factor: Tensor) -> np.ndarray:
        flat = factor.detach().transpose(0, 1).reshape(-1, sbm.num_clusters)
        flat = torch.nn.functional.pad(flat, (0, missing)) if missing else flat
        return flat.contiguous().numpy()

    query_ptr, key_ptr = sbm.query_ptr.numpy(), sbm.key_ptr.numpy()
    graph = np.repeat(np.arange(sbm.num_graphs), np.diff(query_ptr))
    return Problem(
        padded(sbm.rate),
        padded(sbm.key_membership),
        query_ptr,
        key_ptr,
        graph,
        sbm.heads,
        sbm.num_clusters,
        float(exploration),
        np.uint64(seed),
        float(sbm.expected_edges(exploration).detach().sum()),
    )


def sample_fastrg(sbm: SBM, law: str, exploration: float, seed: int) -> tuple[Tensor, Tensor]:
    """fastRG by rows, as :func:`sbmgraph.sampling.reference.sample_fastrg`.

    A row makes Poisson many proposals; each picks a block in proportion to the row's rates, and a
    key by the block's alias table, or by rejection from uniform keys.
    """
    problem = _problem(sbm, exploration, seed)
    blocks = _blocks(problem)
    num_rows = problem.rate.shape[0]
    excess = np.empty(num_rows)
    bernoulli = law == "bernoulli"
    parallel_for(
        lambda start, stop: _row_excess(
            start, stop, problem, blocks.largest, MAX_BOUND[law], bernoulli, excess
        ),
        _split(num_rows, 10_000),
    )
    order = _by_group(problem)
    is_dense = excess[order] == 0
    count = np.zeros(num_rows, np.int64)
    parts = []
    if is_dense.any():
        parts += _dense_parts(problem, order[is_dense], law, count)
        order = order[~is_dense]
    tiles = _tiles(problem, order, TILE_ROWS)
    args = (problem, blocks, excess, bernoulli, count)
    parts += _collect(_fastrg_tiles, tiles, order, problem, *args)
    return _assemble(count, parts)


def sample_dense(sbm: SBM, law: str, exploration: float, seed: int) -> tuple[Tensor, Tensor]:
    """Compares the probability of every pair with a random number, a panel of keys at a time."""
    problem = _problem(sbm, exploration, seed)
    count = np.zeros(problem.rate.shape[0], np.int64)
    parts = _dense_parts(problem, _by_group(problem), law, count)
    return _assemble(count, parts)


# Work #############################################################################################


class Part(NamedTuple):
    """Edges that one thread found: of ``rows``, one row after the other."""

    rows: np.ndarray
    col: np.ndarray


def _split(total: int, least: int) -> list[tuple[int, int]]:
    """Equal ranges, several a thread, of at least ``least`` items where there are so many."""
    threads = torch.get_num_threads()
    chunks = min(threads * CHUNKS_PER_THREAD, max(total // max(least, 1), 1))
    chunks = 1 if threads == 1 else chunks
    edges = [total * i // chunks for i in range(chunks + 1)]
    return [(a, b) for a, b in pairwise(edges) if a < b]


def _by_group(problem: Problem) -> np.ndarray:
    """All rows, in order of graph, head, node."""
    rows = np.arange(problem.rate.shape[0])
    if problem.query_ptr.size == 2:
        return rows.reshape(-1, problem.heads).T.ravel()
    group = np.repeat(problem.graph, problem.heads) * problem.heads + rows % problem.heads
    return np.argsort(group, kind="stable")


def _tiles(problem: Problem, rows: np.ndarray, height: int) -> np.ndarray:
    """Cuts ``rows``, in order of graph, head, node, into tiles: [tiles, 4] of graph, head, first,
    last."""
    group = problem.graph[rows // problem.heads] * problem.heads + rows % problem.heads
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(starts, append=rows.size)
    graph, head = group[starts] // problem.heads, group[starts] % problem.heads
    tiles = -(-sizes // height)
    which = np.repeat(np.arange(starts.size), tiles)
    number = np.arange(which.size) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    first = starts[which] + number * height
    last = np.minimum(first + height, (starts + sizes)[which])
    return np.stack([graph[which], head[which], first, last], axis=1)


def _collect(
    kernel: Callable[..., np.ndarray],
    tiles: np.ndarray,
    rows: np.ndarray,
    problem: Problem,
    *args: Any,
) -> list[Part]:
    """Runs ``kernel`` over ranges of tiles, each with a buffer for somewhat more than its share of
    the expected edges."""
    parts: list[Part] = []
    share = 1.2 * problem.expected / max(problem.rate.shape[0], 1)

    def work(start: int, stop: int) -> None:
        mine = rows[tiles[start, 2] : tiles[stop - 1, 3]]
        found = np.empty(int(share * mine.size) + 1024, np.int32)
        parts.append(Part(mine, kernel(start, stop, tiles, rows, found, *args)))

    parallel_for(work, _split(len(tiles), 1))
    return parts


def _assemble(count: np.ndarray, parts: list[Part]) -> tuple[Tensor, Tensor]:
    rowptr = torch.zeros(count.size + 1, dtype=torch.int64)
    np.cumsum(count, out=rowptr.numpy()[1:])
    col = torch.empty(int(rowptr[-1]), dtype=torch.int32)
    parallel_for(lambda rows, found: _copy_rows(rows, found, rowptr.numpy(), col.numpy()), parts)
    return rowptr, col


@jit
def _copy_rows(rows, found, rowptr, col):
    e = 0
    for row in rows:
        for target in range(rowptr[row], rowptr[row + 1]):
            col[target] = found[e]
            e += 1


# fastRG ###########################################################################################


class Blocks(NamedTuple):
    """How the keys of every block are drawn.

    A proposal of a head that is ``direct`` takes a uniform key and keeps it with probability
    membership / ``largest``, one of another takes a key from the block's alias table.
    """

    direct: np.ndarray  # boolean [G, H]
    mass: np.ndarray  # proposals for a rate of 1 [G, H, K]
    largest: np.ndarray  # membership [G, H, K]
    table: np.ndarray  # [H, K, m, 2], see _alias_tables
    share: np.ndarray  # [H, K, m], see _shares


def _blocks(problem: Problem) -> Blocks:
    mass, largest = _block_sums(problem, problem.member, problem.key_ptr)
    # Few rejections do not repay tables.
    weight, _ = _block_sums(problem, problem.rate, problem.query_ptr)
    num_keys = np.diff(problem.key_ptr)[:, None]
    most = num_keys[:, None] * largest
    rejected = (weight * (most - mass)).sum(-1)
    direct = rejected <= TABLE_PAYS * num_keys * problem.clusters
    return Blocks(
        direct,
        np.where(direct[:, :, None], most, mass),
        largest,
        _block_tables(problem, mass, direct),
        _shares(problem, largest, direct),
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
        _split(units, 100_000 * units // max(matrix.size, 1)),
    )
    return total, top


@jit
def _column_sums(start, stop, matrix, ptr, total, top):
    heads, clusters = total.shape[1], total.shape[2]
    for unit in range(start, stop):
        g, h = unit // heads, unit % heads
        for node in range(ptr[g], ptr[g + 1]):
            row = h * ptr[-1] + node
            for v in range(clusters):
                total[g, h, v] += matrix[row, v]
                top[g, h, v] = max(top[g, h, v], matrix[row, v])


def _block_tables(problem: Problem, mass: np.ndarray, direct: np.ndarray) -> np.ndarray:
    """The alias tables of the graphs and heads that are not ``direct``: [H, K, m, 2] of (threshold
    in units of 2^-31, alias)."""
    graphs, heads = problem.key_ptr.size - 1, problem.heads
    num_keys = 0 if direct.all() else int(problem.key_ptr[-1])
    table = np.empty((heads, problem.clusters, num_keys, 2), np.int32)
    if num_keys == 0:
        return table
    groups = -(-problem.clusters // LANES)
    size = max(table.size // 2, 1) // max(graphs * heads * groups, 1)
    parallel_for(
        lambda start, stop: _alias_tables(
            start, stop, problem.member, problem.key_ptr, mass, direct, table
        ),
        _split(graphs * heads * groups, 20_000 // max(size, 1)),
    )
    return table


@jit
def _alias_tables(start, stop, member, key_ptr, mass, direct, table):
    """Alias tables (Walker 1977; in one sweep as in Huebschle-Schneider and Sanders 2022) for
    LANES blocks at a time."""
    heads, clusters = table.shape[0], table.shape[1]
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
                _alias_table(weight[v - first, :m], m / total, order, table[h, v, low : low + m])


@inline
def _alias_table(weight, factor, order, table):
    m = weight.size
    light, heavy = 0, m
    for j in range(m):
        weight[j] *= factor
        is_light = weight[j] < 1.0
        order[light] = j
        order[heavy - 1] = order[heavy - 1] if is_light else j
        light += is_light
        heavy -= not is_light
    # ``order`` holds the light entries in front and the heavy ones, reversed, behind.
    for k in range(heavy, m):
        table[order[k], 0] = 2147483647
        table[order[k], 1] = order[k]
    if heavy == m:
        for j in range(m):
            table[j, 0] = 2147483647
            table[j, 1] = j
        return
    k = m - 1
    donor = order[k]
    left = weight[donor]
    for i in range(light):
        j = order[i]
        table[j, 0] = np.int32(weight[j] * 2147483647.0)
        table[j, 1] = donor
        left -= 1.0 - weight[j]
        while left < 1.0 and k > heavy:
            k -= 1
            table[donor, 0] = np.int32(max(left, 0.0) * 2147483647.0)
            table[donor, 1] = order[k]
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
        _split(graphs * heads * groups if num_keys else 0, 100_000 // max(size, 1)),
    )
    return share


@jit
def _fill_shares(start, stop, member, key_ptr, largest, share):
    heads, clusters, num_keys = share.shape
    groups = -(-clusters // LANES)
    for unit in range(start, stop):
        g, rest = unit // (heads * groups), unit % (heads * groups)
        h, first = rest // groups, rest % groups * LANES
        for low in range(key_ptr[g], key_ptr[g + 1], 64):  # few keys keep all blocks in cache
            high = min(low + 64, key_ptr[g + 1])
            for v in range(first, min(first + LANES, clusters)):
                top = largest[g, h, v]
                factor = member.dtype.type(256.0 / top if top > 0 else 0.0)
                for j in range(low, high):
                    part = member[h * num_keys + j, v] * factor
                    share[h, v, j] = np.uint8(min(np.int32(part), np.int32(255)))


@jit
def _row_excess(start, stop, problem, largest, most, bernoulli, excess):
    """How many proposals a row makes for each expected edge, so that thinning can leave the right
    law; 0 where only the dense algorithm can."""
    num_queries = problem.query_ptr[-1]
    for place in range(start, stop):
        h, node = place // num_queries, place % num_queries
        g, r = problem.graph[node], node * problem.heads + h
        bound = problem.exploration
        for v in range(problem.clusters):
            bound += problem.rate[place, v] * largest[g, h, v]
        if bound > most:
            excess[r] = 0.0
        elif bernoulli and bound > 1e-12:
            excess[r] = -math.log1p(-bound) / bound
        else:
            excess[r] = 1.0


@inline
def _cumulate(rate, place, factor, mass, explored, cumulative):
    """The proposals that a row expects from the blocks up to each, and from exploration last."""
    total = 0.0
    for v in range(mass.size):
        total += factor * np.float64(rate[place, v]) * mass[v]
        cumulative[v] = total
    cumulative[mass.size] = total + explored


@inline
def _arrivals(cumulative, key, arrival, hits):
    """A Poisson process over the row of blocks, each as wide as the proposals expected from it:
    writes the block of each arrival, in order. Returns how many arrivals there are and the buffers,
    which grow as needed."""
    total = cumulative[-1]
    size, at = 0, 0.0
    while at < total:
        if size + LANES > arrival.size:
            longer = np.empty(2 * size + LANES)
            longer[:size] = arrival[:size]
            arrival = longer
        for i in range(size, size + LANES):
            bits = random_bits(key, i)
            coarse = np.float32(bits >> np.uint64(40)) + np.float32(0.5)
            fine = np.float32((bits >> np.uint64(16)) & np.uint64(0xFFFFFF)) * np.float32(2.0**-24)
            # -log(u) of u = (coarse + fine - 1/2) / 2^24, the small part to first order
            gap = np.float64(log(coarse * np.float32(2.0**-24)))
            arrival[i] = np.float64((np.float32(0.5) - fine) / coarse) - gap
        for i in range(size, size + LANES):
            at += arrival[i]
            arrival[i] = at
        size += LANES
    if size > hits.size:
        hits = np.empty(arrival.size, np.int32)
    low = 0
    for first in range(0, size, LANES):
        high = low
        while high < cumulative.size and cumulative[high] < arrival[first + LANES - 1]:
            high += 1
        ranks(cumulative, low, high, arrival, first, hits)
        low = high
    while size > 0 and hits[size - 1] == cumulative.size:
        size -= 1
    return size, arrival, hits


@inline
def _draw(count, m, key, drawn, part):
    """Uniform keys, and what is left of each random number in units of 2^-31."""
    for i in range(count):
        random = np.int64(random_bits(key, i) >> np.uint64(11))
        x = np.float64(random) * 2.0**-53 * m
        drawn[i] = np.int32(x)
        part[i] = np.int32((x - np.float64(drawn[i])) * 2147483648.0)


@inline
def _by_table(hits, count, h, low, table, drawn, part, chosen):
    """Turns the uniform keys of ``count`` hits into keys of their blocks by alias tables."""
    for i in range(count):
        j, v = np.uint64(low + drawn[i]), np.uint64(hits[i])
        threshold, alias = table[h, v, j, 0], table[h, v, j, 1]
        chosen[i] = drawn[i] if part[i] < threshold else alias


@inline
def _by_rejection(hits, count, h, low, share, member, largest, drawn, part, unsure, chosen):
    """Chooses among the uniform keys of ``count`` hits those that are kept; returns how many."""
    kept, doubtful = 0, 0
    for i in range(count):  # without branches: the memory accesses overlap
        j, v = np.uint64(low + drawn[i]), np.uint64(hits[i])
        limit, known = part[i] >> 23, np.int32(share[h, v, j])
        chosen[kept] = drawn[i]
        kept += int(limit < known)
        unsure[doubtful] = i
        doubtful += int(limit == known)
    base = h * share.shape[2] + low
    for i in range(doubtful):
        at = unsure[i]
        z = member[base + drawn[at], hits[at]]
        chosen[kept] = drawn[at]
        kept += int(part[at] * (2.0**-31 * largest[hits[at]]) < z)
    return kept


@inline
def _sort(values, count):
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
def _sort_by_marks(values, count, m, marks, groups):
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
def _thin(found, start, stop, problem, place, base, excess, key, random, unsure):
    """Keeps each proposed edge of a row with probability ``p / (1 - exp(-excess * p))``.

    That is at least ``1 / excess``, so most edges stay before their ``p`` is known.
    """
    width = problem.rate.shape[1]
    for t in range(stop - start):
        random[t] = np.float64(np.int64(random_bits(key, t) >> np.uint64(11))) * 2.0**-53
    open_ = 0
    for t in range(stop - start):
        unsure[open_] = t
        open_ += int(random[t] * excess >= 1.0)
    if open_ == 0:
        return stop
    for i in range(0, open_, 4):
        vertices = (
            base + found[start + unsure[i]],
            base + found[start + unsure[min(i + 1, open_ - 1)]],
            base + found[start + unsure[min(i + 2, open_ - 1)]],
            base + found[start + unsure[min(i + 3, open_ - 1)]],
        )
        probs = dot(problem.rate, place, problem.member, vertices, 0, width)
        for q in range(min(4, open_ - i)):
            t = unsure[i + q]
            p = problem.exploration + probs[q]
            if random[t] * (1.0 - math.exp(-excess * p)) >= p:
                random[t] = -1.0
    kept = start
    for t in range(stop - start):
        found[kept] = found[start + t]
        kept += int(random[t] >= 0.0)
    return kept


@jit
def _fastrg_tiles(start, stop, tiles, rows, found, problem, blocks, excess, bernoulli, count):
    query_ptr, key_ptr, heads = problem.query_ptr, problem.key_ptr, problem.heads
    clusters = problem.clusters
    cumulative = np.empty(clusters + 1)
    arrival, hits, random = np.empty(0), np.empty(0, np.int32), np.empty(0)
    drawn, part, chosen, unsure = np.empty((4, 0), np.int32)
    longest = 0
    for g in range(key_ptr.size - 1):
        longest = max(longest, key_ptr[g + 1] - key_ptr[g])
    marks = np.zeros((longest + 63) >> 6 << 6, np.uint8)
    groups = np.zeros((longest + 4095) >> 12 << 6, np.uint8)
    size = 0
    for tile in range(start, stop):
        g, h, first, last = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2], tiles[tile, 3]
        low = key_ptr[g]
        m = key_ptr[g + 1] - low
        if m == 0:
            continue
        mass, largest, base = blocks.mass[g, h], blocks.largest[g, h], h * key_ptr[-1]
        for r in range(first, last):
            row = rows[r]
            node = row // heads
            place = h * query_ptr[-1] + node
            key = stream(problem.seed, g, h, node - query_ptr[g])
            explored = problem.exploration * excess[row] * m
            _cumulate(problem.rate, place, excess[row], mass, explored, cumulative)
            arrivals, arrival, hits = _arrivals(cumulative, mix(key ^ np.uint64(1)), arrival, hits)
            if arrivals > random.size:
                random = np.empty(2 * arrivals)
                # Not a multiple of 4 KiB apart: loads would wait for stores at the same offset.
                drawn, part, chosen, unsure = np.empty((4, 2 * arrivals | 80), np.int32)
            _draw(arrivals, m, key, drawn, part)
            proposals = arrivals
            while proposals > 0 and hits[proposals - 1] == clusters:
                proposals -= 1
            if blocks.direct[g, h]:
                kept = _by_rejection(
                    hits, proposals, h, low, blocks.share, problem.member, largest, drawn, part,
                    unsure, chosen,
                )  # fmt: skip
            else:
                _by_table(hits, proposals, h, low, blocks.table, drawn, part, chosen)
                kept = proposals
            for i in range(proposals, arrivals):
                chosen[kept] = drawn[i]
                kept += 1
            if kept > SORTED:
                kept = _sort_by_marks(chosen, kept, m, marks, groups)
            else:
                kept = _sort(chosen, kept)
            if size + kept > found.size:
                larger = np.empty(2 * found.size + kept, np.int32)
                larger[:size] = found[:size]
                found = larger
            for i in range(kept):
                found[size + i] = low + chosen[i]
            before, size = size, size + kept
            if bernoulli:
                size = _thin(
                    found, before, size, problem, place, base, excess[row],
                    mix(key ^ np.uint64(2)), random, unsure,
                )  # fmt: skip
            count[row] = size - before
    return found[:size]


# Dense ############################################################################################


def _dense_parts(problem: Problem, rows: np.ndarray, law: str, count: np.ndarray) -> list[Part]:
    panel_ptr = np.zeros_like(problem.key_ptr)
    np.cumsum(-(-np.diff(problem.key_ptr) // PANEL), out=panel_ptr[1:])
    depth = problem.rate.shape[1]
    num_panels = int(panel_ptr[-1])
    panels = np.empty((problem.heads * num_panels * depth, PANEL), problem.member.dtype)
    parallel_for(
        lambda start, stop: _pack_panels(
            start, stop, problem.member, problem.key_ptr, panel_ptr, problem.heads, panels
        ),
        _split(problem.key_ptr.size - 1, 1),
    )
    tiles = _tiles(problem, rows, DENSE_ROWS)
    args = (problem, panels, panel_ptr, law == "poisson", count)
    return _collect(_dense_tiles, tiles, rows, problem, *args)


@jit
def _pack_panels(start, stop, member, key_ptr, panel_ptr, heads, panels):
    """Lays the memberships of PANEL keys out as [K, PANEL], for each head and stretch of keys."""
    depth = member.shape[1]
    num_panels = panel_ptr[-1]
    for g in range(start, stop):
        for h in range(heads):
            for p in range(panel_ptr[g + 1] - panel_ptr[g]):
                base = (h * num_panels + panel_ptr[g] + p) * depth
                low = key_ptr[g] + p * PANEL
                width = min(PANEL, key_ptr[g + 1] - low)
                for t in range(width):
                    for k in range(depth):
                        panels[base + k, t] = member[h * key_ptr[-1] + low + t, k]
                for t in range(width, PANEL):
                    for k in range(depth):
                        panels[base + k, t] = 0


@inline
def _compare(prob, q, key, counter, exploration, poisson, random):
    """One bit for each probability of a panel: whether it passes its random number."""
    one = prob.dtype.type(1)
    for t in range(PANEL):
        prob[q, t] += exploration
    if poisson:
        for t in range(PANEL):
            prob[q, t] = one - math.exp(-min(prob[q, t], one))
    for t in range(LANES):
        bits = random_bits(key, counter + t)
        random[t] = np.uint32(bits)
        random[LANES + t] = np.uint32(bits >> np.uint64(32))
    out = np.uint32(0)
    for t in range(PANEL):
        p = prob[q, t]
        threshold = np.uint32(min(p, one - one / 16777216) * prob.dtype.type(4294967296.0))
        passes = (random[t] < threshold) | (p >= one)
        out |= np.uint32(passes) << np.uint32(t)
    return out


@jit
def _dense_tiles(start, stop, tiles, rows, found, problem, panels, panel_ptr, poisson, count):
    rate, heads = problem.rate, problem.heads
    query_ptr, key_ptr = problem.query_ptr, problem.key_ptr
    exploration = rate.dtype.type(problem.exploration)
    depth = rate.shape[1]
    num_panels = panel_ptr[-1]
    size = 0
    longest = 0
    for g in range(panel_ptr.size - 1):
        longest = max(longest, panel_ptr[g + 1] - panel_ptr[g])
    bitmap = np.empty((DENSE_ROWS, longest), np.uint32)
    prob = np.empty((4, PANEL), rate.dtype)
    random = np.empty(PANEL, np.uint32)
    key, place = np.empty(DENSE_ROWS, np.uint64), np.empty(DENSE_ROWS, np.int64)
    for tile in range(start, stop):
        g, h, first, last = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2], tiles[tile, 3]
        low, m = key_ptr[g], key_ptr[g + 1] - key_ptr[g]
        height, mine = last - first, panel_ptr[g + 1] - panel_ptr[g]
        for r in range(height):
            node = rows[first + r] // heads
            key[r] = stream(~problem.seed, g, h, node - query_ptr[g])
            place[r] = h * query_ptr[-1] + node
        for p in range(mine):
            base = (h * num_panels + panel_ptr[g] + p) * depth
            valid = np.uint32(0xFFFFFFFF)
            if m - p * PANEL < PANEL:
                valid = np.uint32((1 << (m - p * PANEL)) - 1)
            for r in range(0, height, 4):
                four = (
                    place[r],
                    place[min(r + 1, height - 1)],
                    place[min(r + 2, height - 1)],
                    place[min(r + 3, height - 1)],
                )
                multiply(rate, four, panels, base, depth, prob)
                for q in range(min(4, height - r)):
                    passes = _compare(prob, q, key[r + q], p * LANES, exploration, poisson, random)
                    bitmap[r + q, p] = passes & valid
        for r in range(height):
            need = mine * PANEL
            if size + need > found.size:
                larger = np.empty(2 * found.size + need, np.int32)
                larger[:size] = found[:size]
                found = larger
            before = size
            for p in range(mine):
                word = np.uint64(bitmap[r, p])
                while word:
                    found[size] = low + p * PANEL + np.int64(trailing_zeros(word))
                    word &= word - np.uint64(1)
                    size += 1
            count[rows[first + r]] = size - before
    return found[:size]
