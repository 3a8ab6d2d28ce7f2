"""fastRG: edges in time proportional to their number, as a list."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from sbmgraph.kernels.fastrg import reference
from sbmgraph.kernels.model import EdgeModel, tiny_model
from sbmgraph.kernels.probe import Probe

KERNELS = {"cpu": "sbmgraph.kernels.fastrg.cpu", "cuda": "sbmgraph.kernels.fastrg.gpu"}
"""The module that holds the compiled sampler of each device type."""


def sample(model: EdgeModel, law: str, exploration: float, seed: int) -> tuple[Tensor, Tensor]:
    """As :func:`sbmgraph.kernels.fastrg.reference.sample`, by the device's compiled code."""
    return sampler(model.device).sample(model, law, exploration, seed)


def sampler(device: torch.device) -> ModuleType:
    """The module whose ``sample`` runs on a device."""
    if not PROBE.works(device.type):
        return reference
    return import_module(KERNELS[device.type])


def _attempt(device: torch.device) -> None:
    import_module(KERNELS[device.type]).sample(tiny_model(device), "bernoulli", 0.0, 0)


PROBE = Probe("fastRG", _attempt)
