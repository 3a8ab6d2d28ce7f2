"""The page that compares finished runs, as a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from sbmgraph.training.cli import told
from sbmgraph.viz.report import write_comparison


def compare(
    runs: Sequence[Path], out: Path | None = None, title: str = "Runs side by side"
) -> Path:
    """Writes a page that compares finished runs over models and seeds.

    Args:
        runs: Run folders, or folders above some; full attention and baselines may be among them.
        out: The page. (default: ``comparison.html`` in the first of the folders)
        title: Its title.

    Returns:
        The page.

    Raises:
        ValueError: If a folder does not exist or holds no finished run, or results cannot be read.
    """
    return write_comparison(out or runs[0] / "comparison.html", runs, title=title)


def main(argv: Sequence[str] | None = None, program: str = "tasks/compare.py") -> int:
    """Runs the command line; returns the exit code: 0, or 2 for bad input."""
    parser = ArgumentParser(
        prog=program,
        description="Writes one HTML page that compares finished runs over models and seeds: "
        "accuracy, density, time and memory, accuracy against density, the density of each head, "
        "and training curves. It opens without a network.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="Run folders, or folders above some; full attention and baselines may be among them",
    )
    parser.add_argument(
        "--out",
        type=Path | None,
        default=None,
        help="The page (default: comparison.html in the first of the folders)",
    )
    parser.add_argument("--title", type=str, default="Runs side by side", help="Its title")
    given = parser.parse_args(sys.argv[1:] if argv is None else list(argv))

    def work() -> None:
        page = compare(given.runs, given.out, given.title)
        print(f"{page} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser")

    return told(program, work)
