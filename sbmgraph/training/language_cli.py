"""The command line of GLUE: pre-training, fine-tuning, and the table of both."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.table import Table

from sbmgraph.data import GLUE_TASKS
from sbmgraph.data.prepare import options_of
from sbmgraph.files import read_json
from sbmgraph.run import Run
from sbmgraph.training.checking import check_models, check_name, check_seeds, check_trainer
from sbmgraph.training.cli import (
    _check_folder,
    _is_main_process,
    _launched_first,
    _runs,
    be_quiet,
    command_of,
    portable,
    told,
)
from sbmgraph.training.faults import naming_full_disk
from sbmgraph.training.finetuning import GlueClassifier
from sbmgraph.training.language_data import LanguageDataModule
from sbmgraph.training.pictures import draw_density
from sbmgraph.training.pretraining import MaskedLanguageModel, find_checkpoint
from sbmgraph.training.summary import summarize
from sbmgraph.training.task_cli import TaskCLI

USAGE = """usage: {program} COMMAND ...

commands:
  pretrain --config CONFIG [--KEY VALUE ...]
             train an encoder to name hidden tokens
  finetune --config CONFIG [--tasks [cola,sst2]] [--model.pretrained RUN] [--KEY VALUE ...]
             train it on tasks of GLUE (default: all nine), from a run of pretrain or from nothing
  results RUNS ...
             print the development scores of all finished runs below folders

