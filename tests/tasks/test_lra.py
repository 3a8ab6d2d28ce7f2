"""The command line: runs and seeds, what bad input leads to, and two processes."""

import json
import os
import re
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
OTHERS = ("duplicates", "graphs", "glue", "sparsify")
LRA = [path for path in CONFIGS if path.stem.split("_")[0] not in OTHERS]
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
    task, _, variant = config.stem.partition("_")
    assert values.data.task == task
    assert variant in ("", "quick", "authors", "sparse")
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


@pytest.mark.parametrize("equals", [False, True])
def test_options_of_a_model_add_to_those_of_the_configuration(equals):
    """jsonargparse kept the last of them only."""
    from sbmgraph.training.cli import TaskCLI

    given = {
        "sbm.membership": "softmax",
        "sbm.init_density": "0.3",
        "sbm.shared_membership": "false",
        "linformer.projected_length": "16",
    }
    pairs = [(f"--model.options.{key}", value) for key, value in given.items()]
    flags = ["=".join(pair) for pair in pairs] if equals else [x for pair in pairs for x in pair]
    options = TaskCLI(["--config", "listops_quick", *flags], build=False).config.model.options
    plain = TaskCLI(["--config", "listops_quick"], build=False).config.model.options
    assert plain["sbm"]["num_clusters"]
    added = {"membership": "softmax", "init_density": 0.3, "shared_membership": False}
    assert options["sbm"] == {**plain["sbm"], **added}
    assert options["linformer"] == {"projected_length": 16}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.options.sbm.num_clusters"], "num_clusters: expected a value, got none"),
        (["--model.options.sbm.law", "[x"], "sbm.law: expected a value in YAML, got '[x'"),
    ],
)
def test_options_without_a_readable_value(arguments, flags, message, capsys):
    assert main(["fit", *arguments, *flags]) == 2
    assert message in capsys.readouterr().err


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


NEVER = [
    (["--name", "../../escape"], "name: expected the name of one folder"),
    (["--name", "a/b"], "name: expected the name of one folder"),
    (["--name", ".."], "name: expected the name of one folder"),
    (["--name", "a\nb"], "name: expected the name of one folder"),
    (["--seeds", "[-1]"], "seeds: expected numbers from 0"),
    (
        ["--trainer.strategy", "ddp_notebook"],
        "trainer.strategy: expected a strategy whose processes",
    ),
    (
        ["--trainer.accumulate_grad_batches", "0"],
        "trainer.accumulate_grad_batches: expected at least",
    ),
    (["--trainer.enable_checkpointing", "false"], "expected enable_checkpointing: true"),
    (["--trainer.barebones", "true"], "expected enable_checkpointing: true and barebones: false"),
    (["--trainer.devices", "0"], "trainer: expected what Lightning can run on, got "),
    (["--trainer.precision", "transformer-engine"], "trainer: expected what Lightning can run on"),
    (["--trainer.strategy", "ddp_spawn"], "trainer.strategy: expected a strategy whose processes"),
    (["--trainer.fast_dev_run", "true"], "trainer.fast_dev_run: expected false"),
    (["--trainer.limit_test_batches", "0"], "trainer.limit_test_batches: expected at least one"),
    (["--trainer.max_steps", "-1"], "trainer.max_steps: expected a number of steps, got -1"),
    (
        ["--trainer.max_steps", "-1", "--trainer.max_time", "00:00:00:01"],
        "take '--model.schedule constant'",
    ),
    (["--trainer.max_steps", "0"], "trainer.max_steps: expected at least one step"),
    (["--model.warmup_steps", "2"], "'warmup_steps' must be below the run's 2 steps"),
    (["--data.round_steps", "3"], "data.round_steps: expected a divisor"),
    (["--data.batch_size", "0"], "'batch_size' must be an integer >= 1"),
    (["--data.options.min_lenght", "5"], "min_lenght"),
    (["--model.options.sbm", '{"num_clutsers": 4}'], "num_clutsers"),
    (["--model.density.target", "1.5"], "'target' must be a number in [0, 1]"),
    (["--model.schedule", "cosine"], "'schedule' must be one of"),
    (["--compare", "[fulll]"], "got fulll"),
    (["--ckpt_path", "last"], "expected a run folder with a checkpoint"),
]


