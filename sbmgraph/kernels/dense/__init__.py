"""The dense algorithm: every pair's probability against a uniform number, one bit a pair."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch

from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.dense import reference
from sbmgraph.kernels.model import EdgeModel, tiny_model
from sbmgraph.kernels.probe import Probe

KERNELS = {"cpu": "sbmgraph.kernels.dense.cpu", "cuda": "sbmgraph.kernels.dense.gpu"}
"""The module that holds the compiled sampler of each device type."""


def sample(model: EdgeModel, law: str, exploration: float, seed: int) -> Bits:
    """As :func:`sbmgraph.kernels.dense.reference.sample`, by the device's compiled code."""
    return sampler(model.device).sample(model, law, exploration, seed)


def sampler(device: torch.device) -> ModuleType:
    """The module whose ``sample`` runs on a device."""
    if not PROBE.works(device.type):
        return reference
    return import_module(KERNELS[device.type])


def _attempt(device: torch.device) -> None:
    import_module(KERNELS[device.type]).sample(tiny_model(device), "bernoulli", 0.0, 0)


PROBE = Probe("dense sampling", _attempt)
