from __future__ import annotations

import json
import re

import pytest

from sbmgraph.viz.report import comparison_html, find_runs, write_comparison
from tests.viz.runs import write_run, write_runs

HOSTILE = '</script><script>document.title = "owned"</script>'


def index_of(page: str) -> dict:
    return json.loads(re.search(r'id="index">(.*?)</script>', page, re.S)[1])


def groups_of(folders) -> dict[str, list[dict]]:
    groups = index_of(comparison_html(find_runs(folders)))["groups"]
    return {f"{group['task']}: {group['name']}": group["runs"] for group in groups}


def test_runs_and_folders_above_them_are_found_once(tmp_path):
    write_runs(tmp_path)
    every = find_runs([tmp_path])
    assert len(every) == 10
    assert find_runs([tmp_path, tmp_path / "sbm-0"]) == every
    assert [run.folder for run in find_runs(tmp_path / "sbm-1")] == [tmp_path / "sbm-1"]
    nested = find_runs([tmp_path / "text"])
    assert [run.values["task"] for run in nested] == ["text"]


def test_seeds_of_a_model_are_one_row(tmp_path):
    write_runs(tmp_path)
    groups = groups_of([tmp_path])
    assert list(groups) == ["listops: full", "listops: linear", "listops: sbm", "text: sbm"]
    assert [run["seed"] for run in groups["listops: sbm"]] == ["0", "1", "2"]
    assert [run["accuracy"] for run in groups["listops: full"]] == pytest.approx([0.39, 0.4, 0.41])
    assert groups["listops: linear"][0]["density"] is None
    assert groups["listops: full"][0]["heads"] is None
    assert groups["listops: sbm"][0]["heads"] == [[0.3, 0.4], [0.2, 0.5]]


def test_runs_of_other_lengths_or_options_are_not_averaged(tmp_path):
    write_run(tmp_path / "a", "listops", "sbm", 0)
    write_run(tmp_path / "b", "listops", "sbm", 0, steps=30)
    write_run(tmp_path / "c", "listops", "sbm", 0, options={"depth": 4})
    assert list(groups_of([tmp_path])) == [
        "listops: sbm, 1800 steps, depth 10",
        "listops: sbm, 30 steps, depth 10",
        "listops: sbm, 1800 steps, depth 4",
    ]


def test_runs_of_other_names_are_not_averaged(tmp_path):
    write_run(tmp_path / "a", "listops", "sbm", 0, name="listops_quick")
    write_run(tmp_path / "b", "listops", "sbm", 1, name="listops_quick")
    write_run(tmp_path / "c", "listops", "sbm", 0, name="softmax")
    groups = groups_of([tmp_path])
    assert {name: len(runs) for name, runs in groups.items()} == {
        "listops: sbm, listops_quick": 2,
        "listops: sbm, softmax": 1,
    }


def test_tasks_of_glue_are_told_apart_and_have_scores(tmp_path):
    for task, score in (("cola", 0.4), ("sst2", 0.8)):
        for start in ("nothing", "seed1"):
            write_run(tmp_path / task / start, "glue", "sbm", 0, accuracy=None, glue_task=task,
                      scores={"score": score}, pretrained=start)  # fmt: skip
    index = index_of(comparison_html(find_runs([tmp_path])))
    assert [(group["task"], group["name"]) for group in index["groups"]] == [
        (f"glue {task}", f"sbm, from {start}")
        for task in ("cola", "sst2")
        for start in ("nothing", "seed1")
    ]
    assert [group["runs"][0]["accuracy"] for group in index["groups"]] == [0.4, 0.4, 0.8, 0.8]
    assert {group["measure"] for group in index["groups"]} == {"score"}


def test_a_list_of_the_runs_below_is_no_run(tmp_path):
    place = tmp_path / "duplicates"
    write_runs(place)
    listed = [dict(run.values) for run in find_runs([place])]
    (place / "summary.json").write_text(json.dumps(listed))
    assert len(find_runs([place])) == len(find_runs([tmp_path])) == 10
    assert [run.folder for run in find_runs([place / "sbm-1"])] == [place / "sbm-1"]


def test_only_curves_that_a_run_has_are_offered(tmp_path):
    write_run(tmp_path / "a", "listops", "sbm", 1)
    assert index_of(comparison_html(find_runs([tmp_path])))["curves"] == [
        "validation accuracy",
        "mean density",
    ]


def test_curves_come_from_the_metrics(tmp_path):
    write_run(tmp_path / "a", "listops", "sbm", 1)
    (run,) = groups_of([tmp_path])["listops: sbm"]
    assert run["curves"]["validation accuracy"]["step"] == list(range(0, 1801, 200))
    assert run["curves"]["validation accuracy"]["value"][-1] == pytest.approx(0.42)
    assert run["curves"]["mean density"]["value"] == pytest.approx([0.3] * 10)
    (tmp_path / "a" / "metrics.csv").unlink()
    (run,) = groups_of([tmp_path])["listops: sbm"]
    assert run["curves"] == {}


def test_text_of_runs_stays_text(tmp_path):
    write_run(tmp_path / "a", HOSTILE, "sbm", 0, device=HOSTILE)
    page = comparison_html(find_runs([tmp_path]), title=HOSTILE)
    clean = comparison_html(find_runs([tmp_path]), title="x")
    assert page.count("<script") == clean.count("<script")
    assert "<title>&lt;/script&gt;" in page
    assert index_of(page)["groups"][0]["task"] == HOSTILE


def test_numbers_that_are_none_are_left_out(tmp_path):
    write_run(tmp_path / "a", "listops", "sbm", 0, mean_density=float("nan"), density=[[None]])
    (run,) = groups_of([tmp_path])["listops: sbm"]
    assert run["density"] is None
    assert run["heads"] is None


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="none: expected a folder of runs, found none"):
        find_runs([tmp_path / "none"])
    with pytest.raises(ValueError, match=r"found no summary\.json"):
        find_runs([tmp_path])
    with pytest.raises(ValueError, match="'runs' must hold at least one finished run"):
        comparison_html([])
    path = tmp_path / "a" / "summary.json"
    path.parent.mkdir()
    for text, message in (
        ("{", "could not read it"),
        ("[1]", "got list"),
        ('{"task": "listops"}', "got one without model, accuracy"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            find_runs([tmp_path])
        assert str(error.value).startswith(f"{path}: expected the JSON object")


def test_the_file_is_written(tmp_path):
    write_runs(tmp_path)
    path = write_comparison(tmp_path / "out" / "page.html", [tmp_path])
    text = path.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=\"(https?:)?//", text.split('id="plotly"')[0])
