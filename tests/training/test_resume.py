"""A run killed at any moment and continued ends as one that never was, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

DRIVER = Path(__file__).with_name("killed_runs.py")
CHANGING = ("seconds", "peak_memory_bytes", "folder", "command")


def arguments(data: Path, model: str) -> list[str]:
    """A run of eight rounds of three steps, a bit over one epoch of its data."""
    options = {"num_train": 160, "num_val": 20, "num_test": 20, "min_length": 5, "max_length": 40}
    attention = {"sbm": {"num_clusters": 4}}
    return [
        "fit",
        f"--data.root={data}",
        "--data.task=listops",
        "--data.batch_size=4",
        "--data.round_steps=3",
        f"--data.options={json.dumps(options)}",
        f"--model.name={model}",
        "--model.channels=8",
        "--model.num_layers=1",
        f"--model.options={json.dumps(attention)}",
        "--model.warmup_steps=4",
        "--trainer.max_steps=24",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.gradient_clip_val=1.0",
        "--trainer.log_every_n_steps=2",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]


def outcome(folder: Path) -> dict:
    """All that must not depend on whether the run was killed."""
    [run] = folder.glob("*/*/*")
    summary = json.loads((run / "summary.json").read_text())
    checkpoints = {
        path.name: torch.load(path, weights_only=True)["state_dict"]
        for path in (run / "checkpoints").glob("*.ckpt")
    }
    assert not list(run.rglob("*.tmp"))
    return {
        "summary": {key: value for key, value in summary.items() if key not in CHANGING},
        "metrics": (run / "metrics.csv").read_text(),
        "weights": {
            (name, key): tensor.numpy().tobytes()
            for name, state in checkpoints.items()
            for key, tensor in state.items()
        },
    }


def check(tmp_path: Path, kills: int, seed: int, model: str) -> None:
    result = subprocess.run(
        [sys.executable, DRIVER, tmp_path, str(kills), str(seed), *arguments(tmp_path, model)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    _, runs, _, count = result.stdout.split()[-4:]
    assert int(count) >= kills
    whole = outcome(tmp_path / "whole")
    rows = whole["metrics"].splitlines()
    assert len(rows) == 1 + 12 + 8 + 1  # header, every second step, every validation, the test
    for number in range(int(runs)):
        assert outcome(tmp_path / f"killed{number}") == whole


def test_killed_and_continued(tmp_path):
    check(tmp_path, 2, 0, "sbm")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sbm", "full"])
def test_killed_at_ten_moments(tmp_path, model):
    check(tmp_path, 10, 1, model)
