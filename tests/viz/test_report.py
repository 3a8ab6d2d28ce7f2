from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sbmgraph import record
from sbmgraph.analysis import biadjacency_matrix, block_mass, block_order, expected_matrix
from sbmgraph.nn import SBMTransformer
from sbmgraph.viz.report import (
    ReportInput,
    density_history,
    head_view,
    report_html,
    write_report,
)

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = '</script><script>document.title = "owned"</script><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """The scripts and tags of a page, as a browser would split it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.tags: list[str] = []
        self.urls: list[str] = []
        self._id: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.urls += [value for name, value in attrs if name in ("src", "href")]
        self._id = dict(attrs).get("id", "") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._id is not None:
            self.scripts[self._id] = self.scripts.get(self._id, "") + data

    @property
    def index(self) -> dict:
        return json.loads(self.scripts["index"])

    def arrays(self, key: str) -> dict[str, np.ndarray]:
        """Unpacks a view, independently of the page's own script."""
        blob = gzip.decompress(base64.b64decode(self.scripts[f"data-{key}"]))
        size = int.from_bytes(blob[:8], "little")
        body = blob[8 + size :]
        out = {}
        for entry in json.loads(blob[8 : 8 + size]):
            count = int(np.prod(entry["shape"]))
            flat = np.frombuffer(body, entry["type"], count, entry["offset"])
            out[entry["name"]] = flat.reshape(entry["shape"])
        return out


def make_model(**kwargs) -> SBMTransformer:
    torch.manual_seed(3)
    options = {"channels": 16, "heads": 2, "num_clusters": 6, "max_length": 300} | kwargs
    return SBMTransformer(20, 4, **options)


def make_input(length: int = 40, label: str = "class 1") -> ReportInput:
    generator = torch.Generator().manual_seed(length)
    return ReportInput([torch.randint(0, 20, (length,), generator=generator)], label)


def recorded(model, tokens: torch.Tensor, seed: int = 0):
    """What the page records of its first input."""
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    with torch.no_grad(), record(model, weights=True) as runs:
        model(tokens, batch=torch.zeros_like(tokens), generator=generator)
    return list(runs), [run.weights for run in runs]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(report_html(make_model(), [make_input(40), make_input(23)]))


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 0)])
def test_page_holds_the_sampled_graph_and_its_expectation_in_block_order(page, layer, head):
    runs, _ = recorded(make_model(), make_input(40).documents[0])
    run = runs[layer]
    arrays = page.arrays(f"0-{layer}-{head}")
    order = block_order(run.sbm, head, by="edges")
    np.testing.assert_array_equal(arrays["queryOrder"], order.query_order)
    np.testing.assert_array_equal(arrays["keyOrder"], order.key_order)

    bits = page.arrays(f"0-{layer}-{head}-sample")["sample"]
    adjacency = np.unpackbits(bits, axis=1)[:, :40]
    dense = biadjacency_matrix(run.graph, head).toarray()
    np.testing.assert_array_equal(adjacency, dense[order.query_order][:, order.key_order])

    info = page.index["views"][f"0-{layer}-{head}"]
    truth = expected_matrix(run.sbm, head).values[order.query_order][:, order.key_order]
    np.testing.assert_allclose(
        arrays["expected"] / 255 * info["scale"], truth, atol=info["scale"] / 500
    )
    assert info["edges"] == dense.sum()
    assert info["sampled"] == pytest.approx(dense.mean())
    assert info["expected"] == pytest.approx(truth.mean(), rel=1e-5)


def test_neighbours_are_ranked_by_attention(page):
    runs, weights = recorded(make_model(), make_input(40).documents[0])
    dense = biadjacency_matrix(runs[0].graph, 0, weights=weights[0]).toarray()
    sums = dense.sum(axis=1)
    np.testing.assert_allclose(sums[sums > 0], 1.0, rtol=1e-5)
    arrays = page.arrays("0-0-0")
    for query, (keys, strength) in enumerate(
        zip(arrays["neighbour"], arrays["weight"], strict=True)
    ):
        listed = keys[strength > 0]
        assert sorted(listed) == np.flatnonzero(dense[query]).tolist()
        assert (np.diff(dense[query, listed]) <= 0).all()
        np.testing.assert_allclose(
            strength[: listed.size] / 255 * arrays["largest"][query],
            dense[query, listed],
            atol=1 / 250,
        )
    np.testing.assert_array_equal(arrays["degree"], (dense > 0).sum(axis=1))


def test_blocks_are_those_of_the_model(page):
    runs, _ = recorded(make_model(), make_input(40).documents[0])
    info = page.index["views"]["0-1-1"]["blocks"]
    mass = block_mass(runs[1].sbm, head=1)
    top = info["top"]
    np.testing.assert_allclose(info["expected"], (mass / mass.sum())[np.ix_(top, top)], atol=1e-6)
    share = (mass.sum(axis=0) + mass.sum(axis=1)) / (2 * mass.sum())
    np.testing.assert_allclose(info["share"], share[top])
    assert info["share"] == sorted(info["share"], reverse=True)
    assert np.sum(info["sampled"]) == pytest.approx(1.0, abs=1e-4)


