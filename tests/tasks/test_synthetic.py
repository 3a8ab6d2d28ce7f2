"""The duplicates script: every file it leaves, drawn from runs of a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from sbmgraph.training import synthetic

ROOT = Path(__file__).parents[2]
TINY = {
    "data.options": '{"length": 12, "vocab_size": 17, "num_val": 16, "num_test": 16}',
    "data.batch_size": "8",
    "data.round_steps": "2",
    "trainer.max_steps": "4",
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "model.options.sbm": '{"num_clusters": 4}',
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    arguments = ["--config", str(ROOT / "tasks" / "configs" / "duplicates.yaml")]
    options = TINY | {"runs": str(folder), "compare": '["full", "pattern"]', "seeds": "[1, 2]"}
    for key, value in options.items():
        arguments += [f"--{key}", value]
    assert synthetic.main(["fit", *arguments]) == 0
    return folder / "duplicates"


def test_fit_leaves_curves_of_every_model_and_seed(runs):
    summaries = json.loads((runs / "summary.json").read_text())
    found = [(run["model"], run["seed"]) for run in summaries]
    assert found == [(model, seed) for model in ("sbm", "full", "pattern") for seed in (1, 2)]
    curves = pd.read_csv(runs / "curves.csv")
    assert len(curves) == len(found) * 2
    assert set(curves["step"]) == {2, 4}
    assert curves["accuracy"].between(0, 1).all()
    by_model = curves.groupby("model")["density"]
    assert (by_model.get_group("full") == 1).all()
    assert by_model.get_group("pattern").nunique() == 1
    assert by_model.get_group("sbm").between(0.1, 0.5).all()
    assert curves[curves["model"] == "sbm"]["expected_density"].between(0.1, 0.5).all()
    assert curves[curves["model"] != "sbm"]["expected_density"].isna().all()
    assert (runs / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_draw_writes_elsewhere(runs, tmp_path):
    assert synthetic.main(["draw", str(runs), "--to", str(tmp_path / "out")]) == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["curves.csv", "curves.png", "summary.json"]
    assert (tmp_path / "out" / "curves.csv").read_text() == (runs / "curves.csv").read_text()


def test_draw_of_nothing(tmp_path, capsys):
    assert synthetic.main(["draw", str(tmp_path)]) == 2
    assert "expected finished runs" in capsys.readouterr().err


def test_misspelt_key(capsys):
    config = str(ROOT / "tasks" / "configs" / "duplicates.yaml")
    with pytest.raises(SystemExit) as exit_info:
        synthetic.main(["fit", "--config", config, "--model.chanels", "3"])
    assert exit_info.value.code == 2
    assert "chanels" in capsys.readouterr().err
