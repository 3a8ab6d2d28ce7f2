"""The command line of GLUE: pre-training and fine-tuning, with encoders of Transformers too."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from sbmgraph.training import language_cli
from sbmgraph.training.language_cli import FinetuneCLI


def main(argv: Sequence[str] | None = None, program: str = "tasks/glue.py") -> int:
    """Runs a command of :func:`sbmgraph.training.language_cli.main`.

    Args:
        argv: The command and its arguments. (default: the program's)
        program: Name of the program in messages.

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # Transformers takes seconds to import, and only fine-tuning may need it.
    kind = finetuning() if argv[:1] == ["finetune"] else FinetuneCLI
    return language_cli.main(argv, program, kind)


def finetuning() -> type[FinetuneCLI]:
    """What fine-tuning makes its parts with: encoders of Transformers too, where that is there."""
    if importlib.util.find_spec("transformers") is None:
        return FinetuneCLI
    from sbmgraph.hf.finetuning import EncoderFinetuneCLI

    return EncoderFinetuneCLI