@pytest.mark.parametrize(("flags", "message"), NEVER, ids=lambda value: str(value)[-30:])
def test_arguments_are_checked_before_data_and_folders(tmp_path, arguments, capsys, flags, message):
    places = ["--data.root", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]
    try:
        code = main(["fit", *arguments, *places, *flags])
    except SystemExit as error:  # what jsonargparse refuses by itself
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_class_paths_are_lightnings_or_ours(tmp_path, arguments, monkeypatch, capsys):
    (tmp_path / "lurking.py").write_text(
        "from lightning.pytorch.callbacks import Callback\n"
        f"open({str(tmp_path / 'imported')!r}, 'w')\n"
        "class Lurking(Callback): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = yaml.safe_load(Path(arguments[1]).read_text())
    config["trainer"]["callbacks"] = [{"class_path": "lurking.Lurking"}]
    Path(arguments[1]).write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as error:
        main(["fit", *arguments])
    assert error.value.code == 2
    assert "Importing 'lurking.Lurking' is not allowed" in capsys.readouterr().err
    assert not (tmp_path / "imported").exists()


def test_only_time_ends_a_run_at_a_constant_rate(tmp_path, arguments):
    flags = ["--trainer.max_steps", "-1", "--trainer.max_time", "00:00:00:02"]
    assert main(["fit", *arguments, *flags, "--model.schedule", "constant"]) == 0
    [path] = (tmp_path / "runs").rglob("summary.json")
    assert json.loads(path.read_text())["steps"] > 0


def test_the_second_run_into_a_folder_is_told_who_is_there(tmp_path, arguments, capsys):
    folder = tmp_path / "runs/tiny/full/seed1"
    program = (
        "import sys\n"
        "from sbmgraph.training import Run\n"
        f"with Run({str(folder)!r}).lock():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    command = [sys.executable, "-c", program]
    arguments = ["fit", *arguments, "--model.name", "full"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert f"process {holder.pid} on " in error
        assert ", since 20" in error
        assert not (folder / "config.yaml").exists()
        holder.kill()
        holder.wait()
    assert main(arguments) == 0  # a dead process holds nothing
    assert not (folder / ".lock.json").exists()


def test_nothing_is_logged_every_zero_steps(tmp_path, arguments):
    """Lightning's "never"."""
    flags = ["--model.name", "full", "--trainer.log_every_n_steps", "0"]
    assert main(["fit", *arguments, *flags]) == 0


def test_a_missing_package_is_one_line(arguments, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "linformer", None)
    assert main(["fit", *arguments, "--model.name", "linformer"]) == 2
    assert "error: this model needs the package 'linformer'" in capsys.readouterr().err


def test_a_run_is_found_again_from_elsewhere(tmp_path, root, arguments, monkeypatch):
    from sbmgraph.training import load_run

    monkeypatch.chdir(root.parent)
    arguments[arguments.index("--data.root") + 1] = root.name
    assert main(["fit", *arguments, "--model.name", "full"]) == 0
    monkeypatch.chdir(tmp_path)
    _, data = load_run(tmp_path / "runs/tiny/full/seed1")
    assert data.root == root
    assert len(data.datasets["test"]) == 16
    assert not (tmp_path / "data").exists()
    moved = tmp_path / "runs/tiny/full/seed1/config.yaml"
    moved.write_text(moved.read_text().replace(str(root), str(tmp_path / "gone")))
    with pytest.raises(ValueError, match="gone: expected the data folder"):
        load_run(moved.parent)
    assert load_run(moved.parent, root=root)[1].root == root


@pytest.mark.parametrize("place", ["tensorboard", "metrics", "checkpoint"])
def test_a_full_disk_during_a_run_is_one_line(tmp_path, arguments, monkeypatch, capfd, place):
    import errno

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if place == "tensorboard":
        from tensorboard.summary.writer.record_writer import RecordWriter

        monkeypatch.setattr(RecordWriter, "write", full)
        monkeypatch.setattr(RecordWriter, "flush", full)
    elif place == "metrics":
        monkeypatch.setattr("sbmgraph.training.metrics.MetricsFile.log_metrics", full)
    else:
        monkeypatch.setattr("sbmgraph.training.checkpoints.write_atomically", full)
    assert main(["fit", *arguments, "--model.name", "full", "--trainer.max_steps", "40"]) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    [line] = [line for line in error.splitlines() if "error:" in line]
    assert "runs/tiny/full/seed1: expected a disk with room for the run, but it is full" in line


def test_help_is_readable_and_complete(capsys):
    with pytest.raises(SystemExit) as error:
        main(["fit", "--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    assert "``" not in text
    assert ":class:" not in text
    assert ":data:" not in text
    for word in ("num_clusters", "init_density", "nystromformer", "pathfinder32", "listops_quick"):
        assert word in text.split("models (--model.name")[1]


def test_progress_names_model_seed_and_round(tmp_path, arguments, capfd):
    flags = ["--trainer.enable_progress_bar", "true", "--trainer.max_steps", "4"]
    assert main(["fit", *arguments, *flags, "--model.name", "full", "--seeds", "[7]"]) == 0
    assert "full, seed 7, round 2 of 2" in capfd.readouterr().out


def test_presets_by_name(tmp_path, root, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "--config", "listops_quik"]) == 2
    assert "config: expected a file or one of" in capsys.readouterr().err
    small = [f"--data.options.{key}={value}" for key, value in OPTIONS.items()]
    assert main(["prepare", "--config", "listops_quick", "--data.root", str(root), *small]) == 0


def test_tensorboard_has_every_step_once_after_a_resume(tmp_path, arguments):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = ["fit", *arguments, "--model.name", "full", "--model.schedule", "constant"]
    assert main([*run, "--trainer.max_steps", "4"]) == 0
    folder = tmp_path / "runs/tiny/full/seed1"
    (folder / "checkpoints/last.ckpt").write_bytes((folder / "checkpoints/best.ckpt").read_bytes())
    step = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert main([*run, "--trainer.max_steps", "8", "--ckpt_path", "last"]) == 0
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == list(range(8)), step


def test_a_run_ends_with_a_sentence_about_its_heads(tmp_path, root, arguments, capsys):
    assert main(["fit", *arguments]) == 0
    [path] = (tmp_path / "runs").rglob("summary.json")
    sentence = json.loads(path.read_text())["structure"]
    assert re.search(r"head [01] \(density \d+%\): ", sentence)
    assert "digits" in sentence or "operators" in sentence or "']'" in sentence
    assert sentence in capsys.readouterr().out
