"""The duplicates task: does a token's value occur elsewhere in its sequence?

One head has to compare every token with every other, so a head that can choose its density should
choose a high one (Cho et al., NeurIPS 2022, Section 5.1).

Usage::

    python tasks/synthetic.py fit --config tasks/configs/duplicates_quick.yaml --seeds [1,2,3]
    python tasks/synthetic.py draw runs/duplicates_quick

``fit`` trains every model that the configuration names, then does what ``draw`` does with the runs
of a folder: ``curves.csv`` (accuracy and density at every validation), ``summary.json`` (one entry
a run) and ``curves.png``. The other commands and all keys are those of ``tasks/lra.py``.
"""

import os
import sys

# Read when torch loads OpenMP: threads that wait by spinning slow a busy machine down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from sbmgraph.training.synthetic import main

if __name__ == "__main__":
    sys.exit(main())
