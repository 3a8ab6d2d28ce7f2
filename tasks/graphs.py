"""Long-range node classification on generated graphs: SBM attention beside local, dense, linear and
fixed sparse attention.

    python tasks/graphs.py --config tasks/configs/graphs.yaml

writes ``tasks/results/graphs.json`` after every run, and picks up where it stopped.
"""

import os
import sys

# Read when torch loads OpenMP: threads that wait by spinning slow a busy machine down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from sbmgraph.training.graphs.command import main

if __name__ == "__main__":
    sys.exit(main())
