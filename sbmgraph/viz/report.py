"""A trained model and some inputs as one self-contained, interactive HTML page.

A page holds one *view* for every (input, layer, head): the sampled adjacency and its expectation
sorted by block, the block graph, memberships, and the strongest neighbours of every token. Views
are binary, gzip-compressed and Base64-encoded, and unpacked by the browser when they are chosen, so
that the page opens fast; plotly.js is embedded likewise. The page needs no network, and its content
security policy forbids it.

Sampled edges near one half density do not compress: 2,048 tokens need up to 512 KiB a view. The
adjacency is therefore exact as long as the page stays below its size limit, and otherwise counts
edges in square bins, as coarse as the limit asks for; the page says which.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sbmgraph.analysis import (
    BlockOrder,
    biadjacency_matrix,
    block_mass,
    block_order,
    dead_blocks,
    effective_blocks,
    expected_matrix,
    memberships,
    sampled_matrix,
)
from sbmgraph.analysis.matrix import bin_edges, bin_means
from sbmgraph.checks import check_positive_int
from sbmgraph.record import LayerSample, evaluating, record
from sbmgraph.viz.style import block_color

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array

EXPECTED_CELLS = 192
MEMBERSHIP_CELLS = 256
THUMBNAIL_CELLS = 40
TOP_BLOCKS = 12
MEMBERSHIP_BLOCKS = 32
NEIGHBOUR_ENTRIES = 16_384
RESOLUTIONS = (4096, 2048, 1024, 768, 512, 384, 256, 192, 128)


class ReportInput(NamedTuple):
    """One input of a report.

    Attributes:
        documents: The item's token sequences, each int64 of shape :obj:`[length]`; two for a model
            of document pairs.
        label: What the page calls the item, for instance its class.
    """

    documents: Sequence[Tensor]
    label: str = ""


@dataclass
class View:
    """What the page shows of one head on one input; arrays are packed, the rest is JSON."""

    info: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


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
        max_bytes (int, optional): Size limit of the page, which sets the resolution of adjacency
            pictures. (default: :obj:`9_500_000`)

    Returns:
        The file.

    Raises:
        ValueError: If there is no input, an input is empty or does not fit the model, the model has
            no SBM layer, a layer or head does not exist, or no page fits the limit.
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
        max_bytes=max_bytes,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


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
    max_bytes: int = 9_500_000,
) -> str:
    """The page of :func:`write_report` as text."""
    if len(inputs) == 0:
        raise ValueError("'inputs' must hold at least one input, got none")
    check_positive_int("max_bytes", max_bytes)
    items: list[dict[str, Any]] = []
    views: dict[str, View] = {}
    samples: dict[str, Callable[[int], View]] = {}
    chosen: list[tuple[int, str]] = []
    chosen_heads: list[int] = []
    for number, item in enumerate(inputs):
        scores, recorded = _run(model, item, number, seed)
        names = list(dict.fromkeys(run.name for run, _ in recorded))
        chosen = [(i, names[i]) for i in _choose("layers", layers, len(names))]
        chosen_heads = _choose("heads", heads, min(run.sbm.heads for run, _ in recorded))
        for document, tokens in enumerate(item.documents):
            index = len(items)
            items.append(
                _item(item, number, document, tokens, decode, image_shape, _prediction(scores))
            )
            for layer, name in chosen:
                run, weights = next(pair for pair in recorded if pair[0].name == name)
                for head in chosen_heads:
                    key = f"{index}-{layer}-{head}"
                    views[key] = head_view(run, head, document, weights)
                    samples[key] = _sample_cells(run, head, document)
    if not chosen or not chosen_heads:
        raise ValueError("'layers' and 'heads' must leave something to show, got an empty choice")
    clusters = max(view.info["clusters"] for view in views.values())
    index_data = {
        "inputs": items,
        "layers": [{"number": i, "name": name} for i, name in chosen],
        "heads": chosen_heads,
        "summary": dict(summary or {}),
        "history": _history(history),
        "image": list(image_shape) if image_shape else None,
        "colours": [block_color(block) for block in range(clusters)],
        "views": {key: view.info for key, view in views.items()},
        "thumbnails": {key: _base64(view.arrays.pop("thumbnail")) for key, view in views.items()},
    }
    return _fit(title, index_data, views, samples, max_bytes)


# Running the model ###############################################################################


def _run(
    model: nn.Module, item: ReportInput, number: int, seed: int
) -> tuple[Tensor, list[tuple[LayerSample, Tensor | None]]]:
    """Scores of one item, and every recorded run with the attention weights of its edges."""
    if not item.documents or any(tokens.numel() == 0 for tokens in item.documents):
        raise ValueError(f"'inputs' must hold tokens, got none in input {number}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    tokens = torch.cat([t.reshape(-1) for t in item.documents]).to(device, torch.int64)
    lengths = torch.tensor([t.numel() for t in item.documents], device=device)
    batch = torch.repeat_interleave(torch.arange(lengths.numel(), device=device), lengths)
    generator = torch.Generator().manual_seed(seed + number)
    with evaluating(model), torch.no_grad():
        try:
            with record(model, weights=True) as runs:
                scores = model(tokens, batch=batch, generator=generator)
        except ValueError as error:
            raise ValueError(f"'inputs' must fit the model, got input {number}: {error}") from error
        if len(runs) == 0:
            raise ValueError(
                f"'model' must have an SBM layer, got a {type(model).__name__} without one"
            )
        first = [layer_runs[0] for layer_runs in runs.by_layer().values()]
        return scores, [(run, _attention_weights(run)) for run in first]


def _attention_weights(run: LayerSample) -> Tensor | None:
    """The attention weight of every edge of a recorded run; none where the layer attended over
    more than its sampled graph."""
    return None if len(run.attended) > 1 or not run.attended[0].sampled.all() else run.weights


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


def _prediction(scores: Any) -> str:
    """The class that a model of whole items predicts, empty for one of tokens."""
    if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.size(0) != 1:
        return ""
    return str(int(scores.argmax()))


def _item(
    item: ReportInput,
    number: int,
    document: int,
    tokens: Tensor,
    decode: Callable[[int], str],
    image_shape: tuple[int, int] | None,
    prediction: str,
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
        "prediction": prediction,
        "length": len(values),
        "words": values if image_shape is not None else [decode(value) for value in values],
    }


# Views ###########################################################################################


def head_view(run: LayerSample, head: int, graph: int = 0, weights: Tensor | None = None) -> View:
    """Everything the page shows of one head on one graph, but for its sampled adjacency.

    Args:
        run (LayerSample): A recorded layer call.
        head (int): The head.
        graph (int, optional): The graph of the batch. (default: :obj:`0`)
        weights (Tensor, optional): Attention weight of every edge, of shape :obj:`[E]`; ranks the
            neighbours. (default: all the same)

    Raises:
        ValueError: If the head or the graph does not exist, or ``weights`` does not fit.
    """
    sbm, sampled = run.sbm, run.graph
    order = block_order(sbm, head, graph, by="edges")
    edges = biadjacency_matrix(sampled, head, graph)
    weighted = edges if weights is None else biadjacency_matrix(sampled, head, graph, weights)
    num_queries, num_keys = edges.shape
    expected = expected_matrix(
        sbm, head, graph, order.query_order, order.key_order, EXPECTED_CELLS, run.exploration
    ).values
    scale = float(expected.max(initial=0.0))
    thumbnail = sampled_matrix(
        sampled, head, graph, order.query_order, order.key_order, THUMBNAIL_CELLS
    ).values
    mass = block_mass(sbm, head=head, graph=graph)
    sampled_mass = block_mass(sbm, sampled, head, graph, exploration=run.exploration)
    share = mass.sum(axis=0) + mass.sum(axis=1)
    strongest = np.argsort(-share, kind="stable")
    top, shown = strongest[:TOP_BLOCKS], strongest[:MEMBERSHIP_BLOCKS]
    query, key = memberships(sbm, head, graph)
    degree = np.diff(edges.indptr)
    neighbour, relative, largest = _strongest_neighbours(weighted)
    received = np.bincount(weighted.indices, weighted.data, minlength=num_keys)
    pairs = max(num_queries * num_keys, 1)
    expected_edges = float(mass.sum()) + run.exploration * num_queries * num_keys
    square = num_queries == num_keys
    info = {
        "queries": num_queries,
        "keys": num_keys,
        "clusters": sbm.num_clusters,
        "edges": int(edges.nnz),
        "expected": expected_edges / pairs,
        "sampled": edges.nnz / pairs,
        "effectiveBlocks": effective_blocks(sbm, head, graph),
        "deadBlocks": int(dead_blocks(sbm, head, graph).size),
        "selfEdges": float((edges.diagonal() > 0).mean()) if square and num_queries else None,
        "isolated": int((degree == 0).sum()),
        "order": _order_info(order),
        "thumbnail": list(thumbnail.shape),
        "scale": scale,
        "attention": weights is not None,
        "blocks": {
            "top": top.tolist(),
            "share": _shares(share)[top].tolist(),
            "expected": _shares(mass)[np.ix_(top, top)].round(6).tolist(),
            "sampled": _shares(sampled_mass)[np.ix_(top, top)].round(6).tolist(),
            "membership": shown.tolist(),
        },
    }
    arrays = {
        "queryOrder": order.query_order.astype(_index_type(num_queries)),
        "keyOrder": order.key_order.astype(_index_type(num_keys)),
        "expected": _to_bytes(expected / scale if scale > 0 else expected),
        "query": _membership_cells(query, shown),
        "key": _membership_cells(key, shown),
        "degree": degree.astype(_index_type(num_keys + 1)),
        "neighbour": neighbour.astype(_index_type(num_keys)),
        "weight": relative,
        "received": _to_bytes(received / max(received.max(initial=0.0), 1e-12)),
        "largest": largest.astype(np.float32),
        "thumbnail": _to_bytes(thumbnail / max(thumbnail.max(initial=0.0), 1e-12)),
    }
    return View(info, arrays)


def _order_info(order: BlockOrder) -> dict[str, list[int]]:
    return {
        "blocks": order.blocks.tolist(),
        "querySizes": order.query_sizes.tolist(),
        "keySizes": order.key_sizes.tolist(),
    }


def _shares(mass: np.ndarray) -> np.ndarray:
    total = mass.sum()
    return mass / total if total > 0 else np.zeros_like(mass)


def _membership_cells(membership: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Memberships in ``blocks``, mean over bins of consecutive tokens, as bytes."""
    edges = bin_edges(len(membership), MEMBERSHIP_CELLS)
    return _to_bytes(bin_means(membership[:, blocks], "order", None, edges))


