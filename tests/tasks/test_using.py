"""Using finished runs: predict, compare, density."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from sbmgraph.__main__ import main as program
from sbmgraph.data import collate
from sbmgraph.training import load_run
from sbmgraph.training.cli import main
from sbmgraph.training.comparing import compare_runs
from sbmgraph.training.input_density import explain_density
from sbmgraph.training.inputs import read_picture, read_text
from sbmgraph.training.predictions import predict_item

OPTIONS = {"num_train": 64, "num_val": 16, "num_test": 16, "min_length": 5, "max_length": 40}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models' runs of two steps."""
    folder = tmp_path_factory.mktemp("using")
    config = {
        "name": "tiny",
        "compare": ["full"],
        "runs": str(folder / "runs"),
        "data": {"task": "listops", "root": str(folder / "data"), "batch_size": 4,
                 "round_steps": 2, "options": OPTIONS},
        "model": {"channels": 8, "num_layers": 1, "warmup_steps": 1,
                  "options": {"sbm": {"num_clusters": 4}}},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False,
                    "log_every_n_steps": 1},
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path)]) == 0
    return folder / "runs" / "tiny"


def test_predict_prints_classes_and_draws(runs, tmp_path, capsys):
    run = str(runs / "sbm/seed1")
    out = tmp_path / "pictures"
    text = ["--text", "[MAX 2 9 [MIN 4 7 ] 0 ]"]
    assert main(["predict", run, *text, "--samples", "4", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "over 4 sampled graphs of mean density" in printed
    assert "class: " in printed
    assert sorted(path.name for path in out.iterdir()) == ["layer0_head0.png", "layer0_head1.png"]
    file = tmp_path / "tree.txt"
    file.write_text("( ( ( ( [MAX 2 ) 9 ) ( ( ( [MIN 4 ) 7 ) ] ) ) 0 ) ] )")
    assert main(["predict", run, "--file", str(file), "--samples", "4"]) == 0
    assert capsys.readouterr().out in printed


def test_prediction_is_the_mean_over_graphs(runs):
    model, data = load_run(runs / "sbm/seed1")
    item = read_text("listops", ["[MAX 2 9 [MIN 4 7 ] 0 ]"])
    state = torch.random.get_rng_state()
    answer = predict_item(model, data, item, samples=5, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    batch = data.on_after_batch_transfer(collate([item]))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        each = torch.stack([model(batch).double().softmax(-1)[0] for _ in range(5)])
    torch.testing.assert_close(answer.probability, each.mean(0))
    torch.testing.assert_close(answer.deviation, each.std(0, correction=0))
    assert answer.votes.sum() == 5
    assert 0 < answer.density < 1
    full, data = load_run(runs / "full/seed1")
    assert predict_item(full, data, item, samples=2).density is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "text: expected a --text, a --file or a --picture"),
        (["--text", "[MAX 2 x ]"], "expected ListOps tokens with spaces between, got 'x'"),
        (["--text", "[MAX 2", "9 ]"], "text: expected 1 for the task listops, got 2"),
        (["--text", ""], "expected at least one token"),
        (["--text", " ".join(["1"] * 41)], "expected at most 40 tokens"),
        (["--picture", "x.png"], "picture: expected a text for the task listops"),
        (["--file", "nowhere.txt"], "nowhere.txt: expected a text file"),
        (["--text", "1", "--samples", "0"], "'samples' must be an integer >= 1"),
    ],
)
def test_predict_names_bad_input(runs, capsys, options, message):
    assert main(["predict", str(runs / "sbm/seed1"), *options]) == 2
    assert message in capsys.readouterr().err