def test_a_small_limit_bins_the_adjacency_and_keeps_every_edge():
    model, inputs = make_model(), [make_input(300)]
    fine = report_html(model, inputs)
    coarse = report_html(model, inputs, max_bytes=len(fine) - 8_000)
    assert len(coarse) <= len(fine) - 8_000
    index = Page(coarse).index["views"]
    assert Page(fine).index["views"]["0-0-0"]["cells"] == [300, 300]
    rows, columns = index["0-0-0"]["cells"]
    assert max(rows, columns) < 300
    counts = Page(coarse).arrays("0-0-0-sample")["sample"]
    assert counts.sum() == index["0-0-0"]["edges"]
    with pytest.raises(ValueError, match="'max_bytes' must leave room"):
        report_html(model, inputs, max_bytes=100_000)


def test_text_of_users_stays_text():
    text = report_html(
        make_model(),
        [make_input(12, label=HOSTILE)],
        title=HOSTILE,
        summary={HOSTILE: HOSTILE},
        decode=lambda token: HOSTILE,
    )
    clean, page = Page(report_html(make_model(), [make_input(12)])), Page(text)
    assert page.tags == clean.tags
    assert page.index["inputs"][0]["words"] == [HOSTILE] * 12
    assert page.index["inputs"][0]["label"] == HOSTILE


def test_page_needs_no_network(page):
    text = report_html(make_model(), [make_input(9)])
    assert page.urls == ["data:,"]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_documents_of_a_pair_are_listed_apart():
    model = make_model(num_documents=2)
    pair = ReportInput([make_input(10).documents[0], make_input(14).documents[0]], "class 0")
    index = Page(report_html(model, [pair])).index
    assert [item["name"] for item in index["inputs"]] == ["0a", "0b"]
    assert [index["views"][f"{i}-0-0"]["queries"] for i in (0, 1)] == [10, 14]


def test_layers_and_heads_can_be_chosen():
    index = Page(report_html(make_model(), [make_input(9)], layers=[1], heads=[1])).index
    assert set(index["views"]) == {"0-1-1"}
    assert [layer["number"] for layer in index["layers"]] == [1]


def test_same_seed_same_page_and_the_model_keeps_its_mode():
    model = make_model().train()
    state = torch.get_rng_state()
    first, second, other = (report_html(model, [make_input(30)], seed=seed) for seed in (0, 0, 1))
    assert first == second != other
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_head_without_edges_is_shown_as_empty():
    model = make_model()
    for block in model.blocks:
        block.attention.conv.membership.offset = -60.0
    page = Page(report_html(model, [make_input(11)]))
    info = page.index["views"]["0-0-0"]
    assert info["edges"] == 0
    assert info["isolated"] == 11
    assert not page.arrays("0-0-0-sample")["sample"].any()
    assert page.arrays("0-0-0")["neighbour"].size == 0


def test_one_token_one_block():
    page = Page(report_html(make_model(num_clusters=1), [make_input(1)]))
    assert page.index["views"]["0-0-0"]["cells"] == [1, 1]


def test_pixels_are_listed_as_numbers():
    page = Page(report_html(make_model(), [make_input(36)], image_shape=(6, 6)))
    assert page.index["image"] == [6, 6]
    assert page.index["inputs"][0]["words"] == make_input(36).documents[0].tolist()


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([], {}, "'inputs' must hold at least one input, got none"),
        ([ReportInput([])], {}, "'inputs' must hold tokens, got none in input 0"),
        ([ReportInput([torch.empty(0)])], {}, "'inputs' must hold tokens, got none in input 0"),
        ([make_input(5), make_input(301)], {}, "got input 1: .* at most 'max_length' = 300"),
        ([make_input(5)], {"layers": [2]}, r"'layers' must hold integers in \[0, 2\)"),
        ([make_input(5)], {"heads": [-1]}, r"'heads' must hold integers in \[0, 2\)"),
        ([make_input(5)], {"heads": []}, "must leave something to show"),
        ([make_input(5)], {"image_shape": (2, 2)}, "must hold 4 pixels each"),
        ([make_input(5)], {"history": pd.DataFrame({"step": [1]})}, "must have the columns step"),
        ([make_input(5)], {"max_bytes": 0}, "'max_bytes' must be an integer >= 1"),
    ],
)
def test_bad_input_is_named(inputs, options, message):
    with pytest.raises(ValueError, match=message):
        report_html(make_model(), inputs, **options)


