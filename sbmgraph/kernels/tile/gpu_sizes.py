"""How tile attention is cut on the GPU, and what its products are taken in.

Of those tried on an H100 (``benchmarks/gpu_tune.py``) the quickest whose kernels keep their numbers
in registers with dropout, too (``benchmarks/SM90.md``). Float32 takes smaller ones because each of
its products is three.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

CLUSTERS = 128
"""Blocks of the model that one backward sweep handles, at most."""


class Sizes(NamedTuple):
    """A program's tile, its warps, and how many tiles it loads ahead."""

    queries: int
    keys: int
    warps: int
    stages: int = 2


def forward_sizes(dtype: torch.dtype, D: int, DV: int) -> Sizes:
    """Of the forward pass, for blocks of ``D`` and ``DV`` channels."""
    channels = max(D, DV)
    if dtype == torch.float32:
        return Sizes(64, 64, 4, 3) if channels <= 32 else Sizes(32, 32, 4)
    if channels <= 64:
        return Sizes(128, 64, 8)
    return Sizes(128, 64, 8) if channels <= 128 else Sizes(64, 32, 8)


def query_sizes(dtype: torch.dtype, D: int, DV: int, K: int) -> Sizes:
    """Of the backward sweep of queries, for blocks of ``K`` clusters."""
    channels = max(D, DV)
    if dtype == torch.float32:
        return Sizes(32, 32, 4) if channels <= 32 else Sizes(32, 32, 8)
    if channels <= 64:
        return Sizes(64, 32, 4, 3)
    return Sizes(64, 32, 8) if channels <= 128 else Sizes(32, 32, 8)


def key_sizes(dtype: torch.dtype, D: int, DV: int, K: int) -> Sizes:
    """Of the backward sweep of keys, likewise."""
    channels = max(D, DV)
    if dtype == torch.float32:
        return Sizes(32, 32, 4) if channels <= 32 else Sizes(32, 32, 8)
    if channels <= 32:
        return Sizes(32, 64, 4, 3)
    return Sizes(32, 64, 8) if channels <= 128 else Sizes(32, 32, 8)


def precision(dtype: torch.dtype) -> str:
    """Of products of float32: that of TF32 where torch's matrix products may take it, else three
    such products, which come near to float32's."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # torch 2.9; the older flag fails once this is set
        allowed = matmul.fp32_precision == "tf32"
    else:
        allowed = matmul.allow_tf32
    return "tf32" if dtype != torch.float32 or allowed else "tf32x3"
