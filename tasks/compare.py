"""Writes a page that compares finished runs over models and seeds.

Usage::

    python tasks/compare.py runs/listops_quick
    python tasks/compare.py runs/listops_quick/sbm runs/listops_quick/full/seed1 --out page.html
"""

import sys

from sbmgraph.training.comparison import main

if __name__ == "__main__":
    sys.exit(main())
