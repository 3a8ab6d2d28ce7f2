"""The wheel by itself: built, installed, and used outside of the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("sbmgraph", "tasks", "pyproject.toml", "README.md", "LICENSE")


def call(*command, **options) -> subprocess.CompletedProcess:
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the sources, so that no older build gets in."""
    pytest.importorskip("setuptools")
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / part, source / part)
    # `results` is a folder of tasks, and a module of the package.
    shutil.copy(ROOT / "sbmgraph/training/results.py", source / "sbmgraph/training/results.py")
    out = source / "dist"
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
         "-w", out, source)  # fmt: skip
    [path] = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_what_is_no_code(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    presets = {f"sbmgraph/training/configs/{p.name}" for p in (ROOT / "tasks/configs").glob("*")}
    pages = {str(p.relative_to(ROOT)) for p in (ROOT / "sbmgraph/viz/templates").glob("*.*")}
    assert len(presets) > 10
    assert presets | pages | {"sbmgraph/py.typed"} <= names


@pytest.mark.slow
def test_the_installed_command_trains_outside_of_the_repository(wheel, tmp_path):
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    [site] = (tmp_path / "venv").glob("lib/python*/site-packages")
    call(sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", site, wheel)
    # Everything else comes from where the tests run; the wheel's own folder is found first. Lines
    # of paths alone, so that no editable install of the repository is switched on.
    others = [sysconfig.get_path("purelib"), *(p for p in sys.path if "site-packages" in p)]
    others += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    others = [p for p in dict.fromkeys(others) if Path(p).resolve() != ROOT]
    (site / "zz_others.pth").write_text("".join(f"{path}\n" for path in others))
    command = [tmp_path / "venv/bin/python", "-m", "sbmgraph"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    work = tmp_path / "elsewhere"
    work.mkdir()
    options = {"cwd": work, "env": environment}
    where = call(command[0], "-c", "import sbmgraph; print(sbmgraph.__file__)", **options).stdout
    assert where.strip() == str(site / "sbmgraph/__init__.py")
    for script in site.glob("bin/sbmgraph"):
        assert "sbmgraph.__main__" in script.read_text()
    listed = call(*command, "--help", **options).stdout
    for name in ("lra", "synthetic", "graphs", "report", "results"):
        assert f"  {name} " in listed
    small = {"num_train": 64, "num_val": 16, "num_test": 16, "min_length": 5, "max_length": 40}
    call(*command, "lra", "fit", "--config", "listops_quick", "--compare", "[]",
         *(f"--data.options.{key}={value}" for key, value in small.items()),
         "--data.batch_size=4", "--data.round_steps=2", "--model.warmup_steps=1",
         "--trainer.max_steps=2", "--trainer.enable_progress_bar=false", **options)  # fmt: skip
    run = work / "runs/listops_quick/sbm/seed1"
    assert (run / "summary.json").is_file()
    said = call(*command, "lra", "predict", run, "--text", "[MAX 2 9 ]", **options).stdout
    assert "class: " in said
    call(*command, "report", run, **options)
    assert (run / "report.html").is_file()
    call(*command, "results", "runs", "--results", "r", "--output", "r.md", **options)
    assert "| sbm |" in (work / "r.md").read_text()
