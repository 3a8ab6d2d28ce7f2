"""The launch of a Triton kernel."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
from torch import Tensor


def launch(kernel: Any, grid: tuple[int, ...], like: Tensor, *args: Any, **meta: Any) -> None:
    """Runs ``kernel`` on the device of ``like``; a grid without programs is not launched."""
    if 0 in grid:
        return
    device = torch.cuda.device(like.device) if like.is_cuda else nullcontext()
    with device:
        kernel[grid](*args, enable_fp_fusion=True, **meta)


def pad(size: int) -> int:
    """The width of a block that holds ``size`` channels: a power of two, at least 16."""
    return max(16, triton.next_power_of_2(size))
