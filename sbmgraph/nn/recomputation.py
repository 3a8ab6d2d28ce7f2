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
from sbmgraph.record import in_backward, in_reentrant_checkpoint, wants_weights

REMEMBERED = 4096
"""Samples of a layer in checkpointed forward passes that a recomputation is looked up among."""

_drawn: WeakKeyDictionary[nn.Module, deque[int]] = WeakKeyDictionary()
_watched: WeakKeyDictionary[nn.Module, deque[int]] = WeakKeyDictionary()


def check_recomputation(layer: nn.Module, generator: torch.Generator | None) -> None:
    """Notes that a layer is about to sample a graph under checkpointing, or in a backward pass
    makes sure that it sampled the same one before.

    Args:
        layer: The layer.
        generator: The generator that will be drawn from; :obj:`None` for torch's.

    Raises:
        ValueError: If recomputation is about to draw another graph, or ``generator`` is none.
    """
    _check(generator)
    again = in_backward()
    if not again and not _in_checkpoint():
        return
    state = _state(generator)
    drawn = _drawn.setdefault(layer, deque(maxlen=REMEMBERED))
    if not again:
        drawn.append(state)
    elif state not in drawn:
        raise ValueError(
            "'generator' must be None under torch.utils.checkpoint, and its 'preserve_rng_state' "
            "True, so that recomputation samples the same graphs; got a generator in a state that "
            "no forward pass sampled from (torch.manual_seed makes a step repeatable)"
        )


def watched_as_before(
    layer: nn.Module, recorded: nn.Module, generator: torch.Generator | None
) -> bool:
    """Whether recorders want the weights of a layer; in a backward pass whether they did in the
    forward pass, so that what is computed again is computed in the same way.

    Args:
        layer: The layer.
        recorded: The module that recorders know it by.
        generator: As in :func:`check_recomputation`.

    Raises:
        ValueError: If ``generator`` is none.
    """
    _check(generator)
    if in_backward():
        seen = _watched.get(layer)
        return seen is not None and _state(generator) in seen
    wanted = wants_weights(recorded)
    if wanted and _in_checkpoint():
        _watched.setdefault(layer, deque(maxlen=REMEMBERED)).append(_state(generator))
    return wanted


def _check(generator: object) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"'generator' must be a torch.Generator, got {describe(generator)}")


def _state(generator: torch.Generator | None) -> int:
    source = torch.default_generator if generator is None else generator
    return hash(source.get_state().numpy().tobytes())


def _in_checkpoint() -> bool:
    """Whether what is computed now may be computed again: without gradient inside of a reentrant
    checkpoint, with one inside of any hooks on saved tensors, which others work by."""
    if not torch.is_grad_enabled():
        return in_reentrant_checkpoint()
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
