"""Guards what activation checkpointing computes twice: it must sample the same graph again.

``torch.utils.checkpoint`` runs a forward pass again inside the backward pass and restores torch's
global generators for it, but no generator that a layer was handed. A sample drawn in a backward
pass is therefore compared with those drawn before by the state of its generator.
"""

from __future__ import annotations

from collections import deque

import torch

from sbmgraph.checks import describe
from sbmgraph.record import in_backward

REMEMBERED = 2**16
"""Samples drawn in forward passes that a recomputation is looked up among."""

_drawn: deque[int] = deque(maxlen=REMEMBERED)


def check_recomputation(generator: torch.Generator | None) -> None:
    """Notes that a graph is about to be sampled, or in a backward pass makes sure that the same one
    was sampled before.

    Args:
        generator: The generator that will be drawn from; :obj:`None` for torch's.

    Raises:
        ValueError: If recomputation is about to draw another graph, or ``generator`` is none.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"'generator' must be a torch.Generator, got {describe(generator)}")
    source = torch.default_generator if generator is None else generator
    state = hash(source.get_state().numpy().tobytes())
    if not in_backward():
        _drawn.append(state)
    elif state not in _drawn:
        raise ValueError(
            "'generator' must be None under torch.utils.checkpoint, and its 'preserve_rng_state' "
            "True, so that recomputation samples the same graphs; got a generator in a state that "
            "no forward pass sampled from (torch.manual_seed makes a step repeatable)"
        )
