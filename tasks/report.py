"""Writes the interactive report of a trained run: one HTML page that opens without a network.

Usage::

    python tasks/report.py runs/listops_quick/sbm/seed1
    python tasks/report.py RUN --inputs [3,14,15] --split val --layers [0] --out report.html
    python tasks/report.py RUN --texts '["[MAX 2 9 [MIN 4 7 ] 0 ]"]'
"""

import sys

from sbmgraph.training.report import main

if __name__ == "__main__":
    sys.exit(main())
