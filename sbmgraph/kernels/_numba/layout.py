"""How tensors lie in memory for compiled kernels.

What is gathered, or added to, lies head by head (``[H * nodes, channels]``), because one head's
rows then fit the cache; channels are padded with zeros to a multiple of :data:`LANES`. Half
precisions are computed in float32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sbmgraph.kernels._numba.lanes import LANES


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that sums are taken in: float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def floating(tensor: Tensor) -> np.ndarray:
    """The tensor as it lies, contiguous, in the computing dtype."""
    return tensor.to(compute_dtype(tensor)).contiguous().numpy()


def padded(channels: int) -> int:
    """The multiple of :data:`LANES` that holds ``channels``."""
    return -(-channels // LANES) * LANES


def rows(tensor: Tensor) -> np.ndarray:
    """``[rows, channels]`` in the computing dtype, channels padded with zeros."""
    tensor = tensor.to(compute_dtype(tensor))
    missing = padded(tensor.size(1)) - tensor.size(1)
    if missing:
        tensor = torch.nn.functional.pad(tensor, (0, missing))
    return tensor.contiguous().numpy()


def by_head(heads: int, *tensors: Tensor) -> np.ndarray:
    """``[H * nodes, channels]`` of tensors ``[nodes * H, channels]`` side by side, each padded."""
    dtype = compute_dtype(tensors[0])
    widths = [padded(tensor.size(1)) for tensor in tensors]
    nodes = tensors[0].size(0) // heads
    out = torch.empty(heads, nodes, sum(widths), dtype=dtype, device="cpu")
    start = 0
    for tensor, width in zip(tensors, widths, strict=True):
        channels = tensor.size(1)
        out[..., start : start + channels] = tensor.view(nodes, heads, channels).transpose(0, 1)
        out[..., start + channels : start + width] = 0
        start += width
    return out.view(heads * nodes, sum(widths)).numpy()


def output(num_rows: int, channels: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised matrix of padded rows."""
    return torch.empty(num_rows, padded(channels), dtype=dtype, device="cpu")


def trimmed(padded_rows: Tensor, like: Tensor) -> Tensor:
    """Padded rows as a tensor like ``like``."""
    return padded_rows[:, : like.size(1)].to(like.dtype).contiguous()


def head_rows(tensor: Tensor) -> np.ndarray:
    """``[H * nodes, channels]`` of a tensor ``[nodes, H, channels]``; no copy where it lies head by
    head already and needs no padding."""
    return rows(tensor.transpose(0, 1).reshape(-1, tensor.size(2)))


def from_head_rows(padded_rows: Tensor, like: Tensor) -> Tensor:
    """The tensor ``[nodes, H, channels]``, lying head by head, of padded rows."""
    out = padded_rows[:, : like.size(2)].to(like.dtype)
    return out.view(like.size(1), like.size(0), like.size(2)).transpose(0, 1)


def by_vertex(tables: Tensor, like: Tensor) -> Tensor:
    """The tensor ``[nodes * H, channels]`` of ``[H, nodes, channels and more]``."""
    heads, nodes = tables.shape[:2]
    out = torch.empty_like(like)
    out.view(nodes, heads, like.size(1)).copy_(tables[..., : like.size(1)].transpose(0, 1))
    return out


def optional(tensor: Tensor | None, dtype: torch.dtype) -> np.ndarray:
    """An empty array stands for no tensor, so that kernels need one signature only."""
    if tensor is None:
        return np.zeros(0, torch.zeros(0, dtype=dtype, device="cpu").numpy().dtype)
    return tensor.to(dtype).contiguous().numpy()
