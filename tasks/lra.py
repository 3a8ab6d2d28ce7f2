"""Long Range Arena: prepares, trains and tests any task with any model.

Usage::

    python tasks/lra.py fit --config tasks/configs/listops_quick.yaml
    python tasks/lra.py fit --config tasks/configs/text.yaml --model.name linear --seeds [1,2,3]
    python tasks/lra.py fit --config tasks/configs/text.yaml --ckpt_path last
    python tasks/lra.py test --config tasks/configs/text.yaml
"""

import os
import sys

# Read when torch loads OpenMP: threads that wait by spinning slow a busy machine down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from sbmgraph.training.cli import main

if __name__ == "__main__":
    sys.exit(main())
