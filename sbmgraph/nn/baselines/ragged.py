"""Dense batches for attention that needs them, made so that padding is never seen.

Token features arrive ragged: all sequences of a batch end to end, told apart by ``batch``. Dense
attention wants ``[B, N, ...]``. :func:`run_padded` groups sequences of similar length, pads each
group, runs the dense code on it and undoes both steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

DenseFunction = Callable[..., Tensor]


class Padding(NamedTuple):
    """Where the tokens of a ragged batch lie in a dense one.

    Attributes:
        num_sequences: The number :math:`B` of sequences.
        length: The padded length :math:`N`.
        position: Position of every token in the flattened dense batch, int64 of shape :obj:`[T]`;
            :obj:`None` where no sequence is shorter than :obj:`length`.
    """

    num_sequences: int
    length: int
    position: Tensor | None

    @property
    def mask(self) -> Tensor | None:
        """Which positions hold a token, boolean of shape :obj:`[B, N]`; :obj:`None` for all."""
        if self.position is None:
            return None
        mask = self.position.new_zeros(self.num_sequences * self.length, dtype=torch.bool)
        mask[self.position] = True
        return mask.view(self.num_sequences, self.length)

    def pad(self, x: Tensor) -> Tensor:
        """``x`` [T, ...] as a dense batch [B, N, ...], zero where there is no token."""
        shape = (self.num_sequences, self.length, *x.shape[1:])
        if self.position is None:
            return x.reshape(shape)
        dense = x.new_zeros(self.num_sequences * self.length, *x.shape[1:])
        return dense.index_copy(0, self.position, x).view(shape)

    def unpad(self, x: Tensor) -> Tensor:
        """The tokens [T, ...] of a dense batch ``x`` [B, N, ...]."""
        flat = x.flatten(0, 1)
        return flat if self.position is None else flat.index_select(0, self.position)


def sequence_lengths(batch: Tensor | None, num_tokens: int, device: torch.device) -> Tensor:
    """Length of every sequence that has a token, int64 of shape :obj:`[B]`."""
    if batch is None:
        return torch.tensor([num_tokens], device=device)
    return torch.unique_consecutive(batch, return_counts=True)[1]


def make_padding(lengths: Tensor, length: int) -> Padding:
    """The padding of sequences of the given ``lengths`` to ``length`` tokens each."""
    num_tokens = int(lengths.sum())
    if num_tokens == lengths.numel() * length:
        return Padding(lengths.numel(), length, None)
    gaps = torch.arange(lengths.numel(), device=lengths.device) * length
    start = gaps - (lengths.cumsum(0) - lengths)
    token = torch.arange(num_tokens, device=lengths.device)
    return Padding(lengths.numel(), length, token + start.repeat_interleave(lengths))


def run_padded(
    function: DenseFunction,
    tensors: tuple[Tensor, ...],
    batch: Tensor | None,
    unit: int | None = None,
) -> Tensor:
    """Runs ``function`` on dense batches of a ragged one.

    Args:
        function: Called as ``function(*dense, mask)`` with dense tensors [B, N, ...], zero where
            ``mask`` [B, N] is false (``mask`` is :obj:`None` where all positions hold a token);
            returns [B, N, ...].
        tensors: Ragged tensors of shape :obj:`[T, ...]`.
        batch: Sequence of every token, sorted, of shape :obj:`[T]`; :obj:`None` for one sequence.
        unit: Sequences whose lengths round up to the same multiple of ``unit`` share a dense batch
            of that length, so that what happens to a sequence depends on its own length only;
            :obj:`None` puts all sequences into one, as long as the longest.

    Returns:
        Ragged tensor of shape :obj:`[T, ...]`.
    """
    num_tokens = tensors[0].size(0)
    lengths = sequence_lengths(batch, num_tokens, tensors[0].device)
    step = unit if unit is not None else max(int(lengths.max()), 1)
    padded = -(lengths // -step) * step
    sizes, group = padded.unique(return_inverse=True)
    if sizes.numel() == 1:
        return _run_group(function, tensors, lengths, int(sizes))
    order = group.repeat_interleave(lengths).argsort(stable=True)
    members = [lengths[group == i] for i in range(sizes.numel())]
    counts = [int(member.sum()) for member in members]
    sorted_tensors = [x.index_select(0, order).split(counts) for x in tensors]
    groups = zip(members, sizes.tolist(), zip(*sorted_tensors, strict=True), strict=True)
    out = torch.cat([_run_group(function, xs, member, size) for member, size, xs in groups])
    return out.index_select(0, order.argsort())


def _run_group(
    function: DenseFunction, tensors: tuple[Tensor, ...], lengths: Tensor, length: int
) -> Tensor:
    padding = make_padding(lengths, length)
    return padding.unpad(function(*(padding.pad(x) for x in tensors), padding.mask))


def padding_unit(x: Tensor, unit: int) -> int | None:
    """The unit of :func:`run_padded` for attention that masks exactly: short groups where padding
    costs time (CPU), one dense batch where kernel launches do (GPU)."""
    return unit if x.device.type == "cpu" else None
