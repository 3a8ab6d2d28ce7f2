from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from statistics import median

import numpy as np
import pytest

from sbmgraph.data import listops, prepare
from tests.data.damage import count_refusals, damaged

SHORT = {"min_length": 5, "max_length": 40, "max_depth": 4}
FUNCTIONS = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(median(values)),
    "[SM": lambda values: sum(values) % 10,
}


def slow_value(text: str) -> int:
    """An evaluator of LRA's text that shares nothing with the package's."""

    def value(words: list[str]) -> int:
        word = words.pop()
        if word not in FUNCTIONS:
            return int(word)
        arguments = []
        while words[-1] != "]":
            arguments.append(value(words))
        words.pop()
        return FUNCTIONS[word](arguments)

    return value(re.sub(r"[()]", "", text).split()[::-1])


@pytest.fixture(scope="module")
def long_trees() -> list[tuple[np.ndarray, int]]:
    return list(listops.generate(4000, seed=11, workers=2))


def test_lengths_and_values(long_trees):
    lengths = np.array([len(tokens) for tokens, _ in long_trees])
    assert lengths.min() > 500
    assert lengths.max() < 2000
    for tokens, value in long_trees[:100]:
        assert slow_value(listops.to_text(tokens)) == listops.evaluate(tokens) == value


def test_labels_follow_lra(long_trees):
    """LRA's marginals: 0 and 9 near 17 % each, the rest 7 to 9 %.

    With 4,000 trees a share of 17 % has a standard deviation of 0.6 points; bounds of 2.4 points
    (4 deviations) on ten labels keep the family-wise error rate below 0.1 %.
    """
    shares = np.bincount([value for _, value in long_trees], minlength=10) / len(long_trees)
    assert shares[[0, 9]] == pytest.approx(0.17, abs=0.024)
    assert (np.abs(shares[1:9] - 0.0825) < 0.0175 + 0.01).all()


def test_share_of_trees_that_are_long_enough():
    """About 8 % of all trees (DESIGN: LRA's generator); 4 standard deviations at 20,000 tries."""
    from sbmgraph.data._listops_kernels import random_trees

    _, _, found, tries = random_trees(np.random.default_rng(0), 10_000, 20_000, 500, 2000, 10, 10)
    assert tries == 20_000
    assert len(found) / tries == pytest.approx(0.08, abs=0.015)


def test_arguments_and_operators_are_uniform():
    """Tokens of unbounded trees of depth 2: operators, argument counts, digits (4 deviations)."""
    trees = [t for t, _ in listops.generate(3000, min_length=1, max_length=100, max_depth=2)]
    operators = np.bincount([t[0] for t in trees], minlength=16)[11:15]
    assert operators / 3000 == pytest.approx(0.25, abs=0.032)
    digits = np.bincount(np.concatenate([t[1:-1] for t in trees]), minlength=11)[1:11]
    assert digits / digits.sum() == pytest.approx(0.1, abs=0.012)
    # Distinctness thins out the shortest trees, so only the longer ones are compared.
    arguments = np.bincount([len(t) - 2 for t in trees], minlength=11)[4:]
    assert arguments / arguments.sum() == pytest.approx(1 / 7, abs=0.035)


def test_trees_depend_on_the_seed_alone():
    def trees(**options) -> list[bytes]:
        return [t.tobytes() for t, _ in listops.generate(700, **SHORT, **options)]

    one = trees(seed=1, workers=1)
    assert one == trees(seed=1, workers=3)
    assert one[:300] == [t.tobytes() for t, _ in listops.generate(300, **SHORT, seed=1)]
    assert one != trees(seed=2)
    assert len(set(one)) == 700


def test_depth_limit():
    def depth(tokens: np.ndarray) -> int:
        steps = np.where(tokens == listops.CLOSE, -1, (tokens >= listops.MIN).astype(int))
        return int(steps.cumsum().max())

    trees = [t for t, _ in listops.generate(500, **SHORT)]
    assert max(depth(t) for t in trees) == 3


def test_text_is_binary_and_left_branching():
    tokens = np.array([12, 3, 11, 10, 5, 15, 1, 15])
    text = "( ( ( ( [MAX 2 ) ( ( ( [MIN 9 ) 4 ) ] ) ) 0 ) ] )"
    assert listops.to_text(tokens) == text
    assert listops.from_text(text.encode()).tolist() == tokens.tolist()
    assert listops.to_text(np.array([4])) == "3"


