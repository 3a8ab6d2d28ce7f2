"""The configuration of a run: keys, presets, what may be imported, and readable help."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from sbmgraph.data import TASKS
from sbmgraph.nn.models import MODELS, attention_options
from sbmgraph.run import Run
from sbmgraph.training.callbacks import RunProgress, run_callbacks, run_loggers
from sbmgraph.training.checking import check_run
from sbmgraph.training.checkpoints import AtomicCheckpointIO, load_checkpoint
from sbmgraph.training.data import SequenceDataModule
from sbmgraph.training.module import SequenceClassifier

PRESETS = Path(__file__).with_name("configs")
"""The folder of the presets (in the repository a link to ``tasks/configs``)."""

LANGUAGE_TASKS = ("masked_text", "glue")
"""Tasks with a command of their own."""

OPTIONS = "--model.options."
"""How an argument begins that sets one option of a model."""

IMPORTABLE = ["lightning", "sbmgraph"]
"""Packages that a configuration's class paths may name."""

_ROLE = re.compile(r":[a-z:]+:`~?([^`<]*?)(?:\s*<[^`]*>)?`")
_RULES: list[tuple[str, Any]] = [
    (r"\\ (?=[:`])", ""),
    (r"``([^`]*)``", r"\1"),
    (r"`([^`<]+?) *<([^`>]*)>`_+", r"\1 (\2)"),
    (r"\*\*([^*\n]+)\*\*", r"\1"),
]


class PlainParser(LightningArgumentParser):
    """A parser whose help has no markup, and ends with what the keys' values may be."""

    #: Tasks that its command is for.
    tasks: Sequence[str] = ()

    def format_help(self) -> str:
        """The help text."""
        text = plain(super().format_help()).rstrip()
        lines = [
            "models (--model.name, --compare) and their options (--model.options.MODEL):",
            *(f"  {name:<14} {', '.join(attention_options(name)) or '-'}" for name in MODELS),
            f"tasks (--data.task): {', '.join(self.tasks)}",
            f"presets (--config): {', '.join(presets(self.tasks))}",
        ]
        return text + "\n\n" + "\n".join(lines) + "\n"


