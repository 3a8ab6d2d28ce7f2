"""Sparsifies a pretrained encoder: score against density on a task of GLUE.

Usage::

    python tasks/sparsify.py --encoder FOLDER --task sst2 --targets 0.5 0.25 0.1 --seeds 1 2 3
    python tasks/sparsify.py --draw runs/sparsify/sst2
"""

import os
import sys

# Read when torch loads OpenMP: threads that wait by spinning slow a busy machine down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from sbmgraph.cli.sparsify import main

if __name__ == "__main__":
    sys.exit(main())