def test_a_model_without_sbm_layers_is_refused():
    class Plain(torch.nn.Module):
        def forward(self, tokens, batch=None, generator=None):
            return torch.zeros(1, 3)

    with pytest.raises(ValueError, match="'model' must have an SBM layer, got a Plain"):
        report_html(Plain(), [make_input(5)])


def test_a_head_that_does_not_exist_is_refused():
    runs, _ = recorded(make_model(), make_input(5).documents[0])
    with pytest.raises(ValueError, match=r"'head' must be an integer in \[0, 2\)"):
        head_view(runs[0], 2)


def test_the_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "sub" / "report.html"
    write_report(path, make_model(), [make_input(9)])
    before = path.read_text()
    assert before.startswith("<!DOCTYPE html>")

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr("sbmgraph.files.os.replace", fail)
    with pytest.raises(ValueError, match="no space left"):
        write_report(path, make_model(), [make_input(12)])
    assert path.read_text() == before
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_history_is_read_from_a_runs_metrics():
    metrics = pd.DataFrame(
        {
            "step": [9, 9, 19],
            "train/density/layer0/head0": [0.25, None, 0.5],
            "train/density/layer1/head3": [0.1, None, 0.2],
            "val/density/layer0/head0": [None, 0.3, None],
            "train/expected_density/layer0/head0": [0.24, None, 0.49],
            "train/loss": [1.0, None, 0.5],
        }
    )
    history = density_history(metrics)
    rows = history.sort_values(["layer", "step"]).values.tolist()
    assert rows == [[9, 0, 0, 0.25], [19, 0, 0, 0.5], [9, 1, 3, 0.1], [19, 1, 3, 0.2]]
    index = Page(report_html(make_model(), [make_input(9)], history=history)).index
    assert index["history"][1] == {"layer": 1, "head": 3, "step": [9, 19], "density": [0.1, 0.2]}
    assert density_history(pd.DataFrame({"step": [1], "val/loss": [2.0]})).empty
    with pytest.raises(ValueError, match="'metrics' must have a column 'step'"):
        density_history(pd.DataFrame({"loss": [1.0]}))


# The task script ##################################################################################


def load_script():
    from sbmgraph.training import report

    return report


class Classifier:
    def __init__(self) -> None:
        self.model = make_model()


class Items:
    """A split of three ListOps inputs."""

    lengths = np.array([4, 6, 5])

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index):
        from sbmgraph.data import Sequence

        return Sequence([torch.arange(1, 1 + int(self.lengths[index]))], index)


class Data:
    task = "listops"
    datasets = {"test": Items()}  # noqa: RUF012


@pytest.fixture
def script(monkeypatch, tmp_path):
    pytest.importorskip("lightning")
    module = load_script()
    monkeypatch.setattr(module, "load_run", lambda run: (Classifier(), Data()))
    return module


def test_script_writes_the_page_of_a_run(script, tmp_path, capsys):
    (tmp_path / "metrics.csv").write_text("step,train/density/layer0/head0\n9,0.25\n")
    (tmp_path / "summary.json").write_text(json.dumps({"accuracy": 0.4, "seed": 1}))
    assert script.main([str(tmp_path)]) == 0
    index = Page((tmp_path / "report.html").read_text()).index
    assert [item["length"] for item in index["inputs"]] == [6, 5, 4]
    assert index["inputs"][0]["words"] == ["0", "1", "2", "3", "4", "5"]
    assert index["inputs"][0]["label"] == "test item 1, class 1"
    assert index["summary"]["test accuracy"] == "40.0%"
    assert index["history"][0]["density"] == [0.25]


def test_script_shows_own_inputs(script, tmp_path):
    out = tmp_path / "own.html"
    argv = [str(tmp_path), "--out", str(out), "--texts", '["[MAX 2 9 ]"]', "--heads", "[1]"]
    assert script.main(argv) == 0
    assert Page(out.read_text()).index["inputs"][0]["words"] == ["[MAX", "2", "9", "]"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--inputs", "[3]"], "expected items in [0, 3) of the test split, got 3"),
        (["--split", "dev"], "split: expected one of test, got 'dev'"),
        (["--layers", "[7]"], "'layers' must hold integers in [0, 2)"),
        (["--texts", '["[MAX 2 x ]"]'], "expected ListOps tokens with spaces between, got 'x'"),
    ],
)
def test_script_names_bad_input(script, tmp_path, capsys, options, message):
    assert script.main([str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_script_names_a_run_without_checkpoint(tmp_path, capsys):
    pytest.importorskip("lightning")
    script = load_script()
    assert script.main([str(tmp_path)]) == 2
    assert "config.yaml" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("data: {task: listops}\n")
    assert script.main([str(tmp_path)]) == 2
    assert "checkpoint" in capsys.readouterr().err


def test_bytes_are_shown_as_characters():
    pytest.importorskip("lightning")
    decode = load_script().decoder("text")
    assert [decode(byte + 1) for byte in b"a<"] == ["a", "<"]
    assert decode(0) == ""
