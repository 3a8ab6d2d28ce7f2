"""GLUE: nine tasks of English sentences and pairs of them (Wang et al., ICLR 2019).

The files are those of the official release, one folder a task. They are tab-separated *without*
quoting: a quotation mark is a character like any other, and so are ``n/a``, ``null`` and whatever
else readers of tables take for a missing value. Columns are found by their names in the header;
CoLA's training and development files have none.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sbmgraph.checks import check_choice, check_positive_int
from sbmgraph.data.release import take
from sbmgraph.data.sequence import SequenceDataset
from sbmgraph.data.tokenizer import find_tokenizer, load_tokenizer

BINARY = ("0", "1")
ENTAILED = ("entailment", "not_entailment")
SPLITS = ("train", "dev", "test", "dev_mismatched", "test_mismatched")


@dataclass(frozen=True)
class GlueTask:
    """What there is to know of a task.

    Attributes:
        folder: Folder of its files.
        texts: Columns of the sentence, or of the two sentences of a pair.
        label: Column of the label.
        labels: The labels, in the order of their class numbers; empty for a regression.
        metrics: Names of the metrics, as :func:`sbmgraph.data.glue_scores` gives them.
        low, high: Range of a regression's scores.
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    low: float = 0.0
    high: float = 0.0

    @property
    def num_classes(self) -> int:
        """The number of classes; 1 for a regression."""
        return len(self.labels) or 1


_PAIR = ("sentence1", "sentence2")

#: The nine tasks, by the names that Transformers and the ``datasets`` library give them.
GLUE_TASKS: dict[str, GlueTask] = {
    "cola": GlueTask("CoLA", ("sentence",), "label", BINARY, ("matthews",)),
    "sst2": GlueTask("SST-2", ("sentence",), "label", BINARY),
    "mrpc": GlueTask("MRPC", ("#1 String", "#2 String"), "Quality", BINARY, ("accuracy", "f1")),
    "stsb": GlueTask("STS-B", _PAIR, "score", (), ("pearson", "spearman"), 0.0, 5.0),
    "qqp": GlueTask(
        "QQP", ("question1", "question2"), "is_duplicate", BINARY, ("accuracy", "f1")
    ),
    "mnli": GlueTask("MNLI", _PAIR, "gold_label", ("entailment", "neutral", "contradiction")),
    "qnli": GlueTask("QNLI", ("question", "sentence"), "label", ENTAILED),
    "rte": GlueTask("RTE", _PAIR, "label", ENTAILED),
    "wnli": GlueTask("WNLI", _PAIR, "label", BINARY),
}  # fmt: skip

# The official CoLA files: source, label, the author's mark, sentence.
_COLA_COLUMNS = ["source", "label", "mark", "sentence"]


class GlueExample(NamedTuple):
    """A row.

    Attributes:
        texts: The sentence, or the two sentences of a pair.
        label: Number of the class, score of a regression, or :obj:`None` in a test file.
    """

    texts: tuple[str, ...]
    label: int | float | None


def glue_file(root: str | Path, task: str, split: str) -> Path:
    """Where a split of a task lies below the data folder: ``glue/CoLA/train.tsv`` and so on.

    Raises:
        ValueError: If the task or the split is unknown.
    """
    check_choice("task", task, GLUE_TASKS)
    check_choice("split", split, SPLITS)
    if task == "mnli" and split in ("dev", "test"):
        split += "_matched"
    elif task != "mnli" and split.endswith("_mismatched"):
        raise ValueError(f"'split' must be 'train', 'dev' or 'test' for {task}, got {split!r}")
    return Path(root) / "glue" / GLUE_TASKS[task].folder / f"{split}.tsv"


def read_glue(root: str | Path, task: str, split: str) -> list[GlueExample]:
    """The rows of a split, in their order.

    Args:
        root: Data folder; see :func:`glue_file`.
        task: One of :data:`GLUE_TASKS`.
        split: ``"train"``, ``"dev"`` or ``"test"`` (of which the labels are not public); for MNLI
            these are the matched ones, and ``"dev_mismatched"`` and ``"test_mismatched"`` exist.

    Raises:
        ValueError: Naming file and line, if a column is missing or a label unknown.
        FileNotFoundError: If the file is not there.
    """
    path = glue_file(root, task, split)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the file {path.name} of GLUE's {GLUE_TASKS[task].folder}, found "
            "none. The tasks' archives are at https://gluebenchmark.com/tasks; unpack them into "
            f"{path.parents[1]}"
        )
    labelled = not split.startswith("test")
    examples = list(_examples(path, task, labelled))
    if not examples:
        raise ValueError(f"{path}: expected at least one row, got none")
    return examples


