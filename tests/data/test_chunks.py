from __future__ import annotations

import subprocess
import sys
from itertools import islice

import pytest

from sbmgraph.data.chunks import in_order

SHUTDOWN = """
import atexit
from itertools import islice
from sbmgraph.data.chunks import in_order
atexit.register(lambda: print(list(islice(in_order(lambda k: k * k, 2), 5)), flush=True))
"""


@pytest.mark.parametrize("workers", [1, 2, 7, None])
def test_order_does_not_depend_on_workers(workers):
    assert list(islice(in_order(lambda k: k * k, workers), 50)) == [k * k for k in range(50)]


def test_errors_come_through():
    def broken(number: int) -> int:
        if number == 3:
            raise KeyError("third")
        return number

    found = []
    with pytest.raises(KeyError, match="third"):
        found.extend(in_order(broken, 2))


def test_chunks_are_made_while_the_interpreter_shuts_down():
    """No thread can be started then; the calling one does the work."""
    done = subprocess.run(
        [sys.executable, "-c", SHUTDOWN], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[0, 1, 4, 9, 16]", done.stderr


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_bad_number_of_workers(workers):
    with pytest.raises(ValueError, match=f"'workers' must be an integer >= 1, got {workers}"):
        next(in_order(lambda k: k, workers))
