"""The dense algorithm: every pair's probability against a uniform number, one bit a pair."""

from __future__ import annotations

from types import ModuleType

import torch

from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.dense import reference
from sbmgraph.kernels.model import EdgeModel, tiny_model
from sbmgraph.kernels.probe import Probe


def sample(model: EdgeModel, law: str, exploration: float, seed: int) -> Bits:
    """As :func:`sbmgraph.kernels.dense.reference.sample`, by the device's compiled code."""
    return sampler(model.device).sample(model, law, exploration, seed)


def sampler(device: torch.device) -> ModuleType:
    """The module whose ``sample`` runs on a device."""
    if not PROBE.works(device.type):
        return reference
    return _compiled(device)


def _compiled(device: torch.device) -> ModuleType:
    if device.type == "cuda":
        from sbmgraph.kernels.dense import gpu

        return gpu
    from sbmgraph.kernels.dense import cpu

    return cpu


def _attempt(device: torch.device) -> None:
    _compiled(device).sample(tiny_model(device), "bernoulli", 0.0, 0)


PROBE = Probe("dense sampling", _attempt)
