"""How tile attention is cut on the GPU, and what its products are taken in."""

from __future__ import annotations

from typing import NamedTuple

import torch

CLUSTERS = 128
"""Blocks of the model that one backward sweep handles, at most."""


class Sizes(NamedTuple):
    """A program's tile and how it is run."""

    queries: int
    keys: int
    warps: int
    stages: int


def forward_sizes(dtype: torch.dtype, D: int, DV: int) -> Sizes:
    return Sizes(64, 64, 4, 2)


def query_sizes(dtype: torch.dtype, D: int, DV: int, K: int) -> Sizes:
    return Sizes(64, 64, 4, 2)


def key_sizes(dtype: torch.dtype, D: int, DV: int, K: int) -> Sizes:
    return Sizes(64, 64, 4, 2)


def precision(dtype: torch.dtype) -> str:
    return "tf32"
