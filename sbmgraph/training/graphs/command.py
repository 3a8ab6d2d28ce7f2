"""The command line behind ``tasks/graphs.py``: every model on every graph task, seed by seed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch_geometric
from jsonargparse import ArgumentParser
from torch.nn import functional as F

from sbmgraph.files import write_atomically
from sbmgraph.run import Run
from sbmgraph.training.callbacks import run_callbacks, run_loggers
from sbmgraph.training.checkpoints import AtomicCheckpointIO
from sbmgraph.training.cli import be_quiet, command_of, told
from sbmgraph.training.faults import naming_full_disk
from sbmgraph.training.graphs.blocks import block_measures
from sbmgraph.training.graphs.models import MODELS, NodeClassifier, Setting, build_body
from sbmgraph.training.graphs.module import GraphClassifier, GraphDataModule, setting_of
from sbmgraph.training.graphs.table import load, section
from sbmgraph.training.graphs.tasks import TASKS
from sbmgraph.training.summary import device_name, peak_memory, training_seconds
from sbmgraph.training.task_cli import about, find_presets
from sbmgraph.version import __version__

VARIED = "gps-sbm"
"""The model that may have variants."""


def main(argv: Sequence[str] | None = None, program: str = "tasks/graphs.py") -> int:
    """Runs the command line; returns the exit code: 0, or 2 for bad input."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = ArgumentParser(prog=program, description=about(train_all))
    parser.add_argument("--config", action="config", help="A YAML file, or 'graphs'")
    parser.add_function_arguments(train_all, skip={"command"})
    be_quiet()

    def work() -> None:
        given = parser.instantiate(parser.parse_args(find_presets(argv))).as_dict()
        given.pop("config", None)
        command = shlex.join([*command_of(program).split(), *argv])
        train_all(**given, command=command)

    return told(program, work)


def train_all(
    tasks: list[str] = list(TASKS),  # noqa: B006
    models: list[str] = list(MODELS),  # noqa: B006
    seeds: list[int] = [1, 2, 3],  # noqa: B006
    setting: Setting = Setting(),  # noqa: B008
    overrides: dict[str, dict[str, Any]] = {},  # noqa: B006
    variants: dict[str, dict[str, Any]] = {},  # noqa: B006
    output: str = "tasks/results/graphs.json",
    runs: str = "runs",
    command: str = "",
) -> None:
    """Trains every model on every task, one seed after the other, and writes the results.

    Args:
        tasks: Names of tasks.
        models: Names of models.
        seeds: Seeds of the runs.
        setting: Everything else of a run.
        overrides: Entries of the setting that a task has otherwise, by the task's name.
        variants: Entries of the setting that a variant of gps-sbm has otherwise, by a name for it
            (as in the preset graphs_blocks). Each is trained besides.
        output: JSON file of the results; runs that are in it already are not repeated.
        runs: Folder of all runs.
        command: What to note as the command.

    Raises:
        ValueError: If an argument is unknown or out of range, before anything is trained.
    """
    for name, values, choices in (("tasks", tasks, TASKS), ("models", models, MODELS)):
        unknown = [value for value in values if value not in choices]
        if unknown:
            raise ValueError(f"'{name}' must hold names among {list(choices)}, got {unknown}")
    unknown = sorted(set(overrides) - set(TASKS))
    if unknown:
        raise ValueError(f"'overrides' must map tasks among {list(TASKS)}, got {unknown}")
    own = {task: setting_of(setting, overrides.get(task, {})) for task in TASKS}
    named = {name: (name, own) for name in models}
    for name, changes in variants.items():
        changed = {task: setting_of(own[task], changes) for task in TASKS}
        named[f"{VARIED}-{name}"] = (VARIED, changed)
    path = Path(output)
    before = load(path) if path.exists() else {"runs": [], "commands": []}
    results = before["runs"]
    commands = list(dict.fromkeys([*before["commands"], *([command] if command else [])]))
    done = {(run["task"], run["model"], run["seed"], run["steps"]) for run in results}
    for task in tasks:
        for seed in seeds:
            for label, (model, settings) in named.items():
                if (task, label, seed, settings[task].steps) in done:
                    continue
                run = Run.at(Path(runs) / "graphs" / task, label, seed)
                result = train_apart(task, model, seed, settings[task], run)
                results.append({**result, "model": label})
                save(path, results, commands, setting, overrides)
                print(_line(results[-1]), flush=True)
    print(section(path))


