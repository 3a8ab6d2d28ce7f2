"""Work after the interpreter has begun to shut down runs in the calling thread."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, threading
import sbmgraph.kernels._numba.threads as threads
import torch
torch.set_num_threads(2)
threads.MIN_WORK = 1
def work():
    done = []
    threads.parallel_for(lambda i: done.append(i), [(i,) for i in range(9)])
    assert sorted(done) == list(range(9))
    print("fine", flush=True)
work()
{late}
"""

LATE = {
    "atexit": "atexit.register(work)",
    "a thread that outlives the main thread": (
        "import time\n"
        "threading.Thread(target=lambda: (threading.main_thread().join(), time.sleep(0.2), work()))"
        ".start()"
    ),
}


@pytest.mark.parametrize("late", LATE)
def test_late_work_is_done(late: str) -> None:
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(late=LATE[late])],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert out.stdout.split() == ["fine", "fine"], out.stderr[-2000:]
    assert not out.stderr, out.stderr