def _examples(path: Path, task: str, labelled: bool) -> Iterator[GlueExample]:
    spec = GLUE_TASKS[task]
    rows = _rows(path)
    header = _COLA_COLUMNS if task == "cola" and labelled else next(rows, (1, []))[1]
    wanted = [*spec.texts, *([spec.label] if labelled else [])]
    missing = [column for column in wanted if column not in header]
    if missing:
        raise ValueError(
            f"{path}, line 1: expected a header with the columns {', '.join(wanted)}, got none of "
            f"{', '.join(missing)} in {', '.join(map(repr, header)) or 'an empty line'}"
        )
    places = [header.index(column) for column in wanted]
    torn = []
    for number, row in rows:
        if len(row) <= max(places):
            # The official QQP holds a few rows that break off.
            if task == "qqp" and path.name == "train.tsv":
                torn.append(number)
                continue
            raise ValueError(
                f"{path}, line {number}: expected {len(header)} columns, got {len(row)}"
            )
        cells = [row[place] for place in places]
        label = _label(spec, cells.pop(), path, number) if labelled else None
        yield GlueExample(tuple(cells), label)
    if torn:
        lines = ", ".join(map(str, torn[:5])) + (" …" if len(torn) > 5 else "")
        warnings.warn(f"{path}: {len(torn)} rows that break off are left out (lines {lines})",
                      stacklevel=3)  # fmt: skip


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line and its number from 1. Only a line feed ends a line: sentences hold
    carriage returns and Unicode's line separators."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}: expected UTF-8, got {error}") from None
            yield number, text.removesuffix("\n").removesuffix("\r").split("\t")


def _label(spec: GlueTask, cell: str, path: Path, number: int) -> int | float:
    if spec.labels:
        if cell not in spec.labels:
            expected = ", ".join(map(repr, spec.labels))
            raise ValueError(f"{path}, line {number}: expected a label {expected}, got {cell!r}")
        return spec.labels.index(cell)
    try:
        score = float(cell)
    except ValueError:
        score = float("nan")
    if not spec.low <= score <= spec.high:
        raise ValueError(
            f"{path}, line {number}: expected a score in [{spec.low:g}, {spec.high:g}], "
            f"got {cell!r}"
        )
    return score


def prepare_glue(
    root: Path,
    cache_root: Path,
    *,
    name: str = "cola",
    tokenizer: str = "tokenizer.json",
    max_length: int = 128,
    test: str = "dev",
    seed: int = 0,
    limit_train: int | None = None,
    limit_val: int | None = None,
    limit_test: int | None = None,
) -> dict[str, SequenceDataset]:
    """A task's sentences as token numbers, pairs joined as the tokenizer joins them.

    The labels of the official test files are not public, so that scores are those of the
    development set, as is usual: it is both ``val`` and ``test``, and no checkpoint should be
    chosen by it.

    Args:
        root: Data folder.
        cache_root: Not used: tokenizing takes seconds.
        name: One of :data:`GLUE_TASKS`.
        tokenizer: File or folder of a tokenizer, see
            :func:`sbmgraph.data.tokenizer.load_tokenizer`; also from ``root``.
        max_length: Tokens after which a sentence is cut; of a pair, the longer one first.
        test: The labelled split that is ``test``: ``"dev"``, or ``"dev_mismatched"`` for MNLI.
        seed: Seed of the limits.
        limit_train: Use only so many rows for training, drawn at random.
        limit_val: As ``limit_train``, for validation.
        limit_test: As ``limit_train``, for testing.

    Returns:
        Data sets ``train``, ``val`` and ``test``; a regression has one class and float labels.

    Raises:
        ValueError: On bad options, or rows that are not of the expected form.
        FileNotFoundError: If a file is not there.
    """
    check_choice("name", name, GLUE_TASKS)
    check_choice("test", test, ("dev", "dev_mismatched"))
    check_positive_int("max_length", max_length, minimum=8)
    text_tokenizer = load_tokenizer(find_tokenizer(root, tokenizer))
    spec = GLUE_TASKS[name]
    limits = {"train": limit_train, "val": limit_val, "test": limit_test}
    datasets = {}
    for split, source in {"train": "train", "val": "dev", "test": test}.items():
        examples = read_glue(root, name, source)
        chosen = take(len(examples), limits[split], seed)
        examples = [examples[i] for i in chosen]
        encoded = text_tokenizer.encode([example.texts for example in examples], max_length)
        lengths = [len(ids) for ids in encoded]
        datasets[split] = SequenceDataset(
            np.concatenate(encoded),
            np.concatenate([[0], np.cumsum(lengths)]),
            np.array([e.label for e in examples], np.int64 if spec.labels else np.float32),
            name=f"glue/{name}/{split}",
            vocab_size=text_tokenizer.vocab_size,
            num_classes=spec.num_classes,
            max_length=max_length,
        )
    return datasets
