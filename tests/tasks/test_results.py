"""The tables of results: what they take in, and what they say of it."""

import json
from pathlib import Path

import pytest

from sbmgraph.training import results


def summary(name: str, model: str, seed: int, accuracy: float, **changes) -> dict:
    values = {
        "name": name,
        "task": name.split("_")[0],
        "model": model,
        "seed": seed,
        "accuracy": accuracy,
        "majority": 0.125,
        "mean_density": 0.25 if model == "sbm" else None,
        "parameters": 12345,
        "steps": 5000,
        "batch_size": 128,
        "seconds": 90.0,
        "peak_memory_bytes": 3 * 2**29,
        "command": f"python tasks/lra.py fit --config tasks/configs/{name}.yaml",
        "folder": "runs/x",
        "options": {},
    }
    return {**values, **changes}


@pytest.fixture
def write(tmp_path):
    """Writes run folders, runs the script, and returns the lines of the tables."""

    def run(*summaries: dict) -> list[str]:
        for number, values in enumerate(summaries):
            folder = tmp_path / "runs" / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "summary.json").write_text(json.dumps(values))
        folders = [str(tmp_path / "runs")] if summaries else []
        output = tmp_path / "RESULTS.md"
        arguments = [*folders, "--results", str(tmp_path / "results"), "--output", str(output)]
        assert results.main(arguments) == 0
        return output.read_text().splitlines()

    return run


def section(lines: list[str], title: str) -> list[str]:
    start = lines.index(f"### {title}")
    return lines[start : start + 16]


def row(lines: list[str], title: str, model: str) -> list[str]:
    [line] = [line for line in section(lines, title) if line.startswith(f"| {model} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_deviations_and_reported_figures(write, tmp_path):
    lines = write(
        summary("listops", "sbm", 1, 0.36),
        summary("listops", "sbm", 2, 0.38),
        summary("listops", "linear", 1, 0.35, steps=100),
        summary("text_quick", "sbm", 1, 0.6),
        summary("text", "full", 1, 0.6, options={"validation": "test"}),
    )
    assert row(lines, "listops", "sbm") == [
        "sbm", "37.00 ± 1.41 (2)", "12.5 %", "25.0 %", "12,345", "5,000 × 128", "1.5 min",
        "1.5 GiB", "37.45 (20.09 %)",
    ]  # fmt: skip
    linear = row(lines, "listops", "linear")
    assert linear[1] == "35.00 (1)"
    assert linear[5] == "100 × 128 of 5,000"
    assert linear[-1] == "37.46"
    [left] = [line for line in lines if line.startswith("Not run: full, linformer")]
    assert left.endswith("entmax.")
    [sentence] = [line for line in lines if line.startswith("Of retrieval, image, pathfinder32")]
    assert "TASK.yaml" in sentence
    assert row(lines, "text_quick", "sbm")[1] == "60.00 (1)"
    assert len(row(lines, "text_quick", "sbm")) == 8
    assert row(lines, "text", "full")[1] == "60.00 (1), validated on test"
    command = "`python tasks/lra.py fit --config tasks/configs/listops.yaml`"
    assert f"- linear 1, sbm 1, sbm 2: {command}" in section(lines, "listops")
    assert write() == lines  # from what was gathered alone
    gathered = json.loads((tmp_path / "results" / "listops.json").read_text())
    assert "folder" not in gathered[0]


def test_a_run_again_replaces_the_older(write):
    write(summary("listops", "sbm", 1, 0.10))
    lines = write(summary("listops", "sbm", 1, 0.20))
    assert row(lines, "listops", "sbm")[1] == "20.00 (1)"


def test_a_folder_without_runs(tmp_path, capsys):
    output = tmp_path / "RESULTS.md"
    arguments = [str(tmp_path), "--results", str(tmp_path / "results"), "--output", str(output)]
    assert results.main(arguments) == 2
    assert "expected a finished run with a summary.json, found none" in capsys.readouterr().err
    assert not output.exists()


def test_a_run_with_a_name_of_its_own_has_a_row(write):
    lines = write(summary("my-trial", "sbm", 1, 0.42, task="listops", steps=30))
    assert row(lines, "my-trial", "sbm")[1] == "42.00 (1)"
    assert row(lines, "my-trial", "sbm")[5] == "30 × 128"
    assert not any(line.startswith("| full |") for line in section(lines, "my-trial"))


def test_a_shorter_run_never_replaces_a_longer(write, capsys):
    write(summary("listops", "sbm", 1, 0.37))
    lines = write(summary("listops", "sbm", 1, 0.10, steps=30))
    assert row(lines, "listops", "sbm")[1] == "37.00 (1)"
    error = capsys.readouterr().err
    assert "left out: " in error
    assert "30 steps of listops, sbm, seed 1, of which a run of 5,000 steps is there" in error


def test_runs_of_other_lengths_are_no_mean(write):
    lines = write(summary("listops", "sbm", 1, 0.37), summary("listops", "sbm", 2, 0.1, steps=30))
    rows = [line for line in section(lines, "listops") if line.startswith("| sbm |")]
    assert ["37.00 (1)" in rows[0], "10.00 (1)" in rows[1]] == [True, True]


def test_what_cannot_be_read_is_named(write, tmp_path, capsys):
    (tmp_path / "runs" / "torn").mkdir(parents=True)
    (tmp_path / "runs" / "torn" / "summary.json").write_text('{"name": ')
    (tmp_path / "runs" / "old").mkdir()
    (tmp_path / "runs" / "old" / "summary.json").write_text('{"name": "x"}')
    write(summary("listops", "sbm", 1, 0.37), summary("../x", "sbm", 1, 0.37))
    error = capsys.readouterr().err
    assert error.count("left out: ") == 3
    assert "torn/summary.json: not the JSON of a finished run" in error
    assert "old/summary.json: without task" in error
    assert "'../x', which is not one folder's" in error


def test_gathered_results_give_the_document_of_the_repository(tmp_path):
    root = Path(__file__).resolve().parents[2]
    output = tmp_path / "RESULTS.md"
    arguments = ["--results", str(root / "tasks" / "results"), "--output", str(output)]
    assert results.main(arguments) == 0
    assert output.read_text() == (root / "RESULTS.md").read_text()


def test_the_authors_variant_and_accelerators_are_named(write):
    lines = write(
        summary("listops_authors", "sbm", 1, 0.34, task="listops", device="NVIDIA H100 80GB HBM3")
    )
    cells = row(lines, "listops_authors", "sbm")
    assert cells[-1] == "37.45 (20.09 %)"
    assert cells[6] == "1.5 min, NVIDIA H100 80GB HBM3"
    assert cells[5] == "5,000 × 128"
