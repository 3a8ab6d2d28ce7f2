"""The folder of a run: where its files are, which runs are found, who may write, former names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sbmgraph.run import Run


def test_files_are_where_earlier_versions_left_them() -> None:
    run = Run("runs/x/sbm/seed1")
    found = {
        name: getattr(run, name).relative_to(run.path).as_posix()
        for name in dir(Run)
        if isinstance(getattr(Run, name), property) and name != "is_finished"
    }
    assert found == {
        "best": "checkpoints/best.ckpt",
        "checkpoint_folder": "checkpoints",
        "config_file": "config.yaml",
        "density_picture": "density.png",
        "graph_picture": "graph.png",
        "last": "checkpoints/last.ckpt",
        "metrics_file": "metrics.csv",
        "report_file": "report.html",
        "summary_file": "summary.json",
        "tensorboard_folder": "tensorboard",
        "tokenizer_file": "tokenizer.json",
    }
    assert (str(run), os.fspath(run), run) == (*("runs/x/sbm/seed1",) * 2, Run(run))
    assert Run.at("runs/x", "sbm", 1) == run
    assert Run.of_checkpoint(run.last).path == run.path.resolve()


def test_finished_runs_are_found(tmp_path: Path) -> None:
    for model, seed in (("sbm", 2), ("sbm", 1), ("full", 1)):
        Run.at(tmp_path / "x", model, seed).write_summary({"model": model, "seed": seed})
    Run(tmp_path / "x").write_summary([])
    Run.at(tmp_path / "x", "sbm", 3).write_config("data: {}")  # begun
    finished = [Run(tmp_path / "x" / name) for name in ("full/seed1", "sbm/seed1", "sbm/seed2")]
    assert Run.all_at(tmp_path / "x") == finished
    assert Run.all_at(tmp_path) == []
    assert Run.below(tmp_path) == [*finished, Run(tmp_path / "x")]
    assert finished[2].summary() == {"model": "sbm", "seed": 2}


def test_configuration_of_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run: expected a run folder with a config\.yaml, found"):
        run.config()
    run.write_config("data: {task: listops}\n")
    assert run.config() == {"data": {"task": "listops"}}
    for text in ("data: 3", "[", "a"):
        run.write_config(text)
        with pytest.raises(ValueError, match=r"config\.yaml: expected"):
            run.config()


def test_damaged_results_and_metrics_are_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(ValueError, match=r"summary\.json: expected the JSON of a finished run"):
        run.summary()
    with pytest.raises(ValueError, match=r"metrics\.csv: expected the metrics of a run"):
        run.metrics()
    run.metrics_file.write_text("step,a\n0,1.5\n")
    assert run.metrics()["a"].tolist() == [1.5]


def test_checkpoints_go_for_a_new_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.remove_checkpoints()
    run.checkpoint_folder.mkdir()
    for path in (run.best, run.last):
        path.touch()
    os.utime(run.best, (2e9, 2e9))
    assert run.checkpoints() == [run.last, run.best]
    run.remove_checkpoints()
    assert run.checkpoints() == []


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    program = f"from sbmgraph.run import Run\nwith Run({str(run)!r}).lock(): print('held')"

    def other() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    with run.lock():
        assert json.loads((run.path / ".lock.json").read_text())["pid"] == os.getpid()
        assert f"but process {os.getpid()} on" in other().stderr
    assert other().stdout == "held\n"
    assert not (run.path / ".lock.json").exists()


def test_former_names_work_and_say_so(tmp_path: Path) -> None:
    from sbmgraph.training import checkpoints, lock, summary
    from sbmgraph.training import run as module

    with pytest.warns(DeprecationWarning, match=r"is now sbmgraph\.training\.Run\.lock;"):
        lock_run = lock.lock_run
    with lock_run(tmp_path):
        assert (tmp_path / ".lock.json").exists()
    with pytest.warns(DeprecationWarning, match=r"training\.run\.newest_checkpoint is now"):
        newest = module.newest_checkpoint
    with pytest.raises(ValueError, match="found no whole one"):
        newest(tmp_path)
    with pytest.warns(DeprecationWarning, match=r"sbmgraph\.files\.write_json"):
        summary.write_json(tmp_path / "a.json", [1])
    assert json.loads((tmp_path / "a.json").read_text()) == [1]
    with pytest.warns(DeprecationWarning, match=r"sbmgraph\.run\.folder\.BEST"):
        assert checkpoints.BEST == "best.ckpt"
    for each in (checkpoints, lock, summary, module):
        with pytest.raises(AttributeError, match="no attribute 'never'"):
            _ = each.never
