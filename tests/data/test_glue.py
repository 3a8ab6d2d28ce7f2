"""GLUE's files, read exactly, and its metrics against scikit-learn and scipy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tokenizers")

from sbmgraph.data import prepare
from sbmgraph.data.glue import GLUE_TASKS, GlueExample, glue_file, read_glue
from sbmgraph.data.glue_metrics import glue_scores
from sbmgraph.data.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer

HEADERS = {
    "sst2": "sentence\tlabel",
    "mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "stsb": "index\tgenre\tyear\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "mnli": "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label",
    "qnli": "index\tquestion\tsentence\tlabel",
    "rte": "index\tsentence1\tsentence2\tlabel",
    "wnli": "index\tsentence1\tsentence2\tlabel",
}
ROWS = {
    "cola": ["gj04\t1\t\tHe said \"n/a", "gj04\t0\t*\tnull"],
    "sst2": ["n/a\t0", "a \"fine\" film\t1"],
    "mrpc": ["1\t7\t8\t\"One said.\t'Two\" said.", "0\t1\t2\tNA\tb"],
    "stsb": ["0\tg\t2012\tn\tn\tA man.\tA plane.\t2.400", "1\tg\t2012\tn\tn\ta\tb\t5.000"],
    "qqp": ["0\t1\t2\tWho?\tWhat?\t0", "1\t1\t2\tn/a\tnan\t1"],
    "mnli": ["0\t1\tA.\tB.\tneutral\tneutral", "1\t1\tA\tC\tneutral\tcontradiction"],
    "qnli": ["0\tWhy?\tSo.\tentailment", "1\tHow?\tn/a\tnot_entailment"],
    "rte": ["0\tA.\tB.\tentailment", "1\tA\tC\tnot_entailment"],
    "wnli": ["0\tA.\tB.\t0", "1\tA\tC\t1"],
}  # fmt: skip
EXPECTED = {
    "cola": [GlueExample(('He said "n/a',), 1), GlueExample(("null",), 0)],
    "sst2": [GlueExample(("n/a",), 0), GlueExample(('a "fine" film',), 1)],
    "mrpc": [GlueExample(('"One said.', "'Two\" said."), 1), GlueExample(("NA", "b"), 0)],
    "stsb": [GlueExample(("A man.", "A plane."), 2.4), GlueExample(("a", "b"), 5.0)],
    "qqp": [GlueExample(("Who?", "What?"), 0), GlueExample(("n/a", "nan"), 1)],
    "mnli": [GlueExample(("A.", "B."), 1), GlueExample(("A", "C"), 2)],
    "qnli": [GlueExample(("Why?", "So."), 0), GlueExample(("How?", "n/a"), 1)],
    "rte": [GlueExample(("A.", "B."), 0), GlueExample(("A", "C"), 1)],
    "wnli": [GlueExample(("A.", "B."), 0), GlueExample(("A", "C"), 1)],
}
# Rows of the real files at hand, whose subsets their README names; the others are complete.
COUNTS = {
    "cola": (8551, 1043),
    "sst2": (67349, 872),
    "mrpc": (3668, 408),
    "stsb": (5749, 1500),
    "rte": (2490, 277),
    "wnli": (635, 71),
    "qnli": (104743, 5463),
    "qqp": (363846, 40430),
    "mnli": (392702, 9815),
}


def write(root: Path, task: str, split: str, rows: list[str], end: str = "\n") -> Path:
    path = glue_file(root, task, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = [HEADERS[task]] if task in HEADERS else []
    path.write_bytes(end.join([*header, *rows, ""]).encode())
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained tokenizer's file."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("the cat sat on the mat\nthe dog sat on the log\n" * 20)
    train_tokenizer([folder / "text.txt"], 300).save(folder / "tokenizer.json")
    return folder / "tokenizer.json"


@pytest.mark.parametrize("task", GLUE_TASKS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_are_read_exactly(tmp_path: Path, task: str, end: str) -> None:
    write(tmp_path, task, "dev", ROWS[task], end)
    assert read_glue(tmp_path, task, "dev") == EXPECTED[task]


def test_only_a_line_feed_ends_a_row_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path, "sst2", "train", ["a\rb\u2028c\x85d\t1"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_glue(tmp_path, "sst2", "train") == [GlueExample(("a\rb\u2028c\x85d",), 1)]


def test_test_files_have_no_labels(tmp_path: Path) -> None:
    path = glue_file(tmp_path, "cola", "test")
    path.parent.mkdir(parents=True)
    path.write_text("index\tsentence\n0\tBill whistled.\n")
    assert read_glue(tmp_path, "cola", "test") == [GlueExample(("Bill whistled.",), None)]


def test_rows_of_qqp_that_break_off_are_named_and_left_out(tmp_path: Path) -> None:
    write(tmp_path, "qqp", "train", [ROWS["qqp"][0], "7\t1\t2\tWhat", ROWS["qqp"][1]])
    with pytest.warns(UserWarning, match="1 rows that break off are left out"):
        assert read_glue(tmp_path, "qqp", "train") == EXPECTED["qqp"]


@pytest.mark.parametrize(
    ("task", "header", "rows", "message"),
    [
        ("sst2", "text\tlabel", ["a\t1"], r"dev.tsv, line 1: expected a header .*sentence, label"),
        ("sst2", "sentence\tlabel", ["a\t2"], r"line 2: expected a label '0', '1', got '2'"),
        ("sst2", "sentence\tlabel", ["a\t1", "b"], r"line 3: expected 2 columns, got 1"),
        ("sst2", "sentence\tlabel", [], r"expected at least one row"),
        ("stsb", HEADERS["stsb"], [ROWS["stsb"][0].replace("2.400", "n/a")], r"score in \[0, 5\]"),
        ("stsb", HEADERS["stsb"], [ROWS["stsb"][0].replace("2.400", "5.1")], r"got '5.1'"),
        ("rte", HEADERS["rte"], ["0\ta\tb\tneutral"], r"'entailment', 'not_entailment', got 'neu"),
    ],
)
def test_bad_files_are_named_with_their_line(
    tmp_path: Path, task: str, header: str, rows: list[str], message: str
) -> None:
    path = glue_file(tmp_path, task, "dev")
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([header, *rows, ""]))
    with pytest.raises(ValueError, match=message):
        read_glue(tmp_path, task, "dev")


def test_other_bad_input(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gluebenchmark"):
        read_glue(tmp_path, "rte", "dev")
    with pytest.raises(ValueError, match="'task' must be one of 'cola'"):
        read_glue(tmp_path, "squad", "dev")
    with pytest.raises(ValueError, match="'split' must be 'train', 'dev' or 'test' for rte"):
        read_glue(tmp_path, "rte", "dev_mismatched")
    write(tmp_path, "rte", "dev", []).write_bytes(b"index\tsentence1\xff")
    with pytest.raises(ValueError, match=r"line 1: expected UTF-8"):
        read_glue(tmp_path, "rte", "dev")


@pytest.mark.parametrize("task", ["sst2", "stsb", "mnli"])
def test_prepared_items_are_the_tokenized_rows(tmp_path: Path, tokenizer: Path, task: str) -> None:
    write(tmp_path, task, "train", ROWS[task])
    write(tmp_path, task, "dev", ROWS[task][:1])
    data = prepare("glue", tmp_path, name=task, tokenizer=str(tokenizer), max_length=16)
    assert [len(data[split]) for split in ("train", "val", "test")] == [2, 1, 1]
    loaded = load_tokenizer(tokenizer)
    for item, example in zip(data["train"], EXPECTED[task], strict=False):
        pieces = loaded.encode_lines(example.texts)
        expected = [loaded.begin, *pieces[0], loaded.end]
        if len(pieces) == 2:
            expected += [loaded.end, *pieces[1], loaded.end]
        [tokens] = item.tokens
        if len(expected) <= 16:
            assert tokens.tolist() == expected
        assert len(tokens) <= 16
        assert item.label == pytest.approx(example.label)
        assert isinstance(item.label, float) == (task == "stsb")
    assert data["train"].num_classes == {"sst2": 2, "stsb": 1, "mnli": 3}[task]


def test_the_longer_sentence_of_a_pair_is_cut(tokenizer: Path) -> None:
    loaded = load_tokenizer(tokenizer)
    short, long = loaded.encode_lines(["the cat", "the dog sat on the mat " * 9])
    [ids] = loaded.encode([("the cat", "the dog sat on the mat " * 9)], 20)
    assert ids.tolist() == [
        loaded.begin, *short, loaded.end, loaded.end, *long[: 16 - len(short)], loaded.end
    ]  # fmt: skip


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3}
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.WordLevel(vocab, unk_token="<pad>")).save(str(path))
    with pytest.raises(ValueError, match=r"tokenizer.json: expected .* mask token '<mask>' or"):
        load_tokenizer(path)
    with pytest.raises(FileNotFoundError, match=r"vocab.json and merges.txt"):
        load_tokenizer(tmp_path / "nowhere")
    path.write_text("{}")
    with pytest.raises(ValueError, match="expected a tokenizer, got none that can be read"):
        load_tokenizer(path)


def test_saved_tokenizer_is_the_trained_one(tokenizer: Path) -> None:
    loaded = load_tokenizer(tokenizer)
    assert isinstance(loaded, TextTokenizer)
    assert (loaded.begin, loaded.pad, loaded.end, loaded.mask) == (0, 1, 2, 4)
    assert loaded.special == (0, 1, 2, 3, 4)
    text = "the cat’s 猫 sat\x85on"
    assert loaded.tokenizer.decode(loaded.encode_lines([text])[0]) == text


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_scores_equal_those_of_scikit_learn_and_scipy(task: str) -> None:
    from scipy import stats
    from sklearn import metrics

    rng = np.random.default_rng(0)
    spec = GLUE_TASKS[task]
    if spec.labels:
        predictions, labels = rng.integers(spec.num_classes, size=(2, 200))
    else:
        labels = rng.uniform(0, 5, 200).round(1)
        predictions = (labels + rng.normal(size=200)).astype(np.float32)
    truth = {
        "accuracy": lambda: metrics.accuracy_score(labels, predictions),
        "f1": lambda: metrics.f1_score(labels, predictions),
        "matthews": lambda: metrics.matthews_corrcoef(labels, predictions),
        "pearson": lambda: stats.pearsonr(labels, predictions.astype(float))[0],
        "spearman": lambda: stats.spearmanr(labels, predictions)[0],
    }
    expected = {name: truth[name]() for name in spec.metrics}
    expected["score"] = sum(expected.values()) / len(expected)
    assert glue_scores(task, predictions, labels) == pytest.approx(expected, abs=1e-12)


def test_constant_predictions_score_zero_and_never_nan() -> None:
    labels = np.array([0, 1, 1, 0])
    zeros = np.zeros(4, int)
    assert glue_scores("cola", zeros, labels) == {"matthews": 0.0, "score": 0.0}
    assert glue_scores("mrpc", zeros, labels) == {"accuracy": 0.5, "f1": 0.0, "score": 0.25}
    with pytest.warns(UserWarning, match="all predictions are 2.5; the correlation is undefined"):
        scores = glue_scores("stsb", np.full(4, 2.5), np.array([1.0, 2.0, 3.0, 4.0]))
    assert scores == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}


@pytest.mark.parametrize(
    ("predictions", "message"),
    [([0.0, float("nan")], "must be finite"), ([0.0], "as long as 'labels'")],
)
def test_bad_predictions_are_refused(predictions: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        glue_scores("stsb", np.array(predictions), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="not empty"):
        glue_scores("stsb", np.array([]), np.array([]))


@pytest.mark.data
@pytest.mark.parametrize("task", GLUE_TASKS)
def test_rows_of_the_real_files(task: str) -> None:
    root = os.environ.get("SBMGRAPH_DATA")
    if not root or not (Path(root) / "glue").is_dir():
        pytest.skip("SBMGRAPH_DATA names no folder with glue/")
    for split, official in zip(("train", "dev"), COUNTS[task], strict=True):
        examples = read_glue(root, task, split)
        lines = glue_file(root, task, split).read_bytes().count(b"\n") - (task != "cola")
        assert len(examples) == lines <= official + 3
        assert all(len(e.texts) == len(GLUE_TASKS[task].texts) for e in examples)
        if task not in ("qnli", "qqp", "mnli"):
            assert len(examples) == official