def split_options(args: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Takes ``--model.options.MODEL.KEY VALUE`` out of the arguments: jsonargparse would replace
    all of a model's options, the configuration's too, by the one that was given last.

    Returns:
        The other arguments, and the options as nested mappings.

    Raises:
        ValueError: If an option has no value, or one that is not YAML.
    """
    rest: list[str] = []
    options: dict[str, Any] = {}
    remaining = iter(args)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        model, _, key = name.removeprefix(OPTIONS).partition(".")
        if not (name.startswith(OPTIONS) and key):
            rest.append(argument)
            continue
        given = value if equals else next(remaining, None)
        if given is None:
            raise ValueError(f"{name}: expected a value, got none")
        try:
            parsed = yaml.safe_load(given)
        except yaml.YAMLError as error:
            raise ValueError(f"{name}: expected a value in YAML, got {given!r}: {error}") from None
        nested: Any = parsed
        for part in reversed([model, *key.split(".")]):
            nested = {part: nested}
        options = merge(options, nested)
    return rest, options


def merge(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings with the values of ``other`` in the place of those of ``base``."""
    merged = dict(base)
    for key, value in other.items():
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            value = merge(inner, value)
        merged[key] = value
    return merged


class TaskCLI(LightningCLI):
    """One model, its data and its trainer, made from a configuration for one seed.

    Args:
        args: Command line arguments.
        seed: The seed.
        model: Name of the model. (default: the configuration's)
        build: Whether to make the objects, or to parse only.
    """

    module_class: type[SequenceClassifier] = SequenceClassifier
    data_class: type[SequenceDataModule] = SequenceDataModule
    #: Tasks that the help names.
    tasks: Sequence[str] = tuple(name for name in TASKS if name not in LANGUAGE_TASKS)
    #: What the data determine of the module.
    linked: tuple[str, ...] = (
        "vocab_size", "num_classes", "max_length", "num_documents", "token_labels"
    )  # fmt: skip

    def __init__(
        self,
        args: Sequence[str],
        seed: int | None = None,
        model: str | None = None,
        build: bool = True,
    ) -> None:
        args = find_presets(list(args))
        if seed is not None:
            args += ["--seed_everything", str(seed)]
        if model is not None:
            args += ["--model.name", model]
        self.build = build
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=IMPORTABLE)
        super().__init__(
            self.module_class,
            self.data_class,
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

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Makes the parser."""
        parser = PlainParser(**kwargs)
        parser.tasks = self.tasks
        parser.add_argument(
            "-c",
            "--config",
            action="config",
            help="A YAML file, or the name of a preset: keys as below, which further arguments "
            "override",
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what concerns the run rather than its parts."""
        add_run_arguments(parser)
        for key in self.linked:
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
        args, options = split_options(args)
        self.config = parser.parse_args(args)
        if options:
            merged = json.dumps(merge(self.config.model.options or {}, options))
            self.config = parser.parse_args([*args, "--model.options", merged])
        # A run's data are found again from wherever its folder is opened.
        self.config.data.root = str(Path(self.config.data.root).resolve())

    def instantiate_classes(self) -> None:
        """Makes data, model and trainer."""
        if self.build:
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the trainer, which writes to the run folder."""
        trainer = self._get(self.config_init, "trainer", default={})
        loggers = run_loggers(self.run, self._first_step())
        # Lightning ignores its own `max_time` where there is a timer already.
        max_time = trainer.get("max_time")
        callbacks: list[Callback] = run_callbacks(
            self.run,
            loggers[0],  # type: ignore[arg-type]
            max_time,
            self.module_class.monitor,
        )
        if trainer.get("enable_progress_bar") in (None, True):
            callbacks.append(RunProgress(self.label))
        if (
            max_time is not None
            and trainer.get("max_steps") == -1
            and not trainer.get("max_epochs")
        ):
            kwargs["max_epochs"] = -1
        self.trainer_defaults["callbacks"] = callbacks
        return super().instantiate_trainer(
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=str(self.run),
            max_time=None,
            **kwargs,
        )

    def check(self, training: bool) -> None:
        """Checks the configuration as far as that goes without its data.

        Args:
            training: Whether the command trains.

        Raises:
            ValueError: Naming the key, what was expected and what came.
        """
        check_run(self.config, training)

    @property
    def run(self) -> Run:
        """The run's folder."""
        config = self.config
        place = Path(config.runs) / (config.name or config.data.task)
        return Run.at(place, config.model.name, config.seed_everything)

    @property
    def label(self) -> str:
        """The run, in progress bars."""
        return f"{self.config.model.name}, seed {self.config.seed_everything}"

    def starting_point(self) -> Path | None:
        """The checkpoint to go on from.

        Raises:
            ValueError: If it is asked for and not there.
        """
        path = self.config.ckpt_path
        if path is None:
            return None
        if path == "last":
            return self.run.newest_checkpoint()
        if not Path(path).is_file():
            raise ValueError(f"ckpt_path: expected 'last' or a checkpoint, got {path!r}")
        return Path(path)

    def _first_step(self) -> int | None:
        path = self.config.ckpt_path
        if path in (None, "best"):
            return None
        start = self.starting_point()
        return None if start is None else int(load_checkpoint(start)["global_step"])


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


def presets(tasks: Sequence[str] = tuple(TASKS)) -> list[str]:
    """Names of the presets of some tasks."""
    found = []
    for path in sorted(PRESETS.glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        data = content.get("data") if isinstance(content, dict) else None
        if isinstance(data, dict) and data.get("task") in tasks:
            found.append(path.stem)
    return found


def find_presets(args: list[str]) -> list[str]:
    """Puts the file in the place of every preset's name after ``--config``.

    Raises:
        ValueError: If a name is neither a file's nor a preset's.
    """
    found = list(args)
    for place, argument in enumerate(args):
        if argument in ("--config", "-c") and place + 1 < len(args):
            found[place + 1] = preset(args[place + 1])
        elif argument.startswith("--config="):
            found[place] = "--config=" + preset(argument.removeprefix("--config="))
    return found


def preset(name: str) -> str:
    """The file of a configuration that is given as a path or a preset's name.

    Raises:
        ValueError: If there is none.
    """
    path = PRESETS / f"{name}.yaml"
    if Path(name).is_file() or not re.fullmatch(r"[\w.-]+", name):
        return name
    if path.is_file():
        return str(path)
    raise ValueError(f"config: expected a file or one of {', '.join(presets())}, got {name!r}")


def about(function: Callable[..., Any]) -> str:
    """What a function does, for the help of its command: its docstring's first paragraph."""
    return plain(" ".join((function.__doc__ or "").split("\n\n")[0].split()))


def plain(text: str) -> str:
    """A text without reStructuredText's markup."""
    text = _ROLE.sub(
        lambda match: match[1].split(".")[-1] if " " not in match[1] else match[1], text
    )
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text)
    return text
