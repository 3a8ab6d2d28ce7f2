"""The command line: runs and seeds, what bad input leads to, and two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from sbmgraph.training.cli import main, portable

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "tasks" / "lra.py"
CONFIGS = sorted((REPOSITORY / "tasks" / "configs").glob("*.yaml"))
LRA = [path for path in CONFIGS if path.stem.split("_")[0] not in ("duplicates", "graphs")]
OPTIONS = {"num_train": 64, "num_val": 16, "num_test": 16, "min_length": 5, "max_length": 40}
CONFIG = {
    "name": "tiny",
    "data": {"task": "listops", "batch_size": 4, "round_steps": 2, "options": OPTIONS},
    "model": {
        "channels": 8,
        "num_layers": 1,
        "dropout": 0.0,
        "warmup_steps": 1,
        "options": {"sbm": {"num_clusters": 4}},
    },
    "trainer": {
        "max_steps": 2,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "log_every_n_steps": 1,
    },
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Prepared data, shared by the tests."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def arguments(tmp_path, root):
    """The arguments after the command."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return ["--config", str(path), "--runs", str(tmp_path / "runs"), "--data.root", str(root)]


def test_max_time_ends_a_run_which_is_then_tested(tmp_path, arguments):
    long = ["--trainer.max_steps", "1000000", "--trainer.max_time", "00:00:00:02"]
    assert main(["fit", *arguments, "--compare", "[]", *long]) == 0
    (path,) = (tmp_path / "runs").rglob("summary.json")
    summary = json.loads(path.read_text())
    assert 0 < summary["steps"] < 1_000_000
    assert summary["accuracy"] is not None


def test_fit_trains_and_tests_every_model_and_seed(tmp_path, arguments, capsys):
    assert main(["fit", *arguments, "--compare", "[full]", "--seeds", "[3,4]"]) == 0
    folders = sorted(path.parent for path in (tmp_path / "runs").rglob("summary.json"))
    names = [folder.relative_to(tmp_path / "runs").as_posix() for folder in folders]
    assert names == ["tiny/full/seed3", "tiny/full/seed4", "tiny/sbm/seed3", "tiny/sbm/seed4"]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert [(s["model"], s["seed"]) for s in summaries] == [
        ("full", 3), ("full", 4), ("sbm", 3), ("sbm", 4),
    ]  # fmt: skip
    assert all("--runs" not in s["command"] for s in summaries)
    assert (folders[2] / "graph.png").read_bytes()[:4] == b"\x89PNG"
    assert (folders[2] / "density.png").read_bytes()[:4] == b"\x89PNG"
    config = yaml.safe_load((folders[3] / "config.yaml").read_text())
    assert (config["model"]["name"], config["seed_everything"]) == ("sbm", 4)
    table = capsys.readouterr().out
    assert "majority class" in table
    assert table.count("full") >= 2
    weights = [torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in folders[2:]]
    key = "model.classifier.0.weight"
    assert not torch.equal(weights[0]["state_dict"][key], weights[1]["state_dict"][key])

    assert main(["test", *arguments, "--seeds", "[3]"]) == 0
    assert str(summaries[2]["accuracy"])[:6] in capsys.readouterr().out


def test_lightnings_own_flags(tmp_path, arguments):
    flags = [
        "--trainer.precision=bf16-mixed",
        "--trainer.gradient_clip_val=1.0",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.max_steps=40",
        "--trainer.callbacks+=EarlyStopping",
        "--trainer.callbacks.monitor=val/loss",
        "--trainer.callbacks.patience=1",
        "--trainer.callbacks.min_delta=100.0",
    ]
    assert main(["fit", *arguments, *flags]) == 0
    [path] = (tmp_path / "runs").rglob("summary.json")
    summary = json.loads(path.read_text())
    assert summary["steps"] == 4  # the second round is no better by 100
    assert summary["batch_size"] == 8


def test_an_earlier_run_is_kept_unless_told(tmp_path, arguments, capsys):
    checkpoint = tmp_path / "runs/tiny/full/seed1/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"precious")
    arguments = ["fit", *arguments, "--model.name", "full"]
    assert main(arguments) == 2
    assert "expected no earlier run, found last.ckpt" in capsys.readouterr().err
    assert checkpoint.read_bytes() == b"precious"
    assert main([*arguments, "--overwrite", "true"]) == 0
    assert checkpoint.read_bytes() != b"precious"

    for name, flags, message in [
        ("another task", ["--data.options.max_length", "30"], "max_length = 30"),
        ("another model", ["--model.name", "linear"], "name = 'linear', got one with name"),
    ]:
        code = main([*arguments, *flags, "--name", "other", "--ckpt_path", str(checkpoint)])
        assert code == 2, name
        assert message in capsys.readouterr().err


