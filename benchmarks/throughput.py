"""Training throughput and peak memory of every model on every task of Long Range Arena.

Sequences per second and peak memory of a training step (forward and backward) at the paper's model
size: 2 layers, 2 heads, 64 channels. Inputs are random tokens of the tasks' lengths, so nothing has
to be downloaded. Every cell runs in a process of its own, one after the other, and reports the
median of its steps after a warm-up::

    python benchmarks/throughput.py
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from sbmgraph.files import write_atomically
from sbmgraph.nn.models import MODELS, build_model
from sbmgraph.version import __version__


@dataclass(frozen=True)
class Task:
    """Sizes of a task, with few items so that two CPU cores can run it."""

    lengths: tuple[int, ...]
    vocab_size: int
    num_classes: int
    max_length: int
    num_documents: int = 1


TASKS = {
    "listops": Task((520, 700, 880, 1060, 1240, 1420, 1600, 1980), 32, 10, 2048),
    "text": Task((3072,) * 2, 512, 2, 3072),
    "retrieval": Task((4096,) * 2, 512, 2, 4096, num_documents=2),
    "image": Task((1024,) * 8, 256, 10, 1024),
    "pathfinder32": Task((1024,) * 8, 256, 2, 1024),
}


@dataclass(frozen=True)
class Variant:
    """A model and the options of its attention."""

    model: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's name, with its options."""
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.model} ({options})" if options else self.model


VARIANTS = [Variant("sbm"), Variant("sbm", {"init_density": 0.05}), *map(Variant, MODELS[1:])]

FOLDER = Path(__file__).parent


def main(
    models: list[str] | None = None,
    tasks: list[str] | None = None,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    seconds: float = 3.0,
    output: Path = FOLDER / "throughput.json",
) -> None:
    """Measures and writes a JSON file and, beside it, ``THROUGHPUT.md``.

    Args:
        models: Names of models. (default: all)
        tasks: Names of tasks. (default: all)
        device: Where to run.
        seconds: Steps of a cell are repeated for this long, twice at least.
        output: The JSON file.
    """
    for name, chosen, known in (("models", models, MODELS), ("tasks", tasks, TASKS)):
        unknown = sorted(set(chosen or []) - set(known))
        if unknown:
            raise SystemExit(f"{name}: expected any of {', '.join(known)}, got {unknown}")
    cells = [
        (task, variant)
        for task in (tasks or TASKS)
        for variant in VARIANTS
        if models is None or variant.model in models
    ]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sbmgraph.nn.models"])
    results = []
    for task, variant in cells:
        result = _in_child(context, task, variant, device, seconds)
        results.append({"task": task, "model": variant.name, **result})
        print(json.dumps(results[-1]), flush=True)
    report = {
        "command": shlex.join(["python", "benchmarks/throughput.py", *sys.argv[1:]]),
        "machine": describe_machine(device),
        "tasks": {name: asdict(task) for name, task in TASKS.items()},
        "results": results,
    }
    write_atomically(output, json.dumps(report, indent=2) + "\n")
    write_atomically(output.with_name("THROUGHPUT.md"), to_markdown(report))


def measure(task: Task, variant: Variant, device: str, seconds: float) -> dict[str, Any]:
    """Median seconds of a training step, sequences per second, and peak memory in bytes."""
    torch.manual_seed(0)
    model = build_model(
        variant.model,
        vocab_size=task.vocab_size,
        num_classes=task.num_classes,
        max_length=task.max_length,
        num_documents=task.num_documents,
        attention_dropout=0.0,
        **variant.options,
    ).to(device)
    lengths = torch.tensor(task.lengths)
    tokens = torch.randint(task.vocab_size, (sum(task.lengths),)).to(device)
    batch = torch.arange(len(lengths)).repeat_interleave(lengths).to(device)

    def step() -> float:
        start = time.perf_counter()
        model(tokens, batch).logsumexp(-1).sum().backward()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    before = _reset_peak(device)
    step()
    times = [step(), step()]
    while sum(times) < seconds:
        times.append(step())
    median = statistics.median(times)
    return {
        "seconds": median,
        "steps": len(times),
        "sequences_per_second": len(task.lengths) / median,
        "peak_memory_bytes": _peak(device) - before,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _in_child(
    context: multiprocessing.context.ForkServerContext,
    task: str,
    variant: Variant,
    device: str,
    seconds: float,
) -> dict[str, Any]:
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, TASKS[task], variant, device, seconds, torch.get_num_threads())
    child = context.Process(target=_child, args=arguments)
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        return {"error": f"the process ended with exit code {child.exitcode}"}
    finally:
        child.join()


def _child(
    sender: Connection, task: Task, variant: Variant, device: str, seconds: float, threads: int
) -> None:
    torch.set_num_threads(threads)
    try:
        sender.send(measure(task, variant, device, seconds))
    except (ImportError, RuntimeError, ValueError, MemoryError) as error:
        sender.send({"error": f"{type(error).__name__}: {error}"})


def _reset_peak(device: str) -> int:
    """Starts a new peak; returns the memory in use."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak(device)
    return _status("VmRSS")


def _peak(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")


def describe_machine(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    name = platform.processor() or platform.machine()
    if device != "cpu":
        name = torch.cuda.get_device_name()
    elif Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sbmgraph": __version__,
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report as tables, tasks side by side."""
    machine = report["machine"]
    lines = [
        "# Training throughput of all models",
        "",
        f"`{report['command']}` on {machine['device']}, {machine['threads']} threads, Python "
        f"{machine['python']}, torch {machine['torch']}, sbmgraph {machine['sbmgraph']}.",
        "",
        "Forward and backward of the paper's model size (2 layers, 2 heads, 64 channels), float32, "
        "without dropout of attention weights, on random tokens; median of the steps after one "
        "warm-up, each cell in a process of its "
        "own. Untrained `sbm` samples a quarter of all edges; with `init_density=0.05` one in "
        "twenty. Sequences of a batch: "
        + "; ".join(f"{name} {_sizes(task)}" for name, task in report["tasks"].items())
        + ".",
    ]
    columns = (
        ("Sequences per second", "sequences_per_second", _number),
        ("Peak memory of a step, MiB above the loaded model", "peak_memory_bytes", _mebibytes),
    )
    cells = {(cell["task"], cell["model"]): cell for cell in report["results"]}
    tasks = list(dict.fromkeys(task for task, _ in cells))
    models = list(dict.fromkeys(model for _, model in cells))
    for title, key, text in columns:
        lines += ["", f"## {title}", "", "| model | " + " | ".join(tasks) + " |"]
        lines += ["|---" + "|---:" * len(tasks) + "|"]
        for model in models:
            row = [cells.get((task, model), {}) for task in tasks]
            values = [text(cell[key]) if key in cell else "failed" for cell in row]
            lines.append(f"| {model} | " + " | ".join(values) + " |")
    errors = [cell for cell in report["results"] if "error" in cell]
    lines += [""] * bool(errors)
    lines += [f"- {cell['task']}, {cell['model']}: {cell['error']}" for cell in errors]
    return "\n".join(lines) + "\n"


def _sizes(task: dict[str, Any]) -> str:
    low, high = min(task["lengths"]), max(task["lengths"])
    span = f"{low}" if low == high else f"{low} to {high}"
    return f"{len(task['lengths'])} of {span} tokens"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _mebibytes(value: float) -> str:
    return f"{value / 2**20:,.0f}"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
