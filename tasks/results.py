"""Gathers the summaries of runs and writes them as tables to ``RESULTS.md``.

Usage::

    python tasks/results.py                       write RESULTS.md from tasks/results
    python tasks/results.py runs/listops_quick    take in the finished runs below a folder first

Every finished run has a row, or is named as left out; a shorter run never replaces a longer one.
"""

import sys
from pathlib import Path

from sbmgraph.training.results import main

FOLDER = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.exit(main(results=FOLDER / "results", output=FOLDER.parent / "RESULTS.md"))
