"""A trained model as two files that any program can read: weights as safetensors, and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sbmgraph.files import write_atomically
from sbmgraph.training.module import SequenceClassifier
from sbmgraph.training.run import restore
from sbmgraph.version import __version__

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = "sbmgraph.SequenceClassifier"


def export_model(model: SequenceClassifier, folder: str | Path) -> Path:
    """Writes ``model.safetensors`` and ``config.json``, all that the model is made again from.

    Args:
        model: A model, e.g. from :func:`~sbmgraph.training.load_run`.
        folder: Where to; made where it is missing.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder cannot be written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in _weights(model)}
    hyper_parameters = {k: v for k, v in dict(model.hparams).items() if not k.startswith("_")}
    config = {"format": FORMAT, "version": __version__, "hyper_parameters": hyper_parameters}
    write_atomically(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    return folder


def load_model(folder: str | Path) -> SequenceClassifier:
    """The model that :func:`export_model` wrote, ready to evaluate.

    Args:
        folder: The folder.

    Raises:
        ValueError: If a file is missing or damaged, or the two do not belong together.
    """
    from safetensors.torch import load

    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    model = restore(config.get("hyper_parameters"), str(folder / CONFIG))
    path = folder / WEIGHTS
    try:
        weights = load(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: expected the model's weights, got {error}") from None
    except Exception as error:  # safetensors has one error of its own, torch several
        raise ValueError(f"{path}: expected a whole safetensors file, got {error}") from None
    expected = dict(_weights(model))
    wrong = sorted(set(expected) ^ set(weights)) or [
        key for key, value in expected.items() if value.shape != weights[key].shape
    ]
    if wrong:
        raise ValueError(
            f"{path}: expected the weights that {CONFIG} describes, but {wrong[0]!r} is missing, "
            "unknown or of another shape"
        )
    model.load_state_dict(weights, strict=False)
    return model.eval()


def _weights(model: SequenceClassifier) -> list[tuple[str, torch.Tensor]]:
    return [(key, value) for key, value in model.state_dict().items() if key.startswith("model.")]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: expected an exported model, got {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{path}: expected an exported model with format {FORMAT!r}")
    return config
