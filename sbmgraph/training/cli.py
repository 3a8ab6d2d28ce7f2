"""The command line behind ``tasks/lra.py``: one configuration, any model, any number of seeds."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.console import Console
from rich.table import Table

from sbmgraph.nn.models import MODELS
from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.module import SequenceClassifier
from sbmgraph.training.pictures import draw_density, draw_graph
from sbmgraph.training.run import (
    BEST,
    AtomicCheckpointIO,
    load_weights,
    newest_checkpoint,
    run_callbacks,
    run_loggers,
    summarize,
    write_atomically,
    write_json,
)

USAGE = """usage: python {program} COMMAND --config CONFIG.yaml [--KEY VALUE ...]

commands:
  prepare    read or generate the data, once
  fit        train, then test the checkpoint with the best validation accuracy
  validate   evaluate that checkpoint on the validation split
  test       evaluate it on the test split

`python {program} fit --help` lists every key, `fit --config CONFIG.yaml --print_config` shows the
values in force.
"""


class TaskCLI(LightningCLI):
    """One model, its data and its trainer, made from a configuration for one seed.

    Args:
        args: Command line arguments.
        seed: The seed.
        model: Name of the model. (default: the configuration's)
        build: Whether to make the objects, or to parse only.
    """

    def __init__(
        self,
        args: Sequence[str],
        seed: int | None = None,
        model: str | None = None,
        build: bool = True,
    ) -> None:
        args = list(args)
        if seed is not None:
            args += ["--seed_everything", str(seed)]
        if model is not None:
            args += ["--model.name", model]
        self.build = build
        super().__init__(
            SequenceClassifier,
            SequenceDataModule,
            save_config_callback=None,
            seed_everything_default=1,
            trainer_defaults={
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                "enable_model_summary": False,
                "log_every_n_steps": 10,
            },
            args=args,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what concerns the run rather than its parts."""
        add_run_arguments(parser)
        for key in ("vocab_size", "num_classes", "max_length", "num_documents", "token_labels"):
            parser.link_arguments(
                "data.model_arguments",
                f"model.{key}",
                compute_fn=_Item(key),
                apply_on="instantiate",
            )
        parser.link_arguments("data.task", "model.task")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses ``args``; jsonargparse ends the program with exit code 2 on any error."""
        self.config = parser.parse_args(args)

    def instantiate_classes(self) -> None:
        """Makes data, model and trainer."""
        if self.build:
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the trainer, which writes to the run folder."""
        loggers = run_loggers(self.folder)
        # Lightning ignores its own `max_time` where there is a timer already.
        max_time = self._get(self.config_init, "trainer", default={}).get("max_time")
        callbacks: list[Callback] = run_callbacks(self.folder, loggers[0], max_time)  # type: ignore[arg-type]
        self.trainer_defaults["callbacks"] = callbacks
        return super().instantiate_trainer(
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=str(self.folder),
            max_time=None,
            **kwargs,
        )

    @property
    def folder(self) -> Path:
        """The run folder."""
        config = self.config
        name = config.name or config.data.task
        return Path(config.runs) / name / config.model.name / f"seed{config.seed_everything}"


class _Item:
    """Picks an entry of a mapping (a class, since jsonargparse shows its name in messages)."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.__name__ = key

    def __call__(self, values: dict[str, Any]) -> Any:
        return values[self.key]


def add_run_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments that say which runs there are and where they go."""
    parser.add_argument(
        "--name",
        type=str | None,
        default=None,
        help="Name of the run's folder and of its row in the results (default: the task's)",
    )
    parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs")
    parser.add_argument("--seeds", type=list[int], default=[1], help="Seeds, one run each")
    parser.add_argument(
        "--compare", type=list[str], default=[], help="Further models to train in the same budget"
    )
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="'last' goes on from the run folder's newest checkpoint; or a file",
    )
    parser.add_argument(
        "--overwrite",
        type=bool,
        default=False,
        help="Whether a new run may replace an older one in its folder",
    )


