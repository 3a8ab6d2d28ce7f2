"""Work of dense kernels on the CPU, cut by *heads of graphs*, numbered ``graph * heads + head``.

Small ones are done one after the other, large ones in parts of their queries. The cuts depend on
sizes alone, so sums are taken in the same order whatever the number of threads.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from torch import Tensor

from sbmgraph.kernels._numba.jit import inline
from sbmgraph.kernels._numba.operands import QUERIES

TASKS = 16
"""Tasks that a batch is cut into, where it is large enough."""

TASK_PAIRS = 2**17
"""Pairs of a query and a key that are worth a task of their own."""

TASK_QUERIES = 10 * QUERIES
"""Queries that are worth laying out a head's keys for."""


def split(query_ptr: Tensor, key_ptr: Tensor, heads: int) -> list[tuple[int, int, int, int]]:
    """Tasks ``(first, last, part, parts)``: heads of graphs ``first`` to ``last``, or one part of
    the queries of a single one."""
    queries, keys = (np.repeat(ptr.diff().numpy(), heads) for ptr in (query_ptr, key_ptr))
    if queries.size == 0:
        return []
    ends = np.cumsum(np.maximum(queries * keys, 1))
    grain = max(int(ends[-1]) // TASKS, TASK_PAIRS)
    targets = np.arange(grain, int(ends[-1]), grain)
    cuts = np.unique(np.searchsorted(ends, targets, side="left") + 1)
    bounds = np.unique(np.concatenate([[0], cuts[cuts < queries.size], [queries.size]])).tolist()
    tasks = []
    for first, last in pairwise(bounds):
        parts = 1
        if last - first == 1:
            pairs = int(queries[first]) * int(keys[first])
            parts = max(1, min(round(pairs / grain), int(queries[first]) // TASK_QUERIES))
        tasks += [(first, last, part, parts) for part in range(parts)]
    return tasks


@inline
def part_of(part, parts, count):
    """The queries ``start`` to ``stop`` of a part; whole tiles but for the last."""
    tiles = (count + QUERIES - 1) // QUERIES
    start, stop = tiles * part // parts * QUERIES, tiles * (part + 1) // parts * QUERIES
    return start, min(stop, count)


@inline
def round_up(size, step):
    return (size + step - 1) // step * step


@inline
def most_keys(first, last, heads, key_ptr):
    """The largest number of keys of heads of graphs ``first`` to ``last``."""
    most = 0
    for g in range(first // heads, (last - 1) // heads + 1):
        most = max(most, key_ptr[g + 1] - key_ptr[g])
    return most
