"""Runs the command line in children that are killed at random moments and started again.

Usage::

    python killed_runs.py FOLDER KILLS SEED ARGUMENT...

The run is first made without interruption in ``FOLDER/whole``; then in ``FOLDER/killed0``,
``FOLDER/killed1`` and so on, each killed at random and continued until it is through, until there
were ``KILLS`` kills. Prints the number of the latter folders. Children are forks, which spares them
the imports.
"""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from sbmgraph.training.cli import main

LAST = "checkpoints/last.ckpt"


def live(args: list[str], delay: float | None) -> int:
    """Runs the command in a child that is killed after ``delay`` seconds; its wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    if delay is not None:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    code = 1
    try:
        code = main(args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(folder: Path, args: list[str], delays: "Delays | None") -> None:
    """Runs and continues a run until it is through."""
    while True:
        [checkpoint] = list(folder.glob(f"*/*/*/{LAST}")) or [None]
        going_on = ["--ckpt_path", "last"] if checkpoint else ["--overwrite", "true"]
        delay = delays.draw() if delays else None
        status = live([*args, "--runs", str(folder), *going_on], delay)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                sys.exit(f"the run failed with exit code {os.WEXITSTATUS(status)}")
            return
        if delays:
            delays.kills += 1


class Delays:
    """Random moments of death."""

    def __init__(self, longest: float, seed: int) -> None:
        self.longest = longest
        self.random = random.Random(seed)
        self.kills = 0

    def draw(self) -> float:
        """Seconds to live."""
        return self.random.uniform(0.0, self.longest)


if __name__ == "__main__":
    root, kills, seed, *arguments = sys.argv[1:]
    start = time.monotonic()
    run(Path(root) / "whole", arguments, None)
    delays = Delays(time.monotonic() - start, int(seed))
    runs = 0
    while delays.kills < int(kills):
        run(Path(root) / f"killed{runs}", arguments, delays)
        runs += 1
    print("runs", runs, "kills", delays.kills)
