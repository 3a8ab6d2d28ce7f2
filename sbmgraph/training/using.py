"""Commands on finished runs: predict, compare, density."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sbmgraph.data import Sequence
from sbmgraph.files import write_atomically
from sbmgraph.training.comparing import compare_runs, load_summaries
from sbmgraph.training.input_density import FEATURES, density_by_input, explain_density
from sbmgraph.training.inputs import class_names, read_picture, read_text
from sbmgraph.training.pictures import draw_input
from sbmgraph.training.predictions import Prediction, predict_item, to_batch
from sbmgraph.training.run import load_run


def predict(argv: list[str], program: str) -> None:
    """Classifies own inputs with a trained run, and draws what its heads sample on them."""
    parser = ArgumentParser(prog=f"{program} predict", description=predict.__doc__)
    parser.add_argument("run", type=Path, help="The run folder")
    parser.add_argument("--text", nargs="+", default=[], help="A text (Retrieval: two)")
    parser.add_argument(
        "--file", nargs="+", type=Path, default=[], help="The same from files, as UTF-8"
    )
    parser.add_argument("--picture", type=Path, default=None, help="A picture of 32 × 32 pixels")
    parser.add_argument("--samples", type=int, default=8, help="Sampled graphs to average over")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the sampled graphs")
    parser.add_argument("--out", type=Path, default=None, help="Folder for pictures of the graphs")
    given = parser.parse_args(argv[1:])
    texts = [*given.text, *(_read(path) for path in given.file)]
    if bool(texts) == (given.picture is not None):
        raise ValueError("text: expected a --text, a --file or a --picture, and only one of these")
    model, data = load_run(given.run)
    if given.picture is None:
        item = read_text(data.task, texts, model.hparams["max_length"])
    else:
        item = read_picture(data.task, given.picture)
    answer = predict_item(model, data, item, given.samples, given.seed)
    print_prediction(data.task, item, answer)
    if given.out is not None:
        for path in draw_input(model, to_batch(model, data, item), given.out, given.seed):
            print(path)


def print_prediction(task: str, item: Sequence, answer: Prediction) -> None:
    """Prints an answer: classes by probability, or the class of every token."""
    names = class_names(task)
    console = Console(width=None if sys.stdout.isatty() else 120)
    over = f"over {answer.samples} sampled graphs"
    if answer.density is not None:
        over += f" of mean density {answer.density:.1%}"
    if answer.label.dim():
        table = Table("token", "class", "probability", title=f"every token, {over}")
        for token, label, probability in zip(
            item.tokens[0].tolist(), answer.label.tolist(), answer.probability, strict=False
        ):
            table.add_row(str(token), names.get(label, str(label)), f"{probability[label]:.1%}")
        console.print(table)
        return
    table = Table("class", "probability", "± over graphs", "likeliest in", title=over)
    for label in answer.probability.argsort(descending=True).tolist():
        table.add_row(
            names.get(label, str(label)),
            f"{answer.probability[label]:.1%}",
            f"{answer.deviation[label]:.1%}",
            f"{int(answer.votes[label])} of {answer.samples}",
        )
    console.print(table)
    label = int(answer.label)
    print(f"class: {names.get(label, label)} ({_at(answer.probability, label):.1%})")


def compare(argv: list[str], program: str) -> None:
    """Prints a table over the models and seeds of finished runs."""
    parser = ArgumentParser(prog=f"{program} compare", description=compare.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="Folders with finished runs below")
    parser.add_argument("--out", type=Path, default=None, help="Write the table as CSV, too")
    given = parser.parse_args(argv[1:])
    frame = compare_runs(load_summaries(given.runs))
    _write(frame, given.out)
    columns = ("run", "model", "seeds", "accuracy", "majority", "density of valid pairs", "steps",
               "time", "peak memory")  # fmt: skip
    table = Table(*columns)
    for row in frame.to_dict("records"):
        spread = row["accuracy_deviation"]
        table.add_row(
            str(row["name"]),
            str(row["model"]),
            str(row["seeds"]),
            f"{row['accuracy']:.1%}" + ("" if pd.isna(spread) else f" ± {spread:.1%}"),
            f"{row['majority']:.1%}",
            "-" if pd.isna(row["density"]) else f"{row['density']:.1%}",
            f"{row['steps']:,}",
            f"{row['seconds'] / 60:.1f} min",
            f"{row['memory'] / 2**30:.1f} GiB",
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def density(argv: list[str], program: str) -> None:
    """Measures the density of every input of a run, and what explains it."""
    parser = ArgumentParser(prog=f"{program} density", description=density.__doc__)
    parser.add_argument("run", type=Path, help="The run folder")
    parser.add_argument("--split", type=str, default="test", help="train, val or test")
    parser.add_argument("--limit", type=int | None, default=1000, help="Items to look at")
    parser.add_argument("--seed", type=int, default=0, help="Seed of their choice")
    parser.add_argument("--out", type=Path, default=None, help="Write every input's row as CSV")
    given = parser.parse_args(argv[1:])
    model, data = load_run(given.run)
    frame = density_by_input(model, data, given.split, given.limit, given.seed)
    _write(frame, given.out)
    explained = explain_density(frame)
    features = [name for name in FEATURES if name in explained]
    table = Table(
        "head", "density, mean ± sd over inputs", *(f"by {name}" for name in features),
        title=f"{len(frame):,} inputs of {given.split}: variation of density explained",
    )  # fmt: skip
    for row in explained.to_dict("records"):
        table.add_row(
            "mean of all" if row["head"] == "density" else str(row["head"]),
            f"{row['mean']:.1%} ± {row['deviation']:.1%}",
            *(f"{row[name]:.0%}" for name in features),
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _write(frame: pd.DataFrame, path: Path | None) -> None:
    if path is not None:
        write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))
        print(path)


def _read(path: Any) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a text file in UTF-8, got {error}") from None


def _at(values: Tensor, place: int) -> float:
    return float(values[place])