def main(argv: Sequence[str] | None = None, program: str = "tasks/lra.py") -> int:
    """Runs a command.

    Args:
        argv: The command and its arguments. (default: the program's)
        program: Name of the script in messages.

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = {"prepare": prepare, "fit": fit, "validate": evaluate, "test": evaluate}
    if not argv or argv[0] not in commands:
        asked = bool(argv) and argv[0] in ("-h", "--help")
        print(USAGE.format(program=program), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    _be_quiet()
    try:
        commands[argv[0]](argv, program)
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("SBMGRAPH_TRACEBACK"):
            raise
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    return 0


def _be_quiet() -> None:
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
    config = TaskCLI(argv[1:], build=False).config
    data = SequenceDataModule(**config.data.as_dict())
    for split, dataset in data.datasets.items():
        tokens = dataset.lengths
        print(
            f"{dataset.name}: {len(dataset):,} items, {tokens.sum():,} tokens "
            f"({tokens.min():,} to {tokens.max():,} an item), majority {data.majority(split):.1%}"
        )


def fit(argv: list[str], program: str) -> None:
    """Trains and tests every model and seed that the configuration names."""
    command = shlex.join(["python", program, *portable(argv)])
    results = [_fit_one(TaskCLI(argv[1:], seed, model), command) for model, seed in _runs(argv[1:])]
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
    for model, seed in _runs(argv[1:]):
        cli = TaskCLI(argv[1:], seed, model)
        path = cli.config.ckpt_path
        if path in (None, "best"):
            path = cli.folder / "checkpoints" / BEST
            if not path.is_file():
                path = newest_checkpoint(cli.folder)
        elif path == "last":
            path = newest_checkpoint(cli.folder)
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
    print("\n".join(result["folder"] for result in results))


def _density_text(result: dict[str, Any]) -> str:
    if result["density"] is None:
        mean = result["mean_density"]
        return "-" if mean is None else f"{mean:.1%}"
    layers = [" ".join(f"{head:.1%}" for head in layer) for layer in result["density"]]
    return " | ".join(layers)


def _runs(args: list[str]) -> list[tuple[str, int]]:
    config = TaskCLI(args, build=False).config
    models = list(dict.fromkeys([config.model.name, *config.compare]))
    unknown = sorted(set(models) - set(MODELS))
    if unknown:
        raise ValueError(f"model: expected any of {', '.join(MODELS)}, got {', '.join(unknown)}")
    if not config.seeds:
        raise ValueError("seeds: expected at least one seed, got none")
    return list(product(models, dict.fromkeys(config.seeds)))


def _fit_one(cli: TaskCLI, command: str) -> dict[str, Any]:
    folder, trainer = cli.folder, cli.trainer
    checkpoint = _starting_point(cli)
    if trainer.is_global_zero:
        text = cli.parser.dump(cli.config)
        write_atomically(folder / "config.yaml", text)
    _check_rounds(trainer, cli.datamodule)
    trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=False)
    best = folder / "checkpoints" / BEST
    if best.is_file():
        load_weights(cli.model, best)
    trainer.test(cli.model, cli.datamodule, verbose=False)
    result = summarize(
        trainer,
        cli.model,
        cli.datamodule,
        name=cli.config.name or cli.config.data.task,
        folder=str(folder),
        command=command,
    )
    if trainer.is_global_zero:
        write_json(folder / "summary.json", result)
        draw_density(folder)
        draw_graph(cli.model, cli.datamodule, folder)
    return result


def _starting_point(cli: TaskCLI) -> Path | None:
    path = cli.config.ckpt_path
    if path == "last":
        return newest_checkpoint(cli.folder)
    if path is not None:
        if not Path(path).is_file():
            raise ValueError(f"ckpt_path: expected 'last' or a checkpoint, got {path!r}")
        return Path(path)
    if not cli.trainer.is_global_zero:
        return None
    older = sorted((cli.folder / "checkpoints").glob("*.ckpt"))
    if older and not cli.config.overwrite:
        raise ValueError(
            f"{cli.folder}: expected no earlier run, found {older[0].name}. Go on from it with "
            "'--ckpt_path last', replace it with '--overwrite true', or choose another '--name'"
        )
    for checkpoint in older:
        checkpoint.unlink()
    return None


def _check_rounds(trainer: Trainer, data: SequenceDataModule) -> None:
    if trainer.max_steps > 0 and trainer.max_steps % data.round_steps:
        raise ValueError(
            f"data.round_steps: expected a divisor of trainer.max_steps = {trainer.max_steps}, "
            f"got {data.round_steps}"
        )


def _is_main_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_rank() == 0
    )
