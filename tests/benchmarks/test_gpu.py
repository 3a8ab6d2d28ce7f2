"""The parts of the GPU benchmark, tiny and on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_parts import PARTS, SIZES, Run


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_part_runs_and_notes_what_it_finds(name: str, tmp_path: Path) -> None:
    if name == "throughput":
        pytest.importorskip("jsonargparse")
        pytest.importorskip("performer_pytorch")
    output = tmp_path / "gpu.jsonl"
    PARTS[name].run(Run(name, SIZES["tiny"], "cpu", output))
    rows = gpu.read(output)
    assert rows
    assert all(row["part"] == name and "error" not in row for row in rows)


def test_limits_leave_no_more_than_ten_minutes() -> None:
    assert sum(part.limit for part in PARTS.values()) <= 600


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_says_what_it_would_run(capsys: pytest.CaptureFixture) -> None:
    assert gpu.main([]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in PARTS)


def test_a_part_that_fails_or_hangs_keeps_what_it_had_and_stops_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are run by a script that stands in for the benchmark's."""
    script = tmp_path / "parts.py"
    script.write_text(
        "import sys, time\n"
        "name, path = sys.argv[3], sys.argv[sys.argv.index('--output') + 1]\n"
        'print(\'{"part": "%s", "value": 1}\' % name, file=open(path, \'a\'), flush=True)\n'
        "time.sleep(600 if name == 'law' else 0)\n"
        "sys.exit(3 if name == 'truth' else 0)\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setitem(PARTS, "law", PARTS["law"]._replace(limit=2))
    output = tmp_path / "gpu.jsonl"
    chosen = ["--parts", "truth", "law", "layer", "--device", "cpu", "--output", str(output)]
    assert gpu.main(chosen) == 1
    rows = gpu.read(output)
    assert [row["part"] for row in rows if "value" in row] == ["truth", "law", "layer"]
    states = {row["name"]: row["status"] for row in rows if row["part"] == "parts"}
    assert states == {"truth": "exit code 3", "law": "stopped after 2 s", "layer": "ok"}
    assert "stopped after 2 s" in output.with_name("GPU.md").read_text()


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "gpu.jsonl"
    path.write_text(json.dumps({"part": "law"}) + '\n{"part": "la')
    assert gpu.read(path) == [{"part": "law"}]
