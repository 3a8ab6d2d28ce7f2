"""Executes notebooks in place, from start to end, and keeps their pictures small.

    python notebooks/execute.py [NOTEBOOK ...]        # all of this folder without a name

A picture of more than 256 colours gets a palette. Its entries are first the colours of blocks, so
that a block is the same colour here as in every other picture, then those that most pixels have,
then what is nearest to the rest.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

from sbmgraph.files import write_atomically
from sbmgraph.viz import block_color

FOLDER = Path(__file__).resolve().parent
TIMEOUT = 540
BLOCKS, FREQUENT, COLORS = 16, 112, 256


def palette(pixels: np.ndarray) -> np.ndarray:
    """At most :data:`COLORS` colours for an RGB picture: uint8 [number, 3]."""
    colors, count = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    blocks = np.array([bytearray.fromhex(block_color(b)[1:]) for b in range(BLOCKS)], np.uint8)
    there = (blocks[:, None] == colors[None]).all(-1).any(1)
    frequent = colors[np.argsort(-count)[:FREQUENT]]
    chosen = np.unique(np.concatenate([blocks[there], frequent]), axis=0)
    rest = COLORS - len(chosen)
    reduced = Image.fromarray(colors[None]).quantize(rest, kmeans=1).getpalette() or []
    more = np.array(reduced, np.uint8).reshape(-1, 3)[:rest]
    return np.concatenate([chosen, more])


def compress(png: bytes) -> bytes:
    """A PNG of at most 256 colours."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.getcolors(COLORS) is None:
        pixels = np.asarray(image)
        colors, place = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
        entries = palette(pixels)
        nearest = np.concatenate(
            [
                ((part[:, None].astype(int) - entries[None]) ** 2).sum(-1).argmin(1)
                for part in np.array_split(colors, len(colors) // 1024 + 1)
            ]
        )
        image = Image.fromarray(nearest[place.ravel()].astype(np.uint8).reshape(pixels.shape[:2]))
        image.putpalette(entries.tobytes())
    else:
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=COLORS)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def join_streams(outputs: list[Any]) -> list[Any]:
    """Outputs with what was printed in pieces put together."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def execute(path: Path) -> None:
    """Executes a notebook and writes it back."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = join_streams(cell.outputs)
            for output in cell.outputs:
                data = output.get("data", {})
                if "image/png" in data:
                    png = compress(base64.b64decode(data["image/png"]))
                    data["image/png"] = base64.b64encode(png).decode()
    write_atomically(path, nbformat.writes(notebook) + "\n")
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    for argument in sys.argv[1:] or sorted(map(str, FOLDER.glob("*.ipynb"))):
        execute(Path(argument).resolve())
