"""What a graph's edges need of memory, and what there is."""

from __future__ import annotations

import math

import psutil
import torch

BYTES_PER_EDGE = 32
"""Peak memory of a listed edge over sampling, attention and backward: its key in CSR, the transpose
(row and permutation), two gradient scalars, and slack for the merge."""

BITS_PER_PAIR = 2
"""Peak memory of a pair held as bits: the edge, and the dropout."""


SMALL = 2**28
"""Bytes that are taken to be there: asking the system costs a small layer a tenth of its step."""


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on ``device``."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused
    return psutil.virtual_memory().available


def bytes_needed(layout: str, expected: float, possible: float) -> float:
    """Peak memory of a step over a graph of ``expected`` edges of ``possible`` pairs."""
    if layout == "bits":
        return possible * BITS_PER_PAIR / 8
    return expected * BYTES_PER_EDGE


def check_memory(layout: str, expected: float, possible: float, device: torch.device) -> None:
    """Raises a :class:`ValueError` if the expected number of edges is not finite, or needs more
    memory in ``layout`` than there is."""
    if not math.isfinite(expected):
        raise ValueError(
            "'sbm' must have finite edge probabilities, got NaN or infinite ones: look "
            "for non-finite inputs or weights"
        )
    needed = bytes_needed(layout, expected, possible)
    if needed <= SMALL:
        return
    available = available_memory(device)
    if needed > available:
        raise ValueError(
            f"'sbm' must expect no more edges than memory holds, got {expected:.3g} expected edges "
            f"({expected / max(possible, 1.0):.1%} density) of {possible:.3g} pairs, which need "
            f"about {needed / 2**30:.1f} GiB as {layout} of {available / 2**30:.1f} GiB available "
            f"on {device}: lower 'init_density' or set 'max_density', use smaller batches or fewer "
            "heads, or raise the density penalty"
        )
