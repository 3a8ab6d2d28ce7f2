"""Settings of every test process."""

from __future__ import annotations

import os

# Set before torch starts its threads, and inherited by the processes that tests start: pytest-xdist
# already uses every core, and threads that wait for each other on a full machine cost it dearly.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