@pytest.mark.parametrize(
    "tokens",
    [[], [11], [11, 3], [3, 4], [15], [11, 15], [0], [11, 3, 15, 15]],
)
@pytest.mark.parametrize("function", [listops.evaluate, listops.to_text])
def test_incomplete_expressions_are_refused(function, tokens):
    with pytest.raises(ValueError, match=r"^'tokens' must be one complete expression, got '"):
        function(np.array(tokens, dtype=np.uint8))


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([257], "from 0 to 15, got 257 to 257"),
        ([99], "from 0 to 15, got 99 to 99"),
        ([16], "from 0 to 15, got 16 to 16"),
        ([-1], "from 0 to 15, got -1 to -1"),
        ([11, 3, -241], "from 0 to 15, got -241 to 11"),
        ([3.0], "a vector of integers, got float64 of shape [1]"),
        ([[3]], "a vector of integers, got int64 of shape [1, 1]"),
        (["3"], "a vector of integers, got <U1 of shape [1]"),
    ],
)
@pytest.mark.parametrize("function", [listops.evaluate, listops.to_text])
def test_what_is_no_token_is_refused(function, tokens, reason):
    with pytest.raises(ValueError, match=rf"^'tokens' must be {re.escape(reason)}$"):
        function(tokens)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (") ) 1 (", 1),
        ("( 1 )", 3),
        ("1 2", 3),
        ("( ( [MAX 2 ) ] ) )", 8),
        ("( ( ( [MAX 2 ) 9 ) ]", 10),
        ("( ( ( [MAX 2 ) 9 ] ) )", 9),
        ("( [MAX ] )", 4),
        ("[MAX 2 9 ]", 5),
        ("( ( 1 [MAX ) ] )", 5),
        ("]", 2),
        ("(", 2),
    ],
)
def test_misplaced_parentheses_are_refused(text, word):
    with pytest.raises(ValueError, match=f"one complete expression, got .* at word {word}$"):
        listops.from_text(text.encode())


def test_text_is_accepted_just_where_it_is_that_of_its_tokens():
    """Random damage to words; an independent truth: the words of a tree, put together again."""
    rng = np.random.default_rng(0)
    words = [*"0123456789()]", "[MIN", "[SM"]
    accepted = 0
    for tokens, _ in listops.generate(60, min_length=2, max_length=12, max_depth=4):
        text = listops.to_text(tokens)
        assert listops.from_text(text.encode()).tolist() == tokens.tolist()
        for _ in range(40):
            copy = text.split()
            at = rng.integers(len(copy))
            copy[at : at + rng.integers(2)] = rng.choice(words, rng.integers(2)).tolist()
            try:
                found = listops.from_text(" ".join(copy).encode())
            except ValueError:
                assert not is_binary(copy)
                continue
            assert listops.to_text(found) == " ".join(copy)
            assert is_binary(copy)
            accepted += 1
    assert accepted > 200


def is_binary(words: list[str]) -> bool:
    """Whether words are an expression in LRA's form, by rewriting: pairs into what they are."""
    text = " ".join(words)
    text = re.sub(r"\[M\w+|\[SM", "o", text)
    text = re.sub(r"\d", "e", text)
    while True:
        shorter = re.sub(r"\( [oO] e \)", "O", text)
        shorter = re.sub(r"\( O \] \)", "e", shorter)
        if shorter == text:
            return text == "e"
        text = shorter