`{program} pretrain --help` and `finetune --help` list every key.
"""


class LanguageCLI(TaskCLI):
    """What both kinds of run share."""

    data_class = LanguageDataModule

    def check(self, training: bool) -> None:
        """Checks the configuration as far as that goes without its data.

        Raises:
            ValueError: Naming the key, what was expected and what came.
        """
        config = self.config
        check_name(config.name)
        check_models(config)
        check_seeds(config.seeds)
        known = options_of(config.data.task)
        unknown = sorted(set(config.data.options or {}) - set(known))
        if unknown:
            raise ValueError(
                f"data.options: expected any of {', '.join(known)}, got {', '.join(unknown)}"
            )
        if training:
            check_trainer(config)


class PretrainCLI(LanguageCLI):
    """The parts of a run of pre-training."""

    tasks = ("masked_text",)
    module_class = MaskedLanguageModel
    linked = ("vocab_size", "num_classes", "max_length", "mask", "special")


class FinetuneCLI(LanguageCLI):
    """The parts of a run of fine-tuning on one task."""

    tasks = ("glue",)
    module_class: type[GlueClassifier] = GlueClassifier
    linked = ("vocab_size", "num_classes", "max_length", "glue_task")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the tasks."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--tasks", type=list[str], default=list(GLUE_TASKS), help="Tasks of GLUE, one run each"
        )

    @property
    def run(self) -> Run:
        """The run's folder: a task's runs stand together."""
        config = self.config
        place = Path(config.runs) / (config.name or config.data.task) / config.data.options["name"]
        return Run.at(place, config.model.name, config.seed_everything)


def main(
    argv: Sequence[str] | None = None,
    program: str = "tasks/glue.py",
    kind: type[FinetuneCLI] = FinetuneCLI,
) -> int:
    """Runs a command.

    Args:
        argv: The command and its arguments. (default: the program's)
        program: Name of the program in messages.
        kind: What fine-tuning makes its parts with.

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str], str], None]] = {
        "pretrain": pretrain,
        "finetune": partial(finetune, kind=kind),
        "results": results,
    }
    if not argv or argv[0] not in commands:
        asked = bool(argv) and argv[0] in ("-h", "--help")
        print(USAGE.format(program=command_of(program)), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    be_quiet()
    return told(program, lambda: commands[argv[0]](argv, program))


def pretrain(argv: list[str], program: str) -> None:
    """Trains every model and seed that the configuration names to name hidden tokens."""
    command = shlex.join([*command_of(program).split(), *portable(argv)])
    found = []
    for model, seed in _runs(argv[1:], True, PretrainCLI):
        with _run(PretrainCLI, argv[1:], seed, model) as cli:
            summary = _train(cli, command, majority=None)
            loss = float(cli.trainer.callback_metrics["test/loss"])
            summary |= {"loss": loss, "perplexity": math.exp(loss)}
            found.append(_finish(cli, summary))
    if _is_main_process():
        _print(found, "pre-training, held-out text", ["perplexity", "accuracy"])


def finetune(argv: list[str], program: str, kind: type[FinetuneCLI] = FinetuneCLI) -> None:
    """Trains every task, model and seed that the configuration names."""
    command = shlex.join([*command_of(program).split(), *portable(argv)])
    tasks = kind(argv[1:], build=False).config.tasks
    unknown = sorted(set(tasks) - set(GLUE_TASKS))
    if unknown or not tasks:
        raise ValueError(f"tasks: expected any of {', '.join(GLUE_TASKS)}, got {unknown or 'none'}")
    found = []
    for task in dict.fromkeys(tasks):
        arguments = task_arguments(argv[1:], task, kind)
        for model, seed in _runs(arguments, True, kind):
            found.append(finetune_one(arguments, task, model, seed, command, kind))
    if _is_main_process():
        _print(found, "development scores", ["score"])


def task_arguments(
    arguments: list[str], task: str, kind: type[FinetuneCLI] = FinetuneCLI
) -> list[str]:
    """The arguments of the runs on one task."""
    arguments = [*arguments, f"--data.options.name={task}"]
    return arguments + _tokenizer_of_pretrained(kind(arguments, build=False).config)


def finetune_one(
    arguments: list[str],
    task: str,
    model: str,
    seed: int,
    command: str,
    kind: type[FinetuneCLI] = FinetuneCLI,
) -> dict[str, Any]:
    """Trains one model on one task and gives the run's summary."""
    with _run(kind, arguments, seed, model) as cli:
        summary = _train(cli, command)
        names = [*GLUE_TASKS[task].metrics, "score"]
        scores = {n: float(cli.trainer.callback_metrics[f"test/{n}"]) for n in names}
        start = cli.config.model.pretrained or cli.config.model.get("encoder")
        start = "nothing" if start is None else Path(start).resolve().name
        summary |= {"glue_task": task, "scores": scores, "pretrained": start}
        return _finish(cli, summary)


def results(argv: list[str], program: str) -> None:
    """Prints the tables of finished runs."""
    summaries = load_summaries([Path(folder) for folder in argv[1:] or ["runs"]])
    print(tables(summaries))


def load_summaries(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The summaries of finished runs of pre-training and fine-tuning below folders.

    Raises:
        ValueError: If there is none.
    """
    found = []
    for folder in folders:
        paths = [folder]
        if not folder.is_file():
            paths = [run.summary_file for run in Run.below(folder)]
        for path in paths:
            value = read_json(path, "the JSON of a finished run")
            entries = value if isinstance(value, list) else [value]
            found += [e for e in entries if "perplexity" in e or "scores" in e]
    if not found:
        listed = ", ".join(map(str, folders))
        raise ValueError(f"{listed}: expected finished runs of pretrain or finetune, found none")
    return found


def tables(summaries: list[dict[str, Any]]) -> str:
    """Perplexities and development scores as Markdown, in percent, the mean over seeds."""
    lines = []
    pretrained = [s for s in summaries if "perplexity" in s]
    if pretrained:
        lines += [
            "| model | seed | perplexity | accuracy of hidden tokens | density | steps | time |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {s['model']} | {s['seed']} | {s['perplexity']:.1f} | {s['accuracy']:.1%} | "
            f"{_density(s)} | {s['steps']:,} × {s['batch_size']} | {s['seconds'] / 60:.0f} min |"
            for s in pretrained
        ]
        lines.append("")
    tuned = [s for s in summaries if "scores" in s]
    if tuned:
        tasks = [task for task in GLUE_TASKS if any(s["glue_task"] == task for s in tuned)]
        lines += [
            f"| model | starts from | seeds | {' | '.join(tasks)} | mean | density |",
            "|---" * (len(tasks) + 5) + "|",
        ]
        rows = dict.fromkeys((s["model"], s["pretrained"]) for s in tuned)
        for model, start in rows:
            mine = [s for s in tuned if (s["model"], s["pretrained"]) == (model, start)]
            cells = [
                _mean([s["scores"]["score"] for s in mine if s["glue_task"] == t]) for t in tasks
            ]
            known = [cell for cell in cells if cell is not None]
            whole = _mean(known) if len(known) == len(tasks) else None
            shown = [f"{100 * c:.1f}" if c is not None else "–" for c in [*cells, whole]]
            densities = [s["mean_density"] for s in mine if s["mean_density"] is not None]
            density = f"{100 * sum(densities) / len(densities):.0f} %" if densities else "–"
            seeds = len({s["seed"] for s in mine})
            lines.append(f"| {model} | {start} | {seeds} | {' | '.join(shown)} | {density} |")
        lines.append("")
    return "\n".join(lines)


@contextlib.contextmanager
def _run(
    kind: type[LanguageCLI], arguments: list[str], seed: int, model: str
) -> Iterator[LanguageCLI]:
    """The parts of a run, whose folder is this process's alone meanwhile."""
    parsed = kind(arguments, seed, model, build=False)
    with contextlib.ExitStack() as stack:
        if _launched_first():
            stack.enter_context(parsed.run.lock())
            _check_folder(parsed)
        stack.enter_context(naming_full_disk(parsed.run))
        yield kind(arguments, seed, model)


def _train(cli: TaskCLI, command: str, **extra: Any) -> dict[str, Any]:
    """Trains, evaluates what the last step left, and gives the summary. No checkpoint is chosen:
    the data that are evaluated on are those that one would choose by."""
    trainer, run = cli.trainer, cli.run
    checkpoint = cli.starting_point()
    if trainer.is_global_zero:
        if checkpoint is None:
            run.remove_checkpoints()
        run.write_config(cli.parser.dump(cli.config))
        cli.datamodule.keep_tokenizer(run)
    trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint)
    trainer.test(cli.model, cli.datamodule, verbose=False)
    name = cli.config.name or cli.config.data.task
    return summarize(
        trainer, cli.model, cli.datamodule, name=name, folder=str(run), command=command, **extra
    )


def _finish(cli: TaskCLI, summary: dict[str, Any]) -> dict[str, Any]:
    if cli.trainer.is_global_zero:
        cli.run.write_summary(summary)
        draw_density(cli.run)
    return summary


def _tokenizer_of_pretrained(config: Any) -> list[str]:
    """The tokenizer that a pre-trained model was trained with, unless the configuration names
    one."""
    pretrained = config.model.pretrained
    if pretrained is None or "tokenizer" in (config.data.options or {}):
        return []
    tokenizer = Run.of_checkpoint(find_checkpoint(pretrained)).tokenizer_file
    return [f"--data.options.tokenizer={tokenizer}"] if tokenizer.is_file() else []


def _print(summaries: list[dict[str, Any]], title: str, columns: list[str]) -> None:
    table = Table(title=title)
    for column in ("model", "seed", *columns, "density", "steps", "time", "folder"):
        table.add_column(column)
    for summary in summaries:
        values = [{**summary, **summary.get("scores", {})}[column] for column in columns]
        table.add_row(
            summary["model"],
            str(summary["seed"]),
            *(f"{value:.2f}" if value > 1 else f"{value:.1%}" for value in values),
            _density(summary),
            f"{summary['steps']:,}",
            f"{summary['seconds'] / 60:.1f} min",
            summary["folder"],
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _density(summary: dict[str, Any]) -> str:
    mean = summary["mean_density"]
    return "–" if mean is None else f"{mean:.1%}"


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
