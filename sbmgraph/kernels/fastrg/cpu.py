r"""fastRG compiled for the CPU: rows one by one, as :mod:`sbmgraph.kernels.fastrg.reference`.

The draws' waiting times, and so the proposals' blocks, are the reference's; a key comes of an alias
table or by rejection, both faster here than a search in cumulative memberships. Work is cut into
pieces of query vertices of one head and graph; a thread writes the sorted edges of its rows into
its own buffer, and in the end all rows are copied to their place.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbmgraph.kernels._numba.groups import by_group, cut, group_of, ranges
from sbmgraph.kernels._numba.jit import jit
from sbmgraph.kernels._numba.lanes import LANES
from sbmgraph.kernels._numba.threads import parallel_for
from sbmgraph.kernels.bits import Bits, bits_to_csr, word_pointers
from sbmgraph.kernels.dense import cpu as dense_cpu
from sbmgraph.kernels.fastrg.cpu_rows import (
    SORTED,
    Row,
    arrivals,
    by_rejection,
    by_table,
    cumulate,
    new_draws,
    sort,
    sort_by_marks,
    thin,
    uniform_keys,
)
from sbmgraph.kernels.fastrg.cpu_tables import Problem, tabulate
from sbmgraph.kernels.fastrg.plan import MAX_BOUND, SMALLEST_BOUND
from sbmgraph.kernels.model import EdgeModel

PIECE = 512
"""Query vertices of a piece."""

MAX_WORDS = 2**24
"""Words of bits that exist at once of rows that take the dense algorithm, about."""


class Part(NamedTuple):
    """Edges of some query vertices, one after the other."""

    rows: np.ndarray
    col: np.ndarray


def sample(model: EdgeModel, law: str, exploration: float, seed: int) -> tuple[Tensor, Tensor]:
    """As :func:`sbmgraph.kernels.fastrg.reference.sample`."""
    count = np.zeros(model.num_queries * model.heads, np.int64)
    if count.size == 0 or model.num_keys == 0:
        return _assemble(count, [])
    problem = _problem(model, law, exploration, seed)
    blocks = tabulate(problem)
    order = by_group(model)
    excess = np.empty(count.size)
    group = group_of(model, order)
    parallel_for(
        lambda start, stop: _row_excess(
            start, stop, order, group, problem, blocks.largest, MAX_BOUND[law], excess
        ),
        ranges(count.size, 10_000),
    )
    is_dense = excess[order] == 0
    parts = []
    if is_dense.any():
        parts += _dense_parts(model, law, exploration, seed, order[is_dense], count)
        order = order[~is_dense]
    pieces = cut(model, order, PIECE)
    share = 1.2 * blocks.expected / count.size

    def work(start: int, stop: int) -> None:
        mine = order[pieces[start, 2] : pieces[stop - 1, 3]]
        found = np.empty(int(share * mine.size) + 1024, np.int32)
        args = (pieces, order, found, problem, blocks, excess, count)
        parts.append(Part(mine, _sample_pieces(start, stop, *args)))

    parallel_for(work, ranges(len(pieces), 1))
    return _assemble(count, parts)


def _problem(model: EdgeModel, law: str, exploration: float, seed: int) -> Problem:
    missing = -model.num_clusters % LANES

    def padded(factor: Tensor) -> np.ndarray:
        flat = factor.detach().transpose(0, 1).reshape(-1, model.num_clusters)
        flat = torch.nn.functional.pad(flat, (0, missing)) if missing else flat
        return flat.contiguous().numpy()

    return Problem(
        padded(model.rate),
        padded(model.member),
        model.query_ptr.numpy(),
        model.key_ptr.numpy(),
        model.heads,
        model.num_clusters,
        float(exploration),
        law == "bernoulli",
        np.uint64(seed),
    )


def _dense_parts(
    model: EdgeModel, law: str, exploration: float, seed: int, order: np.ndarray, count: np.ndarray
) -> list[Part]:
    """Edges of query vertices ``order`` by the dense algorithm, some rows' bits at a time."""
    parts = []
    width = -(-int(model.key_ptr.diff().max()) // 32)
    step = max(MAX_WORDS // max(width, 1), 1)
    query_ptr = model.query_ptr.numpy() * model.heads
    for start in range(0, order.size, step):
        vertices = order[start : start + step]
        rows = np.sort(vertices)
        ptr = torch.from_numpy(np.searchsorted(rows, query_ptr))
        word_ptr = word_pointers(ptr, model.key_ptr, 1)
        words = torch.empty(int(word_ptr[-1]), dtype=torch.int32, device="cpu")
        bits = Bits(words, word_ptr, ptr, model.key_ptr, 1)
        dense_cpu.fill(model, law, exploration, seed, vertices, bits)
        rowptr, col = bits_to_csr(bits, rows=rows.size)
        count[rows] = rowptr.diff().numpy()
        parts.append(Part(rows, col.numpy()))
    return parts


def _assemble(count: np.ndarray, parts: list[Part]) -> tuple[Tensor, Tensor]:
    rowptr = torch.zeros(count.size + 1, dtype=torch.int64, device="cpu")
    np.cumsum(count, out=rowptr.numpy()[1:])
    col = torch.empty(int(rowptr[-1]), dtype=torch.int32, device="cpu")
    parallel_for(lambda rows, found: _copy_rows(rows, found, rowptr.numpy(), col.numpy()), parts)
    return rowptr, col


@jit
def _copy_rows(rows, found, rowptr, col):
    e = 0
    for row in rows:
        for target in range(rowptr[row], rowptr[row + 1]):
            col[target] = found[e]
            e += 1


@jit
def _row_excess(start, stop, order, group, problem, largest, most, excess):
    """Walks query vertices in order of graph, head, node: how many proposals each makes for an
    expected edge, so that thinning can leave the right law; 0 where only the dense algorithm
    can."""
    num_queries = problem.query_ptr[-1]
    for at in range(start, stop):
        vertex, g, h = order[at], group[at] // problem.heads, group[at] % problem.heads
        place = h * num_queries + vertex // problem.heads
        bound = problem.exploration
        for v in range(problem.clusters):
            bound += problem.rate[place, v] * largest[g, h, v]
        if bound > most:
            excess[vertex] = 0.0
        elif problem.bernoulli and bound > SMALLEST_BOUND:
            excess[vertex] = -math.log1p(-bound) / bound
        else:
            excess[vertex] = 1.0


@jit
def _sample_pieces(start, stop, pieces, rows, found, problem, blocks, excess, count):
    """Walks pieces and the query vertices of each."""
    query_ptr, key_ptr, heads = problem.query_ptr, problem.key_ptr, problem.heads
    clusters = problem.clusters
    axis = np.empty(clusters + 1)
    draws, uniforms = new_draws(64), np.empty(64, np.float32)
    longest = 0
    for g in range(key_ptr.size - 1):
        longest = max(longest, key_ptr[g + 1] - key_ptr[g])
    marks = np.zeros((longest + 63) >> 6 << 6, np.uint8)
    groups = np.zeros((longest + 4095) >> 12 << 6, np.uint8)
    size = 0
    for piece in range(start, stop):
        g, h, first, last = pieces[piece, 0], pieces[piece, 1], pieces[piece, 2], pieces[piece, 3]
        low = key_ptr[g]
        m = key_ptr[g + 1] - low
        if m == 0:
            continue
        mass, largest, base = blocks.mass[g, h], blocks.largest[g, h], h * key_ptr[-1]
        for r in range(first, last):
            vertex = rows[r]
            place = h * query_ptr[-1] + vertex // heads
            row = Row(problem.seed, vertex - query_ptr[g] * heads, g, m)
            explored = problem.exploration * excess[vertex] * m
            cumulate(problem.rate, place, excess[vertex], mass, explored, axis)
            proposals, draws = arrivals(row, axis, draws)
            uniform_keys(proposals, m, draws)
            informed = proposals
            while informed > 0 and draws.hits[informed - 1] == clusters:
                informed -= 1
            if blocks.direct[g, h]:
                kept = by_rejection(informed, h, low, blocks.share, problem.member, largest, draws)
            else:
                by_table(informed, h, low, blocks.tables, draws)
                kept = informed
            for i in range(informed, proposals):
                draws.chosen[kept] = draws.number[i]
                kept += 1
            if kept > SORTED:
                kept = sort_by_marks(draws.chosen, kept, m, marks, groups)
            else:
                kept = sort(draws.chosen, kept)
            if size + kept + 8 > found.size:
                larger = np.empty(2 * found.size + kept + 8, np.int32)
                larger[:size] = found[:size]
                found = larger
            for i in range(kept):
                found[size + i] = low + draws.chosen[i]
            before, size = size, size + kept
            if problem.bernoulli:
                if kept + 8 > uniforms.size:
                    uniforms = np.empty(2 * (kept + 8), np.float32)
                size = thin(
                    found, before, size, row, low, problem, place, base, excess[vertex], uniforms
                )
            count[vertex] = size - before
    return found[:size]
