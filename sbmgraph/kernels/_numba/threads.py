"""Runs compiled kernels over chunks of work on a few threads.

The kernels release the GIL and write to disjoint memory, so plain Python threads run them in
parallel. Numba's own threading layers are either unsafe after a fork or unsafe from several threads
at once; these threads are neither: a forked child starts its own, and a caller never waits for
another caller's work.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

MIN_WORK = 50_000
"""Edges that are worth a chunk of their own: below, starting a thread takes longer."""

MIN_EDGES_PER_ROW = 8
"""Edges of a part of a head, for each row of the table it adds to, that are worth a table of its
own."""

MIN_PARTS = 8
"""Parts that sums are split into, or one a thread where there are more threads; a number that does
not follow every thread count keeps sums the same."""

CHUNKS_PER_THREAD = 4
"""More chunks than threads even out a busy machine."""

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget() -> None:
    global _lock, _pool, _pool_size
    _lock, _pool, _pool_size = threading.Lock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _executor(size: int) -> ThreadPoolExecutor:
    """The pool, with at least ``size`` threads."""
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < size:
            _pool, _pool_size = ThreadPoolExecutor(size, "sbmgraph"), size
        return _pool


def _submit(work: Callable[[], None], helpers: int) -> list[Future]:
    """Hands ``work`` to some threads: fewer, or none, while the interpreter shuts down and starts
    no threads any more; the calling thread does what they leave."""
    pool = _executor(helpers)
    futures: list[Future] = []
    with contextlib.suppress(RuntimeError):
        for _ in range(helpers):
            futures.append(pool.submit(work))
    return futures


def parallel_for(function: Callable[..., Any], tasks: Iterable[tuple]) -> None:
    """Calls ``function(*task)`` for every task, on as many threads as torch uses.

    The calling thread works too, and tasks are handed out one by one.
    """
    queue = deque(tasks)
    helpers = min(torch.get_num_threads(), len(queue)) - 1

    def work() -> None:
        while queue:
            try:
                task = queue.popleft()
            except IndexError:  # another thread took the last one
                return
            function(*task)

    if helpers <= 0:
        return work()
    futures = _submit(work, helpers)
    try:
        work()
    finally:
        queue.clear()
        for future in futures:
            if not future.cancel():
                future.result()


def num_chunks(work: float) -> int:
    """How many chunks an amount of work, counted in edges, deserves."""
    threads = torch.get_num_threads()
    if threads == 1:
        return 1
    return int(max(1, min(threads * CHUNKS_PER_THREAD, work // MIN_WORK)))


def split_nodes(ptr: Tensor, heads: int, chunks: int | None = None) -> list[tuple[int, int]]:
    """Node ranges with about equally many edges each, for a CSR over (node, head) vertices."""
    offsets = ptr.numpy()[::heads]
    if chunks is None:
        chunks = num_chunks(int(offsets[-1]))
    targets = np.linspace(0, offsets[-1], chunks + 1)[1:-1]
    cuts = np.searchsorted(offsets, targets).tolist()
    edges = [0, *cuts, offsets.size - 1]
    return [(a, b) for a, b in pairwise(edges) if a < b]


def split_heads(ptr: Tensor, heads: int) -> list[tuple[int, int, int, int]]:
    """Ranges of heads and of nodes, one head after the other: threads that work on the same head at
    the same time gather from rows that are in their caches already."""
    edges = int(ptr[-1])
    groups = min(heads, num_chunks(edges))
    most = torch.get_num_threads() * CHUNKS_PER_THREAD if groups > 1 else num_chunks(edges)
    nodes = split_nodes(ptr, heads, max(1, min(most, edges // (MIN_WORK * groups))))
    bounds = [heads * i // groups for i in range(groups + 1)]
    return [(*both, *range_) for both in pairwise(bounds) for range_ in nodes]


def split_tables(
    ptr: Tensor, heads: int, rows: int
) -> tuple[list[tuple[int, int, int, int, int]], list[int]]:
    """Work that adds to one table of ``rows`` rows for each head: ranges of heads and of nodes, and
    the first head's table.

    Heads with many edges are split into ranges of nodes, the second and further of which add to
    tables of their own, numbered from ``heads`` on; the list of these tables' heads comes second.
    """
    edges = int(ptr[-1])
    groups = edges // MIN_WORK
    if groups < heads:
        bounds = [heads * i // max(groups, 1) for i in range(max(groups, 1) + 1)]
        nodes = (ptr.numel() - 1) // heads
        return [(first, last, 0, nodes, first) for first, last in pairwise(bounds)], []
    tasks: list[tuple[int, int, int, int, int]] = []
    owners: list[int] = []
    wanted = max(MIN_PARTS, torch.get_num_threads())
    for head, count in enumerate(ptr.diff().view(-1, heads).sum(0).tolist()):
        most = min(count // MIN_WORK, count // (MIN_EDGES_PER_ROW * rows))
        parts = max(1, min(math.ceil(wanted * count / edges - 0.25), most))
        for part, (start, stop) in enumerate(split_nodes(ptr, heads, parts)):
            tasks.append((head, head + 1, start, stop, heads + len(owners) if part else head))
            owners += [head] if part else []
    return tasks, owners
