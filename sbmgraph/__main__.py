"""The command ``sbmgraph``: what the scripts in ``tasks/`` do, from anywhere."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "lra": ("sbmgraph.training.cli", "prepare, train, test and use any model on Long Range Arena"),
    "synthetic": ("sbmgraph.training.synthetic", "the duplicates task"),
    "graphs": ("sbmgraph.training.graphs.command", "node classification on generated graphs"),
    "report": ("sbmgraph.training.report", "the interactive page of a trained run"),
    "results": ("sbmgraph.training.results", "tables of all finished runs"),
}
"""Every command's module, whose ``main(argv, program)`` it calls, and what it is for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The command and its arguments. (default: the program's)

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        asked = bool(argv) and argv[0] in ("-h", "--help")
        print(usage(), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    # Read when torch loads OpenMP: threads that wait by spinning slow a busy machine down tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        module = importlib.import_module(COMMANDS[argv[0]][0])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "sbmgraph":
            raise
        print(
            f"sbmgraph: error: expected the package {error.name!r}, found none: "
            "pip install 'sbmgraph[train,viz,baselines]'",
            file=sys.stderr,
        )
        return 2
    return module.main(argv[1:], f"sbmgraph {argv[0]}")


def usage() -> str:
    """What there is to run."""
    lines = [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: sbmgraph COMMAND ...", "", "commands:", *lines, "",
         "`sbmgraph COMMAND --help` says more."]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
