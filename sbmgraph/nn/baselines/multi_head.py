"""The projections that all baselines share, apart from the attention inside."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from sbmgraph.checks import (
    check_batch,
    check_floating,
    check_positive_int,
    check_tensor,
    describe,
)


class InnerAttention(nn.Module):
    """What happens between the projections: queries, keys and values to outputs.

    Subclasses implement :meth:`forward`. A sequence's output must not depend on the other sequences
    of the batch.

    Args:
        heads (int): The number :math:`H` of heads.
        head_channels (int): The number :math:`d` of channels of a head.
        max_length (int): The longest sequence to expect.
    """

    full_precision: ClassVar[bool] = True
    """Whether half-precision inputs are computed in float32, outside autocast."""

    share_query_key: ClassVar[bool] = False
    """Whether the keys are the queries, without a projection of their own."""

    def __init__(self, heads: int, head_channels: int, max_length: int) -> None:
        super().__init__()
        check_positive_int("heads", heads)
        check_positive_int("head_channels", head_channels)
        check_positive_int("max_length", max_length)
        self.heads = heads
        self.head_channels = head_channels
        self.max_length = max_length

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Attends inside each sequence of a batch with at least one token.

        Args:
            query (Tensor): Queries of shape :obj:`[T, H, d]`.
            key (Tensor): Keys of shape :obj:`[T, H, d]`.
            value (Tensor): Values of shape :obj:`[T, H, d]`.
            batch (Tensor, optional): Sequence of every token, sorted, of shape :obj:`[T]`;
                :obj:`None` for one sequence.
            generator (torch.Generator, optional): Source of randomness, where there is any.

        Returns:
            Tensor of shape :obj:`[T, H, d]`.
        """
        raise NotImplementedError

    def density(self, query: Tensor, key: Tensor, batch: Tensor | None) -> float | None:
        """The fraction of pairs that get a weight, over all heads and sequences; :obj:`None` where
        pairs have no weights of their own. Arguments as in :meth:`forward`."""
        return None


class MultiHeadAttention(nn.Module):
    """Query, key, value and output projections around an :class:`InnerAttention`.

    Args:
        channels (int): Size of every token's features.
        inner (InnerAttention): The attention between the projections; it fixes the number of heads
            and their channels.

    Raises:
        ValueError: If an argument has the wrong type.
    """

    def __init__(self, channels: int, inner: InnerAttention) -> None:
        super().__init__()
        check_positive_int("channels", channels)
        if not isinstance(inner, InnerAttention):
            raise ValueError(f"'inner' must be an InnerAttention, got {describe(inner)}")
        self.channels = channels
        self.inner = inner
        hidden = inner.heads * inner.head_channels
        self.query = nn.Linear(channels, hidden)
        self.key = None if inner.share_query_key else nn.Linear(channels, hidden)
        self.value = nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, channels)

    def forward(
        self,
        x: Tensor,
        batch: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Self-attention inside each sequence of a ragged batch.

        Args:
            x (Tensor): Features of all tokens, sequences end to end, of shape :obj:`[T, channels]`.
            batch (Tensor, optional): Sequence of every token, sorted, int64 of shape :obj:`[T]`;
                :obj:`None` for one sequence. (default: :obj:`None`)
            generator (torch.Generator, optional): Source of randomness, where there is any.
                (default: torch's global generator)

        Returns:
            Tensor of shape :obj:`[T, channels]`.

        Raises:
            ValueError: If shapes do not fit, ``batch`` is not sorted, or a sequence is longer than
                the attention's ``max_length`` where it has one.
        """
        check_tensor("x", x, 2, f"[num_tokens, {self.channels}]")
        check_floating("x", x)
        if x.size(1) != self.channels:
            raise ValueError(
                f"'x' must have shape [num_tokens, {self.channels}], got {describe(x)}"
            )
        if batch is not None:
            check_batch("batch", batch, x.size(0), x.device)
        split = (x.size(0), self.inner.heads, self.inner.head_channels)
        query = self.query(x).view(split)
        key = query if self.key is None else self.key(x).view(split)
        value = self.value(x).view(split)
        if x.size(0) == 0:
            return self.out((query + key + value).flatten(1))
        out = self._attend(query, key, value, batch, generator)
        return self.out(out.flatten(1))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        dtype = value.dtype
        if not self.inner.full_precision or not _is_low(dtype):
            return self.inner(query, key, value, batch, generator)
        parameters = {name: p.float() for name, p in self.inner.named_parameters()}
        inputs = (query.float(), key.float(), value.float(), batch, generator)
        with torch.autocast(query.device.type, enabled=False):
            return torch.func.functional_call(self.inner, parameters, inputs).to(dtype)


def import_package(module: str) -> ModuleType:
    """Imports a published baseline.

    Raises:
        ImportError: If it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this model needs the package {module.partition('.')[0].replace('_', '-')!r}: "
            "pip install 'sbmgraph[baselines]'"
        ) from error


def _is_low(dtype: torch.dtype) -> bool:
    return dtype in (torch.float16, torch.bfloat16)