def test_pictures_are_greyed_as_the_task_does(tmp_path):
    from sbmgraph.data.image import to_gray

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = tmp_path / "colour.png"
    Image.fromarray(pixels).save(path)
    planes = np.concatenate([pixels[..., c].reshape(-1) for c in range(3)])[None]
    assert read_picture("image", path).tokens[0].tolist() == to_gray(planes)[0].tolist()
    Image.fromarray(pixels[..., 0]).save(path)
    assert read_picture("image", path).tokens[0].tolist() == pixels[..., 0].reshape(-1).tolist()
    Image.fromarray(pixels[:16]).save(path)
    with pytest.raises(ValueError, match=r"colour\.png: expected a picture of 32 × 32 pixels"):
        read_picture("image", path)
    path.write_bytes(b"%!PS-Adobe")
    with pytest.raises(ValueError, match=r"colour\.png: expected a picture"):
        read_picture("image", path)


def test_compare_is_means_over_seeds(runs, tmp_path, capsys):
    table = tmp_path / "table.csv"
    assert main(["compare", str(runs), "--out", str(table)]) == 0
    printed = capsys.readouterr().out
    assert "density of valid pairs" in printed
    frame = pd.read_csv(table)
    assert set(frame["model"]) == {"sbm", "full"}
    summaries = [json.loads(path.read_text()) for path in runs.glob("*/*/summary.json")]
    summaries += [{**summary, "seed": 2, "accuracy": summary["accuracy"] + 0.1}
                  for summary in summaries]  # fmt: skip
    frame = compare_runs(summaries).set_index("model")
    own = next(s for s in summaries if s["model"] == "sbm")
    assert frame.loc["sbm", "seeds"] == 2
    assert frame.loc["sbm", "accuracy"] == pytest.approx(own["accuracy"] + 0.05)
    assert frame.loc["sbm", "accuracy_deviation"] == pytest.approx(0.1 / 2**0.5)
    assert frame.loc["sbm", "density"] == pytest.approx(own["mean_density"])
    assert main(["compare", str(tmp_path)]) == 2


def test_compare_writes_a_page(runs, tmp_path, capsys):
    assert program(["compare", str(runs)]) == 0
    page = runs / "comparison.html"
    assert capsys.readouterr().out.startswith(f"{page} (")
    index = json.loads(re.search(r'id="index">(.*?)</script>', page.read_text(), re.S)[1])
    assert {group["name"] for group in index["groups"]} == {"sbm", "full"}
    measured = {
        group["name"]: (run["accuracy"], run["density"], run["seconds"], run["memory"])
        for group in index["groups"]
        for run in group["runs"]
    }
    for path in runs.glob("*/*/summary.json"):
        own = json.loads(path.read_text())
        known = (own["accuracy"], own["mean_density"], own["seconds"], own["peak_memory_bytes"])
        assert measured[own["model"]] == pytest.approx(known)
    out = tmp_path / "pages" / "both.html"
    folders = [str(runs / "sbm"), str(runs / "full/seed1")]
    assert program(["compare", *folders, "--out", str(out), "--title", "A & B"]) == 0
    assert "<title>A &amp; B</title>" in out.read_text()
    page.unlink()


