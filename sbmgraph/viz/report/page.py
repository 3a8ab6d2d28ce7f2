"""The report: one page of views of a model's heads on some inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sbmgraph.analysis.strength import CLEAR, RANK_ONE
from sbmgraph.checks import check_positive_int
from sbmgraph.files import write_atomically
from sbmgraph.viz.color import block_color, ink_on
from sbmgraph.viz.report.history import history_lines
from sbmgraph.viz.report.html import pack, render, to_base64
from sbmgraph.viz.report.run import ReportInput, Vote, run_item
from sbmgraph.viz.report.view import View, head_view, sample_cells

if TYPE_CHECKING:
    import pandas as pd

RESOLUTIONS = (4096, 2048, 1024, 768, 512, 384, 256, 192, 128)
SCRIPTS = (
    "data.js",
    "adjacency.js",
    "tokens.js",
    "neighbours.js",
    "blocks.js",
    "overview.js",
    "report.js",
)


def write_report(
    path: str | Path,
    model: nn.Module,
    inputs: Sequence[ReportInput],
    *,
    title: str = "SBM attention",
    summary: Mapping[str, str] | None = None,
    history: pd.DataFrame | None = None,
    decode: Callable[[int], str] = str,
    image_shape: tuple[int, int] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    seed: int = 0,
    num_votes: int = 9,
    max_bytes: int = 9_500_000,
) -> Path:
    """Writes the report of a model on some inputs.

    The model runs in evaluation mode on one input at a time; where it averages several sampled
    graphs, the first is shown.

    Args:
        path (str or Path): The HTML file; it appears once it is complete.
        model (Module): A token model, called as ``model(tokens, batch=…, generator=…)``, with SBM
            layers.
        inputs (sequence of ReportInput): What to run it on.
        title (str, optional): Title of the page. (default: :obj:`"SBM attention"`)
        summary (mapping, optional): Facts for the head of the page, name to text.
        history (DataFrame, optional): Density over training, with columns ``step``, ``layer``,
            ``head`` and ``density``; see :func:`density_history`.
        decode (Callable, optional): Text of a token number. (default: :obj:`str`)
        image_shape (tuple, optional): Height and width where the tokens are pixels, 0 to 255 in
            row-major order. (default: :obj:`None`)
        layers (sequence of int, optional): Which SBM layers to show. (default: all)
        heads (sequence of int, optional): Which heads to show. (default: all)
        seed (int, optional): Seed of the sampled graphs. (default: :obj:`0`)
        num_votes (int, optional): How many sampled graphs a classifier's prediction is the vote of.
            (default: :obj:`9`)
        max_bytes (int, optional): Size limit of the page, which sets the resolution of adjacency
            pictures. (default: :obj:`9_500_000`)

    Returns:
        The file.

    Raises:
        ValueError: If there is no input, an input is empty or does not fit the model, the model has
            no SBM layer, a layer or head does not exist, no page fits the limit, or the file cannot
            be written.
    """
    page = report_html(
        model,
        inputs,
        title=title,
        summary=summary,
        history=history,
        decode=decode,
        image_shape=image_shape,
        layers=layers,
        heads=heads,
        seed=seed,
        num_votes=num_votes,
        max_bytes=max_bytes,
    )
    write_atomically(path, page)
    return Path(path)


def report_html(
    model: nn.Module,
    inputs: Sequence[ReportInput],
    *,
    title: str = "SBM attention",
    summary: Mapping[str, str] | None = None,
    history: pd.DataFrame | None = None,
    decode: Callable[[int], str] = str,
    image_shape: tuple[int, int] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    seed: int = 0,
    num_votes: int = 9,
    max_bytes: int = 9_500_000,
) -> str:
    """The page of :func:`write_report` as text."""
    if len(inputs) == 0:
        raise ValueError("'inputs' must hold at least one input, got none")
    check_positive_int("num_votes", num_votes)
    check_positive_int("max_bytes", max_bytes)
    items: list[dict[str, Any]] = []
    views: dict[str, View] = {}
    samples: dict[str, Callable[[int], View]] = {}
    chosen: list[tuple[int, str]] = []
    chosen_heads: list[int] = []
    for number, item in enumerate(inputs):
        recorded, vote = run_item(model, item, number, seed, num_votes)
        names = list(dict.fromkeys(run.name for run, _ in recorded))
        chosen = [(i, names[i]) for i in _choose("layers", layers, len(names))]
        chosen_heads = _choose("heads", heads, min(run.sbm.heads for run, _ in recorded))
        for document, tokens in enumerate(item.documents):
            index = len(items)
            items.append(_item(item, number, document, tokens, decode, image_shape, vote))
            for layer, name in chosen:
                run, weights = next(pair for pair in recorded if pair[0].name == name)
                for head in chosen_heads:
                    key = f"{index}-{layer}-{head}"
                    views[key] = head_view(run, head, document, weights)
                    samples[key] = sample_cells(run, head, document)
    if not chosen or not chosen_heads:
        raise ValueError("'layers' and 'heads' must leave something to show, got an empty choice")
    clusters = max(view.info["clusters"] for view in views.values())
    colours = [block_color(block) for block in range(clusters)]
    index_data = {
        "inputs": items,
        "layers": [{"number": i, "name": name} for i, name in chosen],
        "heads": chosen_heads,
        "summary": dict(summary or {}),
        "history": history_lines(history),
        "image": list(image_shape) if image_shape else None,
        "colours": colours,
        "inks": [ink_on(colour) for colour in colours],
        "strengths": {"rankOne": RANK_ONE, "clear": CLEAR},
        "views": {key: view.info for key, view in views.items()},
        "thumbnails": {key: to_base64(view.arrays.pop("thumbnail")) for key, view in views.items()},
    }
    return _fit(title, index_data, views, samples, max_bytes)


def _choose(name: str, wanted: Sequence[int] | None, size: int) -> list[int]:
    if wanted is None:
        return list(range(size))
    for value in wanted:
        if not isinstance(value, int) or not 0 <= value < size:
            raise ValueError(
                f"'{name}' must hold integers in [0, {size}), as the model has {size} of them, "
                f"got {value!r}"
            )
    return list(wanted)


def _item(
    item: ReportInput,
    number: int,
    document: int,
    tokens: Tensor,
    decode: Callable[[int], str],
    image_shape: tuple[int, int] | None,
    vote: Vote | None,
) -> dict[str, Any]:
    """An input as the page lists it."""
    values = tokens.reshape(-1).tolist()
    if image_shape is not None and len(values) != math.prod(image_shape):
        raise ValueError(
            f"'inputs' must hold {math.prod(image_shape)} pixels each, as 'image_shape' says, "
            f"got {len(values)} in input {number}"
        )
    name = f"{number}" if len(item.documents) == 1 else f"{number}{'ab'[document]}"
    return {
        "name": name,
        "label": item.label,
        "vote": None if vote is None else vote._asdict(),
        "length": len(values),
        "words": values if image_shape is not None else [str(decode(value)) for value in values],
    }


def _fit(
    title: str,
    index_data: dict[str, Any],
    views: dict[str, View],
    samples: Mapping[str, Callable[[int], View]],
    max_bytes: int,
) -> str:
    """The page at the finest resolution that the size limit allows."""
    packed = {key: pack(view.arrays) for key, view in views.items()}
    fixed = len(render("report.html", SCRIPTS, title, index_data, packed).encode())
    longest = max(item["length"] for item in index_data["inputs"])
    enough = [r for r in RESOLUTIONS if r >= longest][-1:]
    for resolution in [*enough, *(r for r in RESOLUTIONS if r < longest)]:
        cells = _cells_within(samples, resolution, max_bytes - fixed)
        if cells is None:
            continue
        for key, (info, text) in cells.items():
            index_data["views"][key].update(info)
            packed[f"{key}-sample"] = text
        return render("report.html", SCRIPTS, title, index_data, packed)
    raise ValueError(
        f"'max_bytes' must leave room for {len(views)} views, got {max_bytes} where even the "
        f"coarsest take more than {fixed}: show fewer inputs, layers or heads"
    )


def _cells_within(
    samples: Mapping[str, Callable[[int], View]], resolution: int, room: int
) -> dict[str, tuple[dict[str, Any], str]] | None:
    """Facts and packed cells of every sampled adjacency, or nothing if they pass ``room`` bytes."""
    out = {}
    for key, sample in samples.items():
        view = sample(resolution)
        out[key] = (view.info, pack(view.arrays))
        room -= len(out[key][1]) + len(_SAMPLE_OVERHEAD)
        if room < 0:
            return None
    return out


_SAMPLE_OVERHEAD = (
    '<script type="text/plain" id="data-000-00-00-sample"></script>,"cells":[0000,0000]'
)
