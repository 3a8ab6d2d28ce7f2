"""Checks shared by the public constructors and functions; each raises a ``ValueError`` that names
the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


def describe(value: Any) -> str:
    """A short description of ``value`` for error messages."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {list(value.shape)} on {value.device}"
    return f"{value!r} of type {type(value).__name__}"


def check_tensor(name: str, value: Any, dim: int, shape: str) -> None:
    """``value`` must be a dense tensor with ``dim`` dimensions; ``shape`` spells them out."""
    if not isinstance(value, Tensor):
        raise ValueError(f"'{name}' must be a tensor of shape {shape}, got {describe(value)}")
    if value.layout != torch.strided:
        raise ValueError(
            f"'{name}' must be a dense tensor of shape {shape}, got {describe(value)} with layout "
            f"{value.layout}"
        )
    if value.dim() != dim:
        raise ValueError(f"'{name}' must have shape {shape}, got {describe(value)}")


FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_floating(name: str, value: Tensor) -> None:
    """``value`` must hold floating-point numbers that torch computes with."""
    if value.dtype not in FLOATING:
        raise ValueError(
            f"'{name}' must be a floating-point tensor (float16, bfloat16, float32 or float64), "
            f"got {describe(value)}"
        )


def check_weight_dtype(name: str, value: Tensor, weight: Tensor) -> None:
    """``value`` must have the dtype of a layer's ``weight``, or one that autocast brings there."""
    if value.dtype == weight.dtype:
        return
    if torch.is_autocast_enabled(value.device.type) and torch.float64 not in (
        value.dtype,
        weight.dtype,
    ):
        return
    raise ValueError(
        f"'{name}' must have the layer's dtype {weight.dtype}, got {describe(value)}; use "
        f"layer.to({value.dtype}), or convert '{name}'"
    )


def check_same(attribute: str, **tensors: Tensor | None) -> None:
    """All given tensors must share ``attribute`` (``"device"`` or ``"dtype"``)."""
    found = {name: getattr(t, attribute) for name, t in tensors.items() if t is not None}
    if len(set(found.values())) > 1:
        listing = ", ".join(f"'{name}' has {value}" for name, value in found.items())
        raise ValueError(f"all arguments must have the same {attribute}, got {listing}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """``value`` must be one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"'{name}' must be one of {expected}, got {value!r}")


def check_range(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """``value`` must be a number between ``low`` and ``high``."""
    left, right = "(" if low_open else "[", ")" if high_open else "]"
    message = f"'{name}' must be a number in {left}{low:g}, {high:g}{right}, got {value!r}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(message)
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    if not (above and below):
        raise ValueError(message)


def check_positive_int(name: str, value: Any, minimum: int = 1) -> None:
    """``value`` must be an integer of at least ``minimum``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"'{name}' must be an integer >= {minimum}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """``value`` must be :obj:`True` or :obj:`False`."""
    if not isinstance(value, bool):
        raise ValueError(f"'{name}' must be True or False, got {value!r}")


_FACTS = WeakIdKeyDictionary()


def batch_facts(batch: Tensor) -> tuple[bool, int, int]:
    """Whether a batch vector with entries descends anywhere, its first and its last entry. They are
    kept until the vector changes, so that of all layers that take it one waits for the device."""
    keeps = type(batch) is Tensor and not batch.is_inference()
    if keeps and batch in _FACTS and _FACTS[batch][0] == batch._version:
        return _FACTS[batch][1]
    descends = (batch[1:] < batch[:-1]).any()
    found = torch.stack([descends.to(batch.dtype), batch[0], batch[-1]]).tolist()
    facts = (bool(found[0]), found[1], found[2])
    if keeps:
        _FACTS[batch] = (batch._version, facts)
    return facts


def check_batch(name: str, batch: Any, size: int, device: torch.device) -> None:
    """``batch`` must be a sorted integer vector that gives the graph of each of ``size`` nodes."""
    if (
        not isinstance(batch, Tensor)
        or batch.dim() != 1
        or batch.dtype != torch.int64
        or batch.layout != torch.strided
    ):
        raise ValueError(
            f"'{name}' must be an int64 vector of graph numbers, got {describe(batch)}"
        )
    if batch.numel() != size:
        raise ValueError(
            f"'{name}' must hold one graph number for each of {size} nodes, got {batch.numel()}"
        )
    if batch.device != device:
        raise ValueError(f"'{name}' must be on {device} like the nodes, got {batch.device}")
    if size == 0:
        return
    descends, first, last = batch_facts(batch)
    if descends:
        raise ValueError(
            f"'{name}' must be sorted in ascending order (graphs contiguous), "
            "got a vector with a descent"
        )
    if first < 0:
        raise ValueError(f"'{name}' must hold graph numbers >= 0, got {first}")
    limit = 2**20 + 16 * size
    if last >= limit:
        raise ValueError(
            f"'{name}' must hold graph numbers below {limit} (every number up to the largest is a "
            f"graph, if an empty one), got {last}"
        )
