"""What a run folder holds, and what happens when files are missing, torn or of another task."""

import csv
import json
import os

import pytest
import torch

from sbmgraph.files import write_atomically
from sbmgraph.training import Run, load_run, summarize
from sbmgraph.training.callbacks import TrimMemory
from sbmgraph.training.metrics import KeepMetrics, MetricsFile
from sbmgraph.training.run import load_weights


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_are_rows_and_later_columns_are_added(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"a": 1.5, "epoch": 0}, step=0)
    metrics.log_metrics({"a": 2.5}, step=1)
    metrics.log_metrics({"b": 0.1 + 0.2}, step=1)
    assert rows(tmp_path / "metrics.csv") == [
        {"step": "0", "a": "1.5", "b": ""},
        {"step": "1", "a": "2.5", "b": ""},
        {"step": "1", "a": "", "b": repr(0.1 + 0.2)},
    ]


@pytest.mark.parametrize("kept", range(4))
def test_metrics_go_back_to_a_checkpoint(tmp_path, kept):
    def log(metrics, first, last):
        for step in range(first, last):
            metrics.log_metrics({"a": step / 3} if step < 2 else {"b": step / 7}, step=step)

    whole, again = MetricsFile(tmp_path / "whole"), MetricsFile(tmp_path / "again")
    log(whole, 0, 4)
    log(again, 0, 3)
    with open(again.path, "a") as file:
        file.write("2,0.1")  # a torn row
    resumed = MetricsFile(tmp_path / "again")
    resumed.truncate(kept)
    log(resumed, kept, 4)
    assert again.path.read_bytes() == whole.path.read_bytes()


def test_metrics_without_the_checkpoints_rows(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.csv: expected the 2 rows .* got 0"):
        MetricsFile(tmp_path).truncate(2)


def test_evaluating_leaves_metrics_alone(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"a": 1.0}, step=0)
    keep = KeepMetrics(metrics)
    keep.setup(None, None, "test")
    keep.load_state_dict({"rows": 0})
    assert metrics.num_rows == 1


def test_atomic_writing_replaces_or_leaves_alone(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    write_atomically(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"room for file, .*No space left on device"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder for the run of :func:`run`, made once."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def run(finished, data, make_model, make_trainer):
    """A finished run of four steps: its folder, trainer and model."""
    if not hasattr(run, "parts"):
        model = make_model(data)
        trainer = make_trainer(finished)
        trainer.fit(model, data)
        trainer.test(model, data, verbose=False)
        run.parts = finished, trainer, model
    return run.parts


def test_a_run_leaves_checkpoints_and_logs(run):
    folder = run[0]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]
    assert list((folder / "tensorboard").glob("events*"))
    metrics = rows(folder / "metrics.csv")
    steps = [row["step"] for row in metrics if row["train/loss"]]
    assert steps == ["0", "1", "2", "3"]
    validated = [row for row in metrics if row["val/accuracy"]]
    assert [row["step"] for row in validated] == ["1", "3"]
    assert all(row["val/density/layer0/head1"] for row in validated)


def test_best_is_the_best_of_validation(run):
    folder = run[0]
    scores = [
        float(row["val/accuracy"]) for row in rows(folder / "metrics.csv") if row["val/accuracy"]
    ]
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == [2, 4][scores.index(max(scores))]


def test_summary(run, data):
    folder, trainer, model = run
    summary = json.loads(json.dumps(summarize(trainer, model, data, note="x")))
    last = rows(folder / "metrics.csv")[-1]
    assert summary["accuracy"] == pytest.approx(float(last["test/accuracy"]))
    assert summary["majority"] == data.majority("test")
    assert [len(layer) for layer in summary["density"]] == [2]
    assert summary["mean_density"] == pytest.approx(sum(summary["density"][0]) / 2, abs=1e-4)
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    assert (summary["steps"], summary["batch_size"], summary["note"]) == (4, 4, "x")
    assert summary["seconds"] > 0
    assert summary["peak_memory_bytes"] > 2**20


def test_baselines_tell_their_density(data, tmp_path, make_model, make_trainer):
    for name, density in [("full", 1.0), ("linear", None)]:
        model, trainer = make_model(data, name), make_trainer(tmp_path / name)
        trainer.test(model, data, verbose=False)
        summary = summarize(trainer, model, data)
        assert summary["mean_density"] == density
        assert summary["density"] is None


def write_config(folder, root):
    config = {"data": {"task": "listops", "root": str(root), "batch_size": 4}}
    (folder / "config.yaml").write_text(json.dumps(config))


def test_load_run(run, root):
    folder, _, model = run
    write_config(folder, root)
    loaded, data = load_run(folder, "last.ckpt")
    assert not loaded.training
    assert data.batch_size == 4
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_a_torn_checkpoint_is_not_taken(run, root, tmp_path):
    for name in ("best.ckpt", "last.ckpt"):
        content = (run[0] / "checkpoints" / name).read_bytes()
        write_atomically(tmp_path / "checkpoints" / name, content)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert Run(tmp_path).newest_checkpoint() == last
    last.write_bytes(last.read_bytes()[:-2000])
    with pytest.warns(UserWarning, match="is not a whole checkpoint"):
        assert Run(tmp_path).newest_checkpoint().name == "best.ckpt"
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="is not a whole checkpoint"),
        pytest.raises(ValueError, match="found no whole one"),
    ):
        Run(tmp_path).newest_checkpoint()


def test_no_run_folder(tmp_path, root):
    with pytest.raises(ValueError, match=r"a run folder with a config\.yaml"):
        load_run(tmp_path)
    write_config(tmp_path, root)
    with pytest.raises(ValueError, match="a run folder with a checkpoint"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"task": "text"}, "task = 'text', got one with task = 'listops'"),
        ({"name": "full"}, "name = 'full', got one with name = 'sbm'"),
        ({"num_classes": 2}, "num_classes = 2, got one with num_classes = 10"),
    ],
)
def test_a_checkpoint_of_another_task_or_model(
    run, data, make_model, make_trainer, tmp_path, change, match
):
    checkpoint = run[0] / "checkpoints" / "last.ckpt"
    other = make_model(data, **change)
    with pytest.raises(ValueError, match=match):
        load_weights(other, checkpoint)
    with pytest.raises(ValueError, match=match):
        make_trainer(tmp_path).fit(other, data, ckpt_path=checkpoint)


def test_memory_is_handed_back_now_and_then(data, tmp_path, make_model, make_trainer, monkeypatch):
    trims = []
    monkeypatch.setattr(TrimMemory, "EVERY", 2)
    trainer = make_trainer(tmp_path, max_steps=5, limit_val_batches=0)
    (trim,) = (each for each in trainer.callbacks if isinstance(each, TrimMemory))
    trim._trim = trims.append
    trainer.fit(make_model(data), data)
    assert trims == [0, 0]
    trim._trim = None  # another C library
    trim.on_train_batch_end(trainer, None)
