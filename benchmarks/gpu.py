"""Everything that a GPU must show, within ten minutes on an H100.

Each part runs in a process of its own with its own time limit and appends its results as they
come, so that a part that fails or hangs keeps what it had and stops none::

    python benchmarks/gpu.py                     # all parts
    python benchmarks/gpu.py --parts truth law   # some

Results go to ``benchmarks/gpu.jsonl``, output of the parts beside it, and tables to
``benchmarks/GPU.md``. Without a GPU it says what it would run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.gpu_parts import PARTS, SIZES, Part, Run  # noqa: E402
from sbmgraph.files import write_atomically  # noqa: E402
from sbmgraph.version import __version__  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("gpu.jsonl"))
    parser.add_argument("--size", choices=SIZES, default="full", help="tiny: to try the parts out")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--here", action="store_true", help="one part, in this process, no limit")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device. With one, this would run:")
        for name in chosen.parts:
            print(f"  {name:12s} at most {PARTS[name].limit:3d} s: {PARTS[name].what}")
        return 0
    if chosen.here:
        for name in chosen.parts:
            PARTS[name].run(Run(name, SIZES[chosen.size], chosen.device, chosen.output))
        return 0
    chosen.output.unlink(missing_ok=True)
    append(chosen.output, {"part": "machine", **describe_machine(chosen.device)})
    failed = 0
    for name in chosen.parts:
        row = run_part(name, PARTS[name], chosen)
        failed += row["status"] != "ok"
        append(chosen.output, row)
        print(json.dumps(row), flush=True)
        report = to_markdown(read(chosen.output), [*sys.argv[1:]])
        write_atomically(chosen.output.with_name(chosen.output.stem.upper() + ".md"), report)
    return int(failed > 0)


def run_part(name: str, part: Part, chosen: argparse.Namespace) -> dict[str, Any]:
    """Runs a part in a process of its own, and kills it and its children at its limit."""
    command = [sys.executable, __file__, "--here", "--parts", name, "--size", chosen.size]
    command += ["--device", chosen.device, "--output", str(chosen.output)]
    log = chosen.output.with_suffix(f".{name}.log")
    start = time.monotonic()
    with open(log, "w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
        try:
            status = "ok" if process.wait(part.limit) == 0 else f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {part.limit} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    row = {"part": "parts", "name": name, "status": status}
    row["seconds"] = round(time.monotonic() - start, 1)
    if status != "ok":
        row["last_lines"] = " / ".join(log.read_text(errors="replace").splitlines()[-3:])[-600:]
    return row


def append(path: Path, row: dict[str, Any]) -> None:
    """Adds a line to the results, at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The results; a line that a killed process left unfinished is passed over."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def describe_machine(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    import triton

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "sbmgraph": __version__,
    }


def to_markdown(rows: list[dict[str, Any]], arguments: list[str]) -> str:
    """One table a part; its columns are what its rows name."""
    machine = next(row for row in rows if row["part"] == "machine")
    lines = [
        "# What a GPU shows",
        "",
        f"`{shlex.join(['python', 'benchmarks/gpu.py', *arguments])}` on {machine['device']}: "
        + ", ".join(f"{k} {v}" for k, v in machine.items() if k not in ("part", "device"))
        + ". Times are medians in milliseconds.",
    ]
    titles = {"parts": "Parts", **{name: part.what for name, part in PARTS.items()}}
    for name, title in titles.items():
        mine = [
            {k: v for k, v in row.items() if k != "part"} for row in rows if row["part"] == name
        ]
        if not mine:
            continue
        columns = list(dict.fromkeys(key for row in mine for key in row))
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", "| " + " | ".join(columns) + " |"]
        lines.append("|---" * len(columns) + "|")
        lines += [
            "| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in mine
        ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