def test_every_damaged_file_is_refused_or_of_whole_rows(tmp_path):
    path = tmp_path / "basic_val.tsv"
    listops.write_tsv(path, listops.generate(20, **SHORT))
    content = path.read_bytes()
    whole = [(t.tolist(), v) for t, v in listops.read_tsv(path)]

    def read():
        return [(t.tolist(), v) for t, v in listops.read_tsv(path)]

    refused, results = count_refusals(read, path.write_bytes, damaged(content, 800), f"{path}, l")
    assert refused > 500
    for rows in results:  # a digit may be another, where that does not count
        assert sum(row not in whole for row in rows) <= 3


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "full.tsv"
    path.write_text("before")
    trees = list(listops.generate(200, **SHORT))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ValueError) as error:
            listops.write_tsv(path, iter(trees))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value).startswith(f"{tmp_path}: expected a folder with room for full.tsv")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["full.tsv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_children": 1}, "'max_children' must be an integer >= 2, got 1"),
        ({"max_depth": 0}, "'max_depth' must be an integer >= 1, got 0"),
        ({"min_length": 10, "max_length": 11}, "'max_length' must be an integer >= 12, got 11"),
        (
            {"min_length": 0, "max_length": 2, "max_depth": 1},
            "'num_trees' must be .* got 100, of which 10 were found",
        ),
        ({"min_length": 300, "max_length": 400, "max_depth": 2}, "of which 0 were found"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        list(listops.generate(100, **options))


def test_prepare_generates_and_caches(tmp_path):
    options = {"num_train": 50, "num_val": 20, "num_test": 30, **SHORT}
    splits = prepare("listops", tmp_path, **options)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [50, 20, 30]
    assert splits["train"].vocab_size == 16
    assert splits["train"].num_classes == 10
    trees = list(listops.generate(100, **SHORT))
    for i in range(20):
        item = splits["val"][i]
        assert item.tokens[0].tolist() == trees[50 + i][0].tolist()
        assert item.label == trees[50 + i][1]
    assert len(list((tmp_path / "prepared").iterdir())) == 1
    assert len(prepare("listops", tmp_path, limit_train=10, **options)["train"]) == 10


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "lra_release" / "lra_release" / "listops-1000"
    folder.mkdir(parents=True)
    for seed, name in enumerate(listops.FILES.values()):
        listops.write_tsv(folder / name, listops.generate(20, **SHORT, seed=seed))
    return folder


def test_prepare_reads_the_release(tmp_path, release):
    raw = (release / "basic_val.tsv").read_bytes().split(b"\r\n")
    assert raw[0] == b"Source\tTarget"
    assert raw[-1] == b""
    splits = prepare("listops", tmp_path, source="release", limit_test=5)
    assert len(splits["test"]) == 5
    trees = list(listops.generate(20, **SHORT, seed=1))
    assert [i.tokens[0].tolist() for i in splits["val"]] == [t.tolist() for t, _ in trees]
    assert splits["val"].labels.tolist() == [value for _, value in trees]


def test_changed_sources_are_read_anew(tmp_path, release):
    prepare("listops", tmp_path, source="release")
    listops.write_tsv(release / "basic_val.tsv", listops.generate(7, **SHORT))
    assert len(prepare("listops", tmp_path, source="release")["val"]) == 7
    content = (release / "basic_val.tsv").read_bytes()
    first, second, *rest = content.splitlines(keepends=True)[1:]
    (release / "basic_val.tsv").write_bytes(b"".join([b"Source\tTarget\r\n", second, first, *rest]))
    tokens = prepare("listops", tmp_path, source="release")["val"][0].tokens[0]
    assert tokens.tolist() == listops.from_text(second.split(b"\t")[0]).tolist()


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"", 1, "expected the header"),
        (b"a,b\r\n1,2\r\n", 1, "expected the header"),
        (b"\x89PNG\r\n", 1, "expected the header"),
        (b"Source\tTarget\r\n", 2, "at least one row"),
        (b"Source\tTarget\r\n( ( ( [MIN 3 ) 4 ) ] )\t3\r\n( ( [MI", 3, "end of the file"),
        (b"Source\tTarget\r\n( ( ( [MIN 3 ) 4 ) ] )\t3\t3\r\n", 2, "two columns, got 3"),
        (b"Source\tTarget\r\n( ( ( [MIN 3 ) 4 ) ] )\t12\r\n", 2, "target from 0 to 9"),
        (b"Source\tTarget\r\n( ( ( [MIN 3 ) 4 ) ] )\t4\r\n", 2, "value of the expression, 3"),
        (b"Source\tTarget\r\n( ( ( [AVG 3 ) 4 ) ] )\t4\r\n", 2, r"got b'\[AVG'"),
        (b"Source\tTarget\r\n( ( ( [MIN \xff ) 4 ) ] )\t4\r\n", 2, "got b'.xff'"),
        (b"Source\tTarget\r\n( ( ( [MIN 34 ) 4 ) ] )\t3\r\n", 2, "got b'34'"),
        (b"Source\tTarget\r\n( ( ( [MIN 3 ) 4 )\t3\r\n", 2, "got 'the end' at word 9"),
    ],
)
def test_foreign_files(tmp_path, release, content, line, reason):
    path = release / "basic_train.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"basic_train\.tsv, line {line}: .*{reason}"):
        prepare("listops", tmp_path, source="release")
    assert list((tmp_path / "prepared").iterdir()) == []


def test_missing_release(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        prepare("listops", tmp_path, source="release")
    message = str(error.value)
    assert str(tmp_path / "lra_release/lra_release/listops-1000") in message
    assert "github.com/google-research/long-range-arena" in message
    assert 'source: "generate"' in message


def test_unknown_task_and_option(tmp_path):
    with pytest.raises(ValueError, match=r"'task' must be one of 'listops'.*got 'listop'"):
        prepare("listop", tmp_path)
    with pytest.raises(
        ValueError, match=r"'options' must be among .*num_train.*got \['num_trian'\]"
    ):
        prepare("listops", tmp_path, num_trian=3)
    with pytest.raises(
        ValueError, match="'source' must be one of 'generate', 'release', got 'download'"
    ):
        prepare("listops", tmp_path, source="download")


def test_killed_generation_leaves_no_data(tmp_path):
    """A generation killed half way is started afresh, and gives what one never killed gives."""
    options = "num_train=5_000_000, num_val=1, num_test=1"
    script = f"from sbmgraph.data import prepare; prepare('listops', {str(tmp_path)!r}, {options})"
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    tokens: list = []
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tokens):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
        tokens = list(tmp_path.glob("prepared/.*/train.tokens"))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    names = [path.name for path in (tmp_path / "prepared").iterdir()]
    assert names
    assert all(name.startswith(".") for name in names)
