"""Both sampling algorithms as compiled CPU kernels.

Random numbers are functions of (seed, graph, head, row or tile of rows, counter): a graph's sample
depends neither on the number of threads nor on its batch-mates.

Work is cut into *tiles*: rows (query vertices) of one head of one graph. A tile marks its edges in
a bitmap, which merges repetitions and sorts, and reads it out into a buffer; at the end all rows
are copied to their place in the CSR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbmgraph._jit import (
    LANES,
    dot,
    inline,
    jit,
    log,
    mix,
    multiply,
    random_bits,
    stream,
    trailing_zeros,
)
from sbmgraph.ops.threads import CHUNKS_PER_THREAD, parallel_for
from sbmgraph.sampling.reference import MAX_BOUND
from sbmgraph.sbm import SBM

TILE_ROWS = 512
TILE_BITS = 2**24
"""A tile's bitmap has at most this many bits, or one row."""

PANEL = 2 * LANES
"""Keys whose probabilities the dense algorithm computes at once."""

TABLE_PAYS = 2.0
"""Proposals per key from which an alias table is worth its construction."""

DENSE_ROWS = 64
HITS = 1024
EXPONENTIALS = 256


class Problem(NamedTuple):
    """An SBM as arrays; vertices are numbered ``node * heads + head``."""

    rate: np.ndarray  # [n * H, K], K padded to a multiple of LANES
    member: np.ndarray  # [H * m, K], head by head: one head's keys lie together
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
        flat = factor.detach().flatten(0, 1)
        flat = torch.nn.functional.pad(flat, (0, missing)) if missing else flat
        return flat.contiguous().numpy()

    query_ptr, key_ptr = sbm.query_ptr.numpy(), sbm.key_ptr.numpy()
    graph = np.repeat(np.arange(sbm.num_graphs), np.diff(query_ptr))
    return Problem(
        padded(sbm.rate),
        padded(sbm.key_membership.transpose(0, 1)),
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

    The proposals of a tile through one block are a Poisson process: its points fall on the rows
    laid end to end, each as long as its rate, a unit exponential apart; the key of each is drawn
    from the block's alias table, which stays in cache meanwhile.
    """
    problem = _problem(sbm, exploration, seed)
    mass, largest = _block_sums(problem, problem.member, problem.key_ptr, head_first=True)
    num_rows = problem.rate.shape[0]
    excess = np.empty(num_rows)
    bernoulli = law == "bernoulli"
    parallel_for(
        lambda start, stop: _row_excess(
            start,
            stop,
            problem.rate,
            problem.graph,
            largest,
            problem.heads,
            problem.clusters,
            problem.exploration,
            MAX_BOUND[law],
            bernoulli,
            excess,
        ),
        _split(num_rows, 10_000),
    )
    # Few proposals do not repay a table: theirs are uniform keys, kept in proportion to membership.
    weight, _ = _block_sums(problem, problem.rate, problem.query_ptr, head_first=False)
    direct = weight * largest < TABLE_PAYS
    table = _block_tables(problem, mass, direct)
    mass = np.where(direct, np.diff(problem.key_ptr)[:, None, None] * largest, mass)
    order = _by_group(problem)
    is_dense = excess[order] == 0
    count = np.zeros(num_rows, np.int64)
    parts = []
    if is_dense.any():
        parts += _dense_parts(problem, order[is_dense], law, count)
        order = order[~is_dense]
    tiles = _tiles(problem, order, TILE_ROWS, TILE_BITS)
    parts += _collect(
        _fastrg_tiles,
        tiles,
        order,
        problem,
        problem.rate,
        problem.member,
        problem.key_ptr,
        excess,
        table,
        mass,
        largest,
        direct,
        problem.heads,
        problem.clusters,
        problem.exploration,
        problem.seed,
        bernoulli,
        count,
    )
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


def _tiles(problem: Problem, rows: np.ndarray, most_rows: int, most_bits: int) -> np.ndarray:
    """Cuts ``rows``, in order of graph, head, node, into tiles: [tiles, 5] of graph, head, first,
    last, number of the tile in its graph and head."""
    group = problem.graph[rows // problem.heads] * problem.heads + rows % problem.heads
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(starts, append=rows.size)
    graph, head = group[starts] // problem.heads, group[starts] % problem.heads
    keys = np.diff(problem.key_ptr)[graph]
    height = np.clip(most_bits // np.maximum(keys, 1), 1, most_rows)
    tiles = -(-sizes // height)
    which = np.repeat(np.arange(starts.size), tiles)
    number = np.arange(which.size) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    first = starts[which] + number * height[which]
    last = np.minimum(first + height[which], (starts + sizes)[which])
    return np.stack([graph[which], head[which], first, last, number], axis=1)


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


def _block_sums(
    problem: Problem, matrix: np.ndarray, ptr: np.ndarray, head_first: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and maximum of each block's column over the nodes of each graph and head, [G, H, K]."""
    shape = (ptr.size - 1, problem.heads, problem.clusters)
    total, top = np.zeros(shape), np.zeros(shape)
    steps = (1, int(ptr[-1])) if head_first else (problem.heads, 1)
    units = shape[0] * shape[1]
    parallel_for(
        lambda start, stop: _column_sums(start, stop, matrix, ptr, *steps, total, top),
        _split(units, 100_000 * units // max(matrix.size, 1)),
    )
    return total, top


@jit
def _column_sums(start, stop, matrix, ptr, node_step, head_step, total, top):
    heads, clusters = total.shape[1], total.shape[2]
    for unit in range(start, stop):
        g, h = unit // heads, unit % heads
        for node in range(ptr[g], ptr[g + 1]):
            row = node * node_step + h * head_step
            for v in range(clusters):
                total[g, h, v] += matrix[row, v]
                top[g, h, v] = max(top[g, h, v], matrix[row, v])


def _block_tables(problem: Problem, mass: np.ndarray, direct: np.ndarray) -> np.ndarray:
    """The alias table of every graph, head and block that is not ``direct``: [H, K, m, 2] of
    (threshold in units of 2^-31, alias)."""
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
        if direct[g, h, first:last].all():
            continue
        for j in range(m):
            for v in range(first, last):
                weight[v - first, j] = member[h * num_keys + low + j, v]
        for v in range(first, last):
            total = mass[g, h, v]
            if total > 0 and not direct[g, h, v]:
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


@jit
def _row_excess(
    start, stop, rate, graph, largest, heads, clusters, exploration, most, bernoulli, excess
):
    """How many proposals a row makes for each expected edge, so that thinning can leave the right
    law; 0 where only the dense algorithm can."""
    for r in range(start, stop):
        g, h = graph[r // heads], r % heads
        bound = exploration
        for v in range(clusters):
            bound += rate[r, v] * largest[g, h, v]
        if bound > most:
            excess[r] = 0.0
        elif bernoulli and bound > 1e-12:
            excess[r] = -math.log1p(-bound) / bound
        else:
            excess[r] = 1.0


@inline
def _refill(exponential, key, counter):
    for i in range(exponential.size):
        u = np.float32(random_bits(key, counter + i) >> np.uint64(40))
        exponential[i] = -log((u + np.float32(0.5)) * np.float32(2.0**-24))


@inline
def _place(
    hits, count, table, member, base, block, top, m, key, counter, bitmap, words, summary,
    summary_words, drawn, part,
):  # fmt: skip
    """Draws a key for every hit row and marks the edge: by alias table; or where that is empty a
    uniform key, kept with probability membership / ``top`` (always, if ``top`` is 0)."""
    # One short loop for each step: the arithmetic vectorises, the memory accesses overlap.
    for i in range(count):
        random = np.int64(random_bits(key, counter + i) >> np.uint64(11))
        x = np.float64(random) * 2.0**-53 * m
        drawn[i] = np.int32(x)
        part[i] = np.int32((x - np.float64(drawn[i])) * 2147483648.0)
    if table.shape[0]:
        for i in range(count):
            j = drawn[i]
            alias = table[np.uint32(j), 1]
            drawn[i] = j if part[i] < table[np.uint32(j), 0] else alias
    elif top > 0:
        kept = 0
        for i in range(count):
            j = drawn[i]
            hits[kept], drawn[kept] = hits[i], j
            limit = np.float64(part[i]) * (2.0**-31 * top)
            kept += int(limit < member[np.uint64(base + j), block])
        count = kept
    for i in range(count):
        j = np.uint64(drawn[i])
        word = np.uint64(hits[i]) * words + (j >> np.uint64(6))
        bitmap[word] |= np.uint64(1) << (j & np.uint64(63))
    for i in range(count):
        word = np.uint64(drawn[i]) >> np.uint64(6)
        at = np.uint64(hits[i]) * summary_words + (word >> np.uint64(6))
        summary[at] |= np.uint64(1) << (word & np.uint64(63))


@inline
def _thin(
    found, start, stop, rate, row, member, base, exploration, excess, key, counter, random, unsure
):
    """Keeps each proposed edge of a row with probability ``p / (1 - exp(-excess * p))``.

    That is at least ``1 / excess``, so most edges stay before their ``p`` is known.
    """
    width = rate.shape[1]
    for t in range(stop - start):
        random[t] = np.float64(np.int64(random_bits(key, counter + t) >> np.uint64(11)))
        random[t] *= 2.0**-53
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
        probs = dot(rate, row, member, vertices, 0, width)
        for q in range(min(4, open_ - i)):
            t = unsure[i + q]
            p = exploration + probs[q]
            if random[t] * (1.0 - math.exp(-excess * p)) >= p:
                random[t] = -1.0
    kept = start
    for t in range(stop - start):
        found[kept] = found[start + t]
        kept += int(random[t] >= 0.0)
    return kept


@jit
def _fastrg_tiles(
    start,
    stop,
    tiles,
    rows,
    found,
    rate,
    member,
    key_ptr,
    excess,
    table,
    mass,
    largest,
    direct,
    heads,
    clusters,
    exploration,
    seed,
    bernoulli,
    count,
):
    random, unsure = np.empty(1024), np.empty(1024, np.int32)
    uniform_table = np.empty((0, 2), np.int32)
    hits, drawn, part = np.empty((3, HITS), np.int32)
    exponential = np.empty(EXPONENTIALS, np.float32)
    size = 0
    bits, summary_bits, most_rows = 0, 0, 0
    for tile in range(start, stop):
        height = tiles[tile, 3] - tiles[tile, 2]
        words = (key_ptr[tiles[tile, 0] + 1] - key_ptr[tiles[tile, 0]] + 63) >> 6
        most_rows = max(most_rows, height)
        bits = max(bits, height * words)
        summary_bits = max(summary_bits, height * ((words + 63) >> 6))
    bitmap = np.zeros(bits, np.uint64)
    summary = np.zeros(summary_bits, np.uint64)
    length = np.empty((clusters + 1, most_rows + 8))
    for tile in range(start, stop):
        g, h, first, last = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2], tiles[tile, 3]
        low = key_ptr[g]
        m = key_ptr[g + 1] - low
        height = last - first
        if m == 0:
            continue
        words = (m + 63) >> 6
        summary_words = (words + 63) >> 6
        key = stream(seed, g, h, tiles[tile, 4])
        gap_key = mix(key ^ np.uint64(1))
        thin_key = mix(key ^ np.uint64(2))
        base = h * key_ptr[-1]
        total = mass[g, h]
        for low_row in range(0, height, 8):  # short stretches keep both sides in cache
            for v in range(clusters):
                for r in range(low_row, min(low_row + 8, height)):
                    row = rows[first + r]
                    length[v, r] = rate[row, v] * (excess[row] * total[v])
        for r in range(height):
            length[clusters, r] = exploration * excess[rows[first + r]] * m
        _refill(exponential, gap_key, 0)
        used, gaps, proposals = 1, EXPONENTIALS, 0
        gap = np.float64(exponential[0])
        for v in range(clusters + 1):
            block, top = uniform_table, 0.0
            if v < clusters and direct[g, h, v]:
                top = largest[g, h, v]
            elif v < clusters:
                block = table[h, v, low : low + m]
            waiting = 0
            for r in range(height):
                here = length[v, r]
                while gap < here:
                    hits[waiting] = r
                    waiting += 1
                    if waiting == HITS:
                        _place(
                            hits, HITS, block, member, base + low, v, top, m, key, proposals,
                            bitmap, np.uint64(words), summary, np.uint64(summary_words), drawn,
                            part,
                        )  # fmt: skip
                        proposals += HITS
                        waiting = 0
                    if used == EXPONENTIALS:
                        _refill(exponential, gap_key, gaps)
                        gaps += EXPONENTIALS
                        used = 0
                    gap += exponential[used]
                    used += 1
                gap -= here
            _place(
                hits, waiting, block, member, base + low, v, top, m, key, proposals,
                bitmap, np.uint64(words), summary, np.uint64(summary_words), drawn,
                part,
            )  # fmt: skip
            proposals += waiting
        if size + proposals > found.size:
            larger = np.empty(max(2 * found.size, size + proposals), np.int32)
            larger[:size] = found[:size]
            found = larger
        thinned = 0
        for r in range(height):
            row = rows[first + r]
            before = size
            for s in range(summary_words):
                present = summary[r * summary_words + s]
                summary[r * summary_words + s] = 0
                while present:
                    w = s * 64 + np.int64(trailing_zeros(present))
                    present &= present - np.uint64(1)
                    word = bitmap[r * words + w]
                    bitmap[r * words + w] = 0
                    while word:
                        j = low + w * 64 + np.int64(trailing_zeros(word))
                        word &= word - np.uint64(1)
                        found[size] = j
                        size += 1
            if bernoulli:
                if size - before > random.size:
                    random = np.empty(2 * (size - before))
                    unsure = np.empty(2 * (size - before), np.int32)
                proposed = size - before
                size = _thin(
                    found, before, size, rate, row, member, base, exploration, excess[row],
                    thin_key, thinned, random, unsure,
                )  # fmt: skip
                thinned += proposed
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
    tiles = _tiles(problem, rows, DENSE_ROWS, 2**62)
    return _collect(
        _dense_tiles,
        tiles,
        rows,
        problem,
        problem.rate,
        panels,
        problem.query_ptr,
        problem.key_ptr,
        panel_ptr,
        problem.heads,
        problem.rate.dtype.type(problem.exploration),
        problem.seed,
        law == "poisson",
        count,
    )


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
def _dense_tiles(
    start,
    stop,
    tiles,
    rows,
    found,
    rate,
    panels,
    query_ptr,
    key_ptr,
    panel_ptr,
    heads,
    exploration,
    seed,
    poisson,
    count,
):
    depth = rate.shape[1]
    num_panels = panel_ptr[-1]
    size = 0
    longest = 0
    for g in range(panel_ptr.size - 1):
        longest = max(longest, panel_ptr[g + 1] - panel_ptr[g])
    bitmap = np.empty((DENSE_ROWS, longest), np.uint32)
    prob = np.empty((4, PANEL), rate.dtype)
    random = np.empty(PANEL, np.uint32)
    key = np.empty(DENSE_ROWS, np.uint64)
    for tile in range(start, stop):
        g, h, first, last = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2], tiles[tile, 3]
        low, m = key_ptr[g], key_ptr[g + 1] - key_ptr[g]
        height, mine = last - first, panel_ptr[g + 1] - panel_ptr[g]
        for r in range(height):
            key[r] = stream(~seed, g, h, rows[first + r] // heads - query_ptr[g])
        for p in range(mine):
            base = (h * num_panels + panel_ptr[g] + p) * depth
            valid = np.uint32(0xFFFFFFFF)
            if m - p * PANEL < PANEL:
                valid = np.uint32((1 << (m - p * PANEL)) - 1)
            for r in range(0, height, 4):
                a = first + r
                four = (
                    rows[a],
                    rows[min(a + 1, last - 1)],
                    rows[min(a + 2, last - 1)],
                    rows[min(a + 3, last - 1)],
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