def test_prepare_describes_the_data(arguments, capsys):
    assert main(["prepare", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" items")[0] for line in lines] == [
        "listops/train: 64",
        "listops/val: 16",
        "listops/test: 16",
    ]


@pytest.mark.parametrize(
    "argument",
    [
        "--model.nmae=sbm",
        "--data.options=3",
        "--model.heads=two",
        "--trainer.max_stepz=3",
        "--sed=1",
    ],
)
def test_misspelt_or_mistyped_keys(arguments, argument, capsys):
    with pytest.raises(SystemExit) as error:
        main(["fit", *arguments, argument])
    assert error.value.code == 2
    assert argument.split("=")[0].split(".")[-1].strip("-") in capsys.readouterr().err


def test_a_config_with_a_misspelt_key(tmp_path, arguments, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(path.read_text().replace("warmup_steps", "warmup_step"))
    with pytest.raises(SystemExit) as error:
        main(["fit", *arguments])
    assert error.value.code == 2
    assert "warmup_step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--model.name", "fulll"], "got fulll"),
        (["--compare", "[fulll]"], "got fulll"),
        (["--seeds", "[]"], "seeds: expected at least one seed"),
        (["--data.task", "listop"], "got 'listop'"),
        (["--data.options.min_lenght", "5"], "min_lenght"),
        (["--model.options.sbm", '{"num_clutsers": 4}'], "num_clutsers"),
        (["--data.round_steps", "3"], "data.round_steps: expected a divisor"),
        (["--ckpt_path", "last"], "expected a run folder with a checkpoint"),
        (["--ckpt_path", "nowhere.ckpt"], "ckpt_path: expected 'last' or a checkpoint"),
        (["--data.task", "text", "--data.options", "{}"], "aclImdb"),
    ],
)
def test_bad_values(arguments, changes, message, capsys):
    assert main(["fit", *arguments, *changes]) == 2
    assert message in capsys.readouterr().err


def test_no_or_another_command(capsys):
    assert main([]) == 2
    assert main(["fti"]) == 2
    assert "usage" in capsys.readouterr().err
    assert main(["--help"]) == 0


def test_portable_arguments_say_nothing_of_places():
    given = ["fit", "--config", "a.yaml", "--runs", "/x", "--data.root=/y", "--seeds", "[1]",
             "--ckpt_path", "last"]  # fmt: skip
    assert portable(given) == ["fit", "--config", "a.yaml", "--seeds", "[1]"]


@pytest.mark.parametrize("config", LRA, ids=lambda path: path.stem)
def test_configs_parse_and_name_their_task(config):
    from sbmgraph.training.cli import TaskCLI

    values = TaskCLI(["--config", str(config)], build=False).config
    assert values.name == config.stem
    assert values.data.task == config.stem.removesuffix("_quick")
    assert values.trainer.max_steps % values.data.round_steps == 0
    assert values.model.warmup_steps < values.trainer.max_steps


def run_script(tmp_path, root, name, *flags):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "trainer": {**CONFIG["trainer"], "max_steps": 6}}))
    command = [sys.executable, SCRIPT, "fit", "--config", config, "--runs", tmp_path / "runs",
               "--data.root", root, "--name", name, *flags]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    [folder] = (tmp_path / "runs" / name).glob("*/seed1")
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state, json.loads((folder / "summary.json").read_text())


TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


@pytest.mark.slow
def test_two_processes_are_one_with_the_doubled_batch(tmp_path, root):
    full = ("--model.name", "full")
    one, summary = run_script(tmp_path, root, "one", *full, "--data.batch_size", "8")
    two, both = run_script(tmp_path, root, "two", *full, *TWO)
    assert both["batch_size"] == summary["batch_size"] == 8
    assert both["steps"] == summary["steps"] == 6
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=2e-5, rtol=1e-4)
    assert both["accuracy"] == pytest.approx(summary["accuracy"], abs=1e-6)


@pytest.mark.slow
def test_two_processes_train_sbm(tmp_path, root):
    _, summary = run_script(tmp_path, root, "two", *TWO)
    assert summary["model"] == "sbm"
    assert summary["density"] is not None
