"""Guards what activation checkpointing computes twice: it must sample the same graph again.

``torch.utils.checkpoint`` runs a forward pass again inside the backward pass and restores torch's
global generators for it, but no generator that a layer was handed. What a layer samples in a
backward pass is therefore compared, by the state of its generator, with what it sampled before
under checkpointing.
"""

from __future__ import annotations

from collections import deque
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sbmgraph.checks import describe
from sbmgraph.record import in_backward, in_reentrant_checkpoint

REMEMBERED = 4096
"""Samples of a layer in checkpointed forward passes that a recomputation is looked up among."""

_drawn: WeakKeyDictionary[nn.Module, deque[int]] = WeakKeyDictionary()


def check_recomputation(layer: nn.Module, generator: torch.Generator | None) -> None:
    """Notes that a layer is about to sample a graph under checkpointing, or in a backward pass
    makes sure that it sampled the same one before.

    Args:
        layer: The layer.
        generator: The generator that will be drawn from; :obj:`None` for torch's.

    Raises:
        ValueError: If recomputation is about to draw another graph, or ``generator`` is none.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"'generator' must be a torch.Generator, got {describe(generator)}")
    again = in_backward()
    if not again and not _in_checkpoint():
        return
    source = torch.default_generator if generator is None else generator
    state = hash(source.get_state().numpy().tobytes())
    drawn = _drawn.setdefault(layer, deque(maxlen=REMEMBERED))
    if not again:
        drawn.append(state)
    elif state not in drawn:
        raise ValueError(
            "'generator' must be None under torch.utils.checkpoint, and its 'preserve_rng_state' "
            "True, so that recomputation samples the same graphs; got a generator in a state that "
            "no forward pass sampled from (torch.manual_seed makes a step repeatable)"
        )


def _in_checkpoint() -> bool:
    """Whether what is computed now may be computed again: without gradient inside of a reentrant
    checkpoint, with one inside of any hooks on saved tensors, which others work by."""
    if not torch.is_grad_enabled():
        return in_reentrant_checkpoint()
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