@pytest.mark.parametrize(
    ("made", "arguments", "message"),
    [
        (None, ["{}/nowhere"], "nowhere: expected a folder of runs, found none"),
        (None, ["{}"], "expected a finished run or folders of them, found no summary.json"),
        ("{", ["{}"], "summary.json: expected the JSON object of a finished run"),
        ("[]", ["{}"], "summary.json: expected the JSON object of a finished run"),
        ('{"task": "listops"}', ["{}"], "got one without model, accuracy"),
    ],
)
def test_compare_names_bad_input(tmp_path, capsys, made, arguments, message):
    if made is not None:
        (tmp_path / "summary.json").write_text(made)
    before = sorted(tmp_path.iterdir())
    assert program(["compare", *(text.format(tmp_path) for text in arguments)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sbmgraph compare: error: ")
    assert message in said
    assert sorted(tmp_path.iterdir()) == before


def test_density_of_every_input(runs, tmp_path, capsys):
    table = tmp_path / "inputs.csv"
    assert main(["density", str(runs / "sbm/seed1"), "--out", str(table)]) == 0
    assert "by operator" in capsys.readouterr().out
    frame = pd.read_csv(table)
    model, data = load_run(runs / "sbm/seed1")
    assert frame["item"].tolist() == list(range(16))
    assert frame["length"].tolist() == data.datasets["test"].lengths.tolist()
    assert set(frame["operator"]) <= {"[MIN", "[MAX", "[MED", "[SM"}
    from sbmgraph import record

    with torch.no_grad(), record(model.model) as seen:
        model(collate([data.datasets["test"][5]]))
    expected = seen[0].sbm.expected_density()[0]
    assert frame.loc[5, "layer0/head1"] == pytest.approx(float(expected[1]), rel=1e-5)
    assert frame.loc[5, "density"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert main(["density", str(runs / "full/seed1")]) == 2
    assert "expected one with SBM layers" in capsys.readouterr().err


def test_what_explains_density():
    rng = np.random.default_rng(0)
    n = 4000
    frame = pd.DataFrame(
        {
            "length": rng.integers(10, 100, n),
            "label": rng.integers(0, 10, n),
            "operator": rng.choice(["a", "b"], n),
        }
    )
    noise = rng.normal(size=n)
    frame["layer0/head0"] = np.where(frame["operator"] == "a", 1.0, -1.0) + noise
    frame["layer0/head1"] = np.log(frame["length"])
    frame["density"] = noise
    explained = explain_density(frame).set_index("head")
    # The variance of the operator's part equals the noise's. Standard error of a share about 0.011.
    assert explained.loc["layer0/head0", "operator"] == pytest.approx(0.5, abs=0.05)
    assert explained.loc["layer0/head1", "length"] == pytest.approx(1.0)
    assert explained.loc["density", ["length", "label", "operator"]].max() < 0.01


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_every_damaged_picture_is_read_or_named(tmp_path, kind):
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.picture"
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path, kind)
    whole = path.read_bytes()
    refused = read = 0
    for place in range(min(len(whole), 120)):
        for bit in (1, 16, 128):
            data = bytearray(whole)
            data[place] ^= bit
            path.write_bytes(data)
            try:
                found = read_picture("image", path)
            except ValueError as error:
                refused += "damaged.picture: expected a picture" in str(error)
            else:
                assert len(found.tokens[0]) == 1024
                read += 1
    assert refused
    assert refused + read == min(len(whole), 120) * 3


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "config.yaml",
            "data: {task: listops, bach_size: 3, root: .}",
            "expected the data of a run",
        ),
        (
            "config.yaml",
            "data: {task: listops, batch_size: 0, root: .}",
            "expected the data of a run",
        ),
        ("checkpoints/best.ckpt", {"state_dict": {}}, "expected the arguments of a model"),
        (
            "checkpoints/best.ckpt",
            {"state_dict": {}, "hyper_parameters": {"x": 1}},
            "expected a model of this package",
        ),
    ],
)
def test_a_run_with_another_content_is_named(runs, tmp_path, file, content, message):
    folder = shutil.copytree(runs / "sbm/seed1", tmp_path / "run")
    if isinstance(content, str):
        (folder / file).write_text(content)
    else:
        torch.save(content, folder / file)
    with pytest.raises(ValueError, match=f"{file}: {message}"):
        load_run(folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\x00", b'"', b"{"])
def test_damaged_tables_of_a_run_are_named(runs, tmp_path, content, capsys):
    from sbmgraph.training import language_cli, report
    from sbmgraph.training.metrics import MetricsFile

    folder = shutil.copytree(runs / "sbm/seed1", tmp_path / "run")
    for name in ("summary.json", "metrics.csv"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        command = ["--inputs", "[0]", "--out", str(tmp_path / "page.html")]
        assert report.main([str(folder), *command]) == 2
        assert f"run/{name}: expected" in capsys.readouterr().err
        if name == "summary.json":
            assert language_cli.main(["results", str(tmp_path)]) == 2
            assert f"run/{name}: expected" in capsys.readouterr().err
        else:
            with pytest.raises(ValueError, match=r"metrics\.csv: expected"):
                MetricsFile(folder).truncate(1)
        (folder / name).write_bytes(kept)