def train(task: str, name: str, seed: int, setting: Setting, run: Run) -> dict[str, Any]:
    """Trains and tests one model in a run folder.

    Returns:
        JSON values: those of every run's ``summary.json``, ``density`` and ``peak_mib`` (resident
        memory of training above that before it), and ``loss`` (at the start and every tenth of the
        steps).
    """
    with run.lock(), naming_full_disk(run):
        _warm_up(task, name, setting)
        start_bytes = _resident()
        L.seed_everything(seed, verbose=False)
        module = GraphClassifier(task, name, asdict(setting), seed)
        data = GraphDataModule(task, setting, seed)
        run.remove_checkpoints()
        loggers = run_loggers(run)
        trainer = L.Trainer(
            max_steps=setting.steps,
            accelerator="cpu",
            devices=1,
            logger=loggers,
            callbacks=run_callbacks(run, loggers[0]),  # type: ignore[arg-type]
            plugins=[AtomicCheckpointIO()],
            log_every_n_steps=max(setting.steps // 10, 1),
            num_sanity_val_steps=0,
            limit_val_batches=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(run),
        )
        trainer.fit(module, data)
        peak_bytes = peak_memory(torch.device("cpu"))
        trainer.test(module, data, verbose=False)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        summary = {
            "task": task,
            "model": name,
            "seed": seed,
            "accuracy": metrics["test/accuracy"],
            "majority": data.majority(),
            "density": metrics.get("test/density"),
            "mean_density": metrics.get("test/density"),
            **block_measures(module, data),
            "steps": trainer.global_step,
            "parameters": sum(weight.numel() for weight in module.parameters()),
            "options": asdict(setting),
            "batch_size": setting.batch_size,
            "seconds": round(training_seconds(trainer), 2),
            "peak_memory_bytes": peak_bytes,
            "peak_mib": None
            if start_bytes is None
            else round(max(peak_bytes - start_bytes, 0) / 2**20, 1),
            "device": device_name(torch.device("cpu")),
            "loss": run.metrics()["train/loss"].dropna().round(4).tolist(),
            "name": f"graphs_{task}",
        }
        run.write_summary(summary)
        return summary


def train_apart(*args: Any) -> dict[str, Any]:
    """:func:`train` in a process of its own, so that memory is that of one run.

    The process comes from a server that has run nothing yet: torch's threads do not outlive a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sbmgraph.training.graphs.module"])
    with ProcessPoolExecutor(1, mp_context=context, initializer=be_quiet) as pool:
        return pool.submit(train, *args).result()


def save(
    path: Path,
    results: list[dict[str, Any]],
    commands: list[str],
    setting: Setting,
    overrides: dict[str, Any],
) -> None:
    """Writes the results, whole or not at all."""
    content = {
        "commands": commands,
        "setting": asdict(setting),
        "overrides": overrides,
        "threads": torch.get_num_threads(),
        "versions": {
            "sbmgraph": __version__,
            "torch": torch.__version__,
            "torch_geometric": torch_geometric.__version__,
        },
        "runs": results,
    }
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def _warm_up(task: str, name: str, setting: Setting) -> None:
    """One step of two graphs, so that no run's time holds the loading of compiled code."""
    model = NodeClassifier(TASKS[task], build_body(name, TASKS[task], setting), setting.channels)
    data = TASKS[task].sample(2, torch.Generator(device="cpu").manual_seed(0))
    F.cross_entropy(model(data), data.y).backward()


def _resident() -> int | None:
    """Resident bytes of this process; :obj:`None` where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _line(run: dict[str, Any]) -> str:
    density = "" if run["density"] is None else f", density {run['density']:.1%}"
    return (
        f"{run['task']} {run['model']} seed {run['seed']}: {run['accuracy']:.1%}{density}, "
        f"{run['seconds']:.0f} s"
    )
