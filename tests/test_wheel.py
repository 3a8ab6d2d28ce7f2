"""The wheel by itself: built, installed, and used outside of the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from sbmgraph.__main__ import COMMANDS

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


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Calls the installed wheel's command ``sbmgraph`` in a folder far from the repository."""
    place = tmp_path_factory.mktemp("installed")
    call(sys.executable, "-m", "venv", "--without-pip", place / "venv")
    [site] = (place / "venv").glob("lib/python*/site-packages")
    call(sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", site, wheel)
    # Everything else comes from where the tests run; the wheel's own folder is found first. Lines
    # of paths alone, so that no editable install of the repository is switched on.
    others = [sysconfig.get_path("purelib"), *(p for p in sys.path if "site-packages" in p)]
    others += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    others = [p for p in dict.fromkeys(others) if Path(p).resolve() != ROOT]
    (site / "zz_others.pth").write_text("".join(f"{path}\n" for path in others))
    python = place / "venv/bin/python"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    work = place / "elsewhere"
    work.mkdir()
    options = {"cwd": work, "env": environment}
    where = call(python, "-c", "import sbmgraph; print(sbmgraph.__file__)", **options).stdout
    assert where.strip() == str(site / "sbmgraph/__init__.py")
    for script in site.glob("bin/sbmgraph"):
        assert "sbmgraph.__main__" in script.read_text()

    def command(*arguments) -> str:
        return call(python, "-m", "sbmgraph", *arguments, **options).stdout

    command.work = work
    return command


@pytest.mark.slow
def test_the_installed_command_trains_outside_of_the_repository(installed):
    listed = installed("--help")
    for name in COMMANDS:
        assert f"  {name} " in listed
    small = {"num_train": 64, "num_val": 16, "num_test": 16, "min_length": 5, "max_length": 40}
    installed("lra", "fit", "--config", "listops_quick", "--compare", "[]",
              *(f"--data.options.{key}={value}" for key, value in small.items()),
              "--data.batch_size=4", "--data.round_steps=2", "--model.warmup_steps=1",
              "--trainer.max_steps=2", "--trainer.enable_progress_bar=false")  # fmt: skip
    run = installed.work / "runs/listops_quick/sbm/seed1"
    assert (run / "summary.json").is_file()
    assert "class: " in installed("lra", "predict", run, "--text", "[MAX 2 9 ]")
    installed("compare", "runs")
    assert (installed.work / "runs/comparison.html").is_file()
    installed("report", run)
    assert (run / "report.html").is_file()
    installed("results", "runs", "--results", "r", "--output", "r.md")
    assert "| sbm |" in (installed.work / "r.md").read_text()


@pytest.mark.slow
def test_the_installed_command_trains_encoders(installed, tmp_path):
    pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    from sbmgraph.data import train_tokenizer

    data = tmp_path / "data"
    for folder in ("text", "glue/SST-2"):
        (data / folder).mkdir(parents=True)
    (data / "text/a.txt").write_text("the cat sat on the old mat\n" * 300)
    for split, count in (("train", 12), ("dev", 5)):
        rows = [f"a {('bad', 'good')[n % 2]} film\t{n % 2}" for n in range(count)]
        (data / f"glue/SST-2/{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows, ""]))
    small = ["--data.root", data, "--data.batch_size=4", "--trainer.log_every_n_steps=1",
             "--trainer.enable_progress_bar=false"]  # fmt: skip
    installed("glue", "pretrain", "--config", "glue_pretrain_quick", "--compare", "[]",
              "--data.options.vocab_size=280", "--data.options.length=96",
              "--data.options.validation_every=8", "--data.options.limit_val=4",
              "--data.options.limit_test=4", "--data.round_steps=2", "--trainer.max_steps=2",
              *small)  # fmt: skip
    pretrained = installed.work / "runs/glue_pretrain_quick/sbm/seed1"
    installed("glue", "finetune", "--config", "glue_finetune_quick", "--compare", "[]",
              "--tasks", "[sst2]", "--model.pretrained", pretrained, "--trainer.max_epochs=1",
              *small)  # fmt: skip
    table = installed("glue", "results", "runs")
    assert "| sbm | seed1 | 1 |" in table
    assert "perplexity" in table

    encoder = tmp_path / "encoder"
    encoder.mkdir()
    tokenizer = train_tokenizer([data / "text/a.txt"], 280)
    tokenizer.save(encoder / "tokenizer.json")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = transformers.BertConfig(vocab_size=tokenizer.vocab_size, intermediate_size=32, **sizes)
    transformers.BertModel(config).save_pretrained(encoder)
    installed("sparsify", "--encoder", encoder, "--task", "sst2", "--targets", "0.5", *small)
    assert "target 50 %" in (installed.work / "runs/sparsify/sst2/sparsify.md").read_text()
