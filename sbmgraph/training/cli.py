"""The command line behind ``tasks/lra.py``: one configuration, any model, any number of seeds."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table

from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.faults import naming_full_disk
from sbmgraph.training.pictures import describe_structure, draw_density, draw_graph
from sbmgraph.training.run import load_weights
from sbmgraph.training.summary import summarize
from sbmgraph.training.task_cli import TaskCLI
from sbmgraph.training.using import compare, density, predict

USAGE = """usage: {program} COMMAND ...

commands with a configuration (--config CONFIG.yaml or a preset's name, then --KEY VALUE ...):
  prepare    read or generate the data, once
  fit        train, then test the checkpoint with the best validation accuracy
  validate   evaluate that checkpoint on the validation split
  test       evaluate it on the test split

commands with a run folder:
  predict    classify a text, a file or a picture, and draw the sampled graphs
  compare    a table over models and seeds: accuracy, density, time, memory
  density    the density of every input, and what explains it

`{program} fit --help` lists every key, `{program} fit --config CONFIG.yaml --print_config` shows
the values in force, and `{program} predict --help` what the others take.
"""


def main(argv: Sequence[str] | None = None, program: str = "tasks/lra.py") -> int:
    """Runs a command.

    Args:
        argv: The command and its arguments. (default: the program's)
        program: Name of the program in messages.

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str], str], None]] = {
        "prepare": prepare,
        "fit": fit,
        "validate": evaluate,
        "test": evaluate,
        "predict": predict,
        "compare": compare,
        "density": density,
    }
    if not argv or argv[0] not in commands:
        asked = bool(argv) and argv[0] in ("-h", "--help")
        print(USAGE.format(program=command_of(program)), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    be_quiet()
    return told(program, lambda: commands[argv[0]](argv, program))


def told(program: str, work: Callable[[], Any]) -> int:
    """The exit code of some work: 0, or 2 after one line on bad input.

    With ``SBMGRAPH_TRACEBACK`` set in the environment the error is raised instead.
    """
    try:
        work()
    except ModuleNotFoundError:
        raise  # the command names the extra that brings it
    except (ValueError, FileNotFoundError, ImportError, MisconfigurationException) as error:
        if os.environ.get("SBMGRAPH_TRACEBACK"):
            raise
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    return 0


def command_of(program: str) -> str:
    """How one calls a program: a script by Python, the installed command by its name."""
    return f"python {program}" if program.endswith(".py") else program


def be_quiet() -> None:
    """Hides Lightning's messages about what is meant to be as it is."""
    for message in (
        "does not have many workers",
        "Checkpoint directory .* exists",
        "is smaller than the logging interval",
        "LeafSpec",
    ):
        warnings.filterwarnings("ignore", f".*{message}.*")
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(logger).setLevel(logging.WARNING)


def prepare(argv: list[str], program: str) -> None:
    """Prepares the data and prints their sizes."""
    cli = TaskCLI(argv[1:], build=False)
    cli.check(training=False)
    config = cli.config
    data = SequenceDataModule(**config.data.as_dict())
    for split, dataset in data.datasets.items():
        tokens = dataset.lengths
        print(
            f"{dataset.name}: {len(dataset):,} items, {tokens.sum():,} tokens "
            f"({tokens.min():,} to {tokens.max():,} an item), majority {data.majority(split):.1%}"
        )


def fit(argv: list[str], program: str) -> None:
    """Trains and tests every model and seed that the configuration names."""
    command = shlex.join([*command_of(program).split(), *portable(argv)])
    runs = _runs(argv[1:], training=True)
    for model, seed in runs:
        _check_folder(TaskCLI(argv[1:], seed, model, build=False))
    results = [_fit_one(argv[1:], seed, model, command) for model, seed in runs]
    if _is_main_process():
        print_results(results)


def portable(argv: list[str]) -> list[str]:
    """The arguments that determine a run's outcome: those that say where its files are, from which
    of them it goes on, and what is shown meanwhile are left out."""
    places = (
        "--runs",
        "--data.root",
        "--overwrite",
        "--ckpt_path",
        "--trainer.enable_progress_bar",
    )
    kept: list[str] = []
    skip = False
    for argument in argv:
        if skip or argument.startswith(tuple(f"{place}=" for place in places)):
            skip = False
        elif argument in places:
            skip = True
        else:
            kept.append(argument)
    return kept


def evaluate(argv: list[str], program: str) -> None:
    """Evaluates the best checkpoint of every model and seed that the configuration names."""
    for model, seed in _runs(argv[1:], training=False):
        cli = TaskCLI(argv[1:], seed, model)
        path = cli.config.ckpt_path
        if path in (None, "best"):
            path = cli.run.best_checkpoint()
        elif path == "last":
            path = cli.run.newest_checkpoint()
        load_weights(cli.model, Path(path))
        cli.trainer.loggers = []
        method = cli.trainer.test if argv[0] == "test" else cli.trainer.validate
        method(cli.model, cli.datamodule)


def print_results(results: list[dict[str, Any]]) -> None:
    """Prints the summaries of runs as a table."""
    table = Table(title=f"{results[0]['name']}: test split")
    for column in (
        "model",
        "seed",
        "accuracy",
        "majority class",
        "density of each layer and head",
        "steps",
        "time",
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for result in results:
        table.add_row(
            result["model"],
            str(result["seed"]),
            f"{result['accuracy']:.1%}",
            f"{result['majority']:.1%}",
            _density_text(result),
            f"{result['steps']:,}",
            f"{result['seconds'] / 60:.1f} min",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for result in results:
        if result.get("structure"):
            print(f"{result['model']}, seed {result['seed']}: {result['structure']}")
    print("\n".join(result["folder"] for result in results))


def _density_text(result: dict[str, Any]) -> str:
    if result["density"] is None:
        mean = result["mean_density"]
        return "-" if mean is None else f"{mean:.1%}"
    layers = [" ".join(f"{head:.1%}" for head in layer) for layer in result["density"]]
    return " | ".join(layers)


def _runs(args: list[str], training: bool, kind: type[TaskCLI] = TaskCLI) -> list[tuple[str, int]]:
    cli = kind(args, build=False)
    cli.check(training)
    config = cli.config
    models = dict.fromkeys([config.model.name, *config.compare])
    return list(product(models, dict.fromkeys(config.seeds)))


def _fit_one(
    args: list[str], seed: int, model: str, command: str, kind: type[TaskCLI] = TaskCLI
) -> dict[str, Any]:
    parsed = kind(args, seed, model, build=False)
    with contextlib.ExitStack() as stack:
        if _launched_first():
            stack.enter_context(parsed.run.lock())
            _check_folder(parsed)
        stack.enter_context(naming_full_disk(parsed.run))
        return _fit_locked(kind(args, seed, model), command)


def _fit_locked(cli: TaskCLI, command: str) -> dict[str, Any]:
    run, trainer = cli.run, cli.trainer
    checkpoint = cli.starting_point()
    if trainer.is_global_zero:
        if checkpoint is None:
            run.remove_checkpoints()
        run.write_config(cli.parser.dump(cli.config))
    trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint)
    if run.best.is_file():
        load_weights(cli.model, run.best)
    trainer.test(cli.model, cli.datamodule, verbose=False)
    result = summarize(
        trainer,
        cli.model,
        cli.datamodule,
        name=cli.config.name or cli.config.data.task,
        folder=str(run),
        command=command,
    )
    if trainer.is_global_zero:
        result["structure"] = describe_structure(cli.model, cli.datamodule)
        run.write_summary(result)
        draw_density(run)
        draw_graph(cli.model, cli.datamodule, run)
    return result


def _check_folder(cli: TaskCLI) -> None:
    """Checks that a run may begin in its folder, or go on there."""
    if cli.starting_point() is not None or cli.config.overwrite or not _launched_first():
        return
    older = cli.run.checkpoints()
    if older:
        raise ValueError(
            f"{cli.run}: expected no earlier run, found {older[0].name}. Go on from it with "
            "'--ckpt_path last', replace it with '--overwrite true', or choose another '--name'"
        )


def _launched_first() -> bool:
    """Whether this is the process that a person started, not one that Lightning added to it."""
    return all(os.environ.get(key, "0") == "0" for key in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


def _is_main_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_rank() == 0
    )
