"""The command ``sbmgraph``: what the scripts in ``tasks/`` do, from anywhere."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """A command.

    Attributes:
        module: Whose ``main(argv, program)`` it calls.
        text: What it is for.
        extras: The extras of the package that it needs.
    """

    module: str
    text: str
    extras: str = "train,viz,baselines"


COMMANDS = {
    "lra": Command(
        "sbmgraph.training.cli", "prepare, train, test and use any model on Long Range Arena"
    ),
    "synthetic": Command("sbmgraph.training.synthetic", "the duplicates task"),
    "graphs": Command(
        "sbmgraph.training.graphs.command", "node classification on generated graphs"
    ),
    "glue": Command(
        "sbmgraph.cli.glue", "pre-train an encoder on text, fine-tune it on GLUE", "train,viz,hf"
    ),
    "sparsify": Command(
        "sbmgraph.cli.sparsify",
        "thin a pretrained encoder out: score against density",
        "train,viz,hf",
    ),
    "report": Command("sbmgraph.training.report", "the interactive page of a trained run"),
    "compare": Command(
        "sbmgraph.training.comparison", "a page over the models and seeds of finished runs"
    ),
    "results": Command("sbmgraph.training.results", "tables of all finished runs"),
}


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
    command = COMMANDS[argv[0]]
    try:
        module = importlib.import_module(command.module)
        return module.main(argv[1:], f"sbmgraph {argv[0]}")
    except ModuleNotFoundError as error:
        own = (error.name or "").partition(".")[0] == "sbmgraph"
        if own or os.environ.get("SBMGRAPH_TRACEBACK"):
            raise
        print(
            f"sbmgraph: error: expected the package {error.name!r}, found none: "
            f"pip install 'sbmgraph[{command.extras}]'",
            file=sys.stderr,
        )
        return 2


def usage() -> str:
    """What there is to run."""
    lines = [f"  {name:<10} {command.text}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: sbmgraph COMMAND ...", "", "commands:", *lines, "",
         "`sbmgraph COMMAND --help` says more."]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
