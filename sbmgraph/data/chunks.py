"""Generation in parallel whose result does not depend on how many take part."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from sbmgraph.checks import check_positive_int

T = TypeVar("T")


def in_order(make: Callable[[int], T], workers: int | None = None) -> Iterator[T]:
    """Yields ``make(0)``, ``make(1)``, ... without end, several at work at a time.

    Threads suffice where ``make`` spends its time in compiled code that releases the GIL.

    Args:
        make: A pure function of the number of a chunk.
        workers: Threads (default: the machine's cores).

    Raises:
        ValueError: If ``workers`` is not positive.
    """
    workers = os.cpu_count() or 1 if workers is None else workers
    check_positive_int("workers", workers)
    pending: deque[Future[T]] = deque()
    number = 0
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(pending) < 2 * workers:
                    pending.append(_submit(pool, make, number))
                    number += 1
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _submit(pool: ThreadPoolExecutor, make: Callable[[int], T], number: int) -> Future[T]:
    try:
        return pool.submit(make, number)
    except RuntimeError:  # the interpreter is shutting down and starts no more threads
        done: Future[T] = Future()
        done.set_result(make(number))
        return done
