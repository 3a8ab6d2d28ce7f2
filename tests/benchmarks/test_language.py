"""The benchmark of language encoders measures what it says it measures."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers")

from benchmarks import language


@pytest.mark.slow
def test_heads_have_the_density_asked_for_and_density_one_is_full_attention() -> None:
    tokens = torch.randint(100, (8, 96), generator=torch.Generator().manual_seed(0))
    model = language.make("tiny", 96, 0.2)
    for heads in model.heads():
        heads.membership.set_density(0.9)  # what calibration has to mend
    language.calibrate(model, tokens, 0.2)
    # 4 layers' heads of 8 · 96² pairs: a standard deviation of 0.001 of the drawing alone.
    assert language.sampled_density(model, tokens) == pytest.approx(0.2, abs=0.02)
    full, dense = language.make("tiny", 96, None), language.make("tiny", 96, 1.0)
    dense.load_state_dict(full.state_dict(), strict=False)
    assert language.sampled_density(dense, tokens) == 1.0
    with torch.no_grad():
        expected, found = (language.scores(m.eval(), tokens) for m in (full, dense))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_report_has_every_step_density_and_length(tmp_path) -> None:
    before = torch.get_num_threads()
    output = tmp_path / "new" / "language.json"
    command = ["--encoders", "tiny", "--lengths", "8", "16", "--tokens", "32", "--rounds", "2"]
    try:
        language.main([*command, "--threads", "1", "--output", str(output)])
    finally:
        torch.set_num_threads(before)
    rows = json.loads(output.read_text())["results"]
    found = {(row["length"], row["step"], row["density"]) for row in rows}
    assert found == {
        (length, step, density)
        for length in (8, 16)
        for step in language.STEPS
        for density in (None, 0.1, 0.25, 1.0)
    }
    assert {row["sequences"] for row in rows} == {4, 2}
    for row in rows:
        if row["density"] is None:
            assert (row["lowest"], row["over_full"], row["highest"]) == (1.0, 1.0, 1.0)
        assert row["best"] <= row["seconds"]
    text = output.with_name("LANGUAGE.md").read_text()
    assert text.count("| sbm, 0.25 |") == 4
    assert "--encoders tiny" in text