def _index_type(size: int) -> type[np.unsignedinteger]:
    """The smallest type for indices below ``size``."""
    return np.uint16 if size <= 1 << 16 else np.uint32


def _to_bytes(fraction: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1] as bytes."""
    return np.clip(np.rint(fraction * 255), 0, 255).astype(np.uint8)


def _strongest_neighbours(weighted: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The keys of largest weight of each query, strongest first.

    Returns:
        Keys of shape :obj:`[n, T]`; their weights relative to the query's largest, as bytes
        (0 where a query has fewer edges); and the largest weights, of shape :obj:`[n]`.
    """
    num_queries = weighted.shape[0]
    degree = np.diff(weighted.indptr)
    kept = min(int(degree.max(initial=0)), max(8, NEIGHBOUR_ENTRIES // max(num_queries, 1)))
    key = np.zeros((num_queries, kept), dtype=np.int64)
    weight = np.zeros((num_queries, kept), dtype=np.float32)
    for first in range(0, num_queries, 1024):
        rows = slice(first, min(first + 1024, num_queries))
        key[rows], weight[rows] = _largest_entries(weighted[rows], kept)
    largest = weight[:, 0] if kept else np.zeros(num_queries)
    relative = _to_bytes(weight / np.where(largest > 0, largest, 1.0)[:, None])
    present = np.arange(kept) < degree[:, None]
    return key, np.where(present, np.maximum(relative, 1), 0).astype(np.uint8), largest


def _largest_entries(matrix: csr_array, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the ``kept`` largest entries of each row, largest first."""
    degree = np.diff(matrix.indptr)
    width = max(int(degree.max(initial=0)), kept)
    row = np.repeat(np.arange(degree.size), degree)
    place = np.arange(row.size) - np.repeat(matrix.indptr[:-1], degree)
    value = torch.full((degree.size, width), -torch.inf)
    value[row, place] = torch.from_numpy(matrix.data.astype(np.float32))
    column = np.zeros((degree.size, width), dtype=np.int64)
    column[row, place] = matrix.indices
    top, where = value.topk(kept, dim=1)
    return np.take_along_axis(column, where.numpy(), axis=1), top.clamp(min=0).numpy()


def _sample_cells(run: LayerSample, head: int, graph: int) -> Callable[[int], View]:
    """The sorted sampled adjacency at any resolution: exact bits, or counts in bins."""
    order = block_order(run.sbm, head, graph, by="edges")

    def cells(resolution: int) -> View:
        matrix = sampled_matrix(
            run.graph, head, graph, order.query_order, order.key_order, resolution
        )
        info = {"cells": list(matrix.values.shape)}
        if not matrix.binned:
            return View(info, {"sample": np.packbits(matrix.values > 0, axis=1)})
        area = np.outer(np.diff(matrix.query_edges), np.diff(matrix.key_edges))
        counts = np.rint(matrix.values * area)
        dtype = np.uint8 if area.max() < 1 << 8 else np.uint32
        return View(info, {"sample": counts.astype(dtype)})

    return cells


# The page ########################################################################################


_DENSITY_COLUMN = re.compile(r"^(.+/)?density/layer(\d+)/head(\d+)$")


def density_history(metrics: pd.DataFrame) -> pd.DataFrame:
    """Sampled density over training from a run's logged metrics.

    Args:
        metrics (DataFrame): Rows of a logger: a column ``step`` and columns
            ``<stage>/density/layer<l>/head<h>``. Training's are taken where it has any.

    Returns:
        Columns ``step``, ``layer``, ``head`` and ``density``, without missing values.

    Raises:
        ValueError: If there is no column ``step``.
    """
    import pandas as pd

    if "step" not in metrics.columns:
        raise ValueError(f"'metrics' must have a column 'step', got {list(metrics.columns)}")
    found = [match for match in map(_DENSITY_COLUMN.match, metrics.columns) if match]
    stages = {match[1] for match in found}
    stage = "train/" if "train/" in stages else min(stages, default=None, key=str)
    parts = [
        pd.DataFrame(
            {
                "step": metrics["step"],
                "layer": int(match[2]),
                "head": int(match[3]),
                "density": metrics[match[0]],
            }
        )
        for match in found
        if match[1] == stage
    ]
    columns = ["step", "layer", "head", "density"]
    return pd.concat(parts).dropna()[columns] if parts else pd.DataFrame(columns=columns)


def _history(history: pd.DataFrame | None) -> list[dict[str, Any]]:
    """One line of the density history for each layer and head, thinned to 500 points."""
    if history is None:
        return []
    missing = {"step", "layer", "head", "density"} - set(history.columns)
    if missing:
        raise ValueError(
            "'history' must have the columns step, layer, head and density, "
            f"got {list(history.columns)}"
        )
    lines = []
    for (layer, head), part in history.groupby(["layer", "head"], sort=True):
        part = part.sort_values("step")
        keep = np.unique(np.linspace(0, len(part) - 1, min(len(part), 500)).round().astype(int))
        part = part.iloc[keep]
        lines.append(
            {
                "layer": int(layer),
                "head": int(head),
                "step": part["step"].astype(float).tolist(),
                "density": part["density"].astype(float).round(6).tolist(),
            }
        )
    return lines


def _fit(
    title: str,
    index_data: dict[str, Any],
    views: dict[str, View],
    samples: Mapping[str, Callable[[int], View]],
    max_bytes: int,
) -> str:
    """The page at the finest resolution that the size limit allows."""
    packed = {key: _pack(view.arrays) for key, view in views.items()}
    fixed = len(_render(title, index_data, packed).encode())
    longest = max(item["length"] for item in index_data["inputs"])
    enough = [r for r in RESOLUTIONS if r >= longest][-1:]
    for resolution in [*enough, *(r for r in RESOLUTIONS if r < longest)]:
        cells = _cells_within(samples, resolution, max_bytes - fixed)
        if cells is None:
            continue
        for key, (info, text) in cells.items():
            index_data["views"][key].update(info)
            packed[f"{key}-sample"] = text
        return _render(title, index_data, packed)
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
        out[key] = (view.info, _pack(view.arrays))
        room -= len(out[key][1]) + len(_SAMPLE_OVERHEAD)
        if room < 0:
            return None
    return out


_SAMPLE_OVERHEAD = (
    '<script type="text/plain" id="data-000-00-00-sample"></script>,"cells":[0000,0000]'
)


def _pack(arrays: Mapping[str, np.ndarray]) -> str:
    """Named arrays as Base64 of gzip: a JSON table of contents, then the arrays, 8-aligned."""
    table, chunks, offset = [], [], 0
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        table.append(
            {"name": name, "type": array.dtype.name, "shape": list(array.shape), "offset": offset}
        )
        padding = -len(data) % 8
        chunks.append(data + bytes(padding))
        offset += len(data) + padding
    head = json.dumps(table).encode()
    head += b" " * (-(len(head) + 8) % 8)
    blob = len(head).to_bytes(8, "little") + head + b"".join(chunks)
    return base64.b64encode(gzip.compress(blob, compresslevel=6, mtime=0)).decode()


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _render(title: str, index_data: Mapping[str, Any], packed: Mapping[str, str]) -> str:
    """Fills the template. User text is escaped here (title) or enters as JSON and is shown by
    ``textContent`` only."""
    data = "\n".join(
        f'<script type="text/plain" id="data-{key}">{text}</script>' for key, text in packed.items()
    )
    parts = {
        "TITLE": html.escape(title),
        "STYLE": _template("report.css"),
        "INDEX": json.dumps(index_data, separators=(",", ":")).replace("<", "\\u003c"),
        "DATA": data,
        "PLOTLY": _plotly(),
        "SCRIPT": _template("report.js"),
    }
    page = _template("report.html").split("%%")
    return "".join(parts[part] if i % 2 else part for i, part in enumerate(page))


@cache
def _plotly() -> str:
    """plotly.js as Base64 of gzip."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _template(name: str) -> str:
    return (resources.files("sbmgraph.viz") / "templates" / name).read_text(encoding="utf-8")
