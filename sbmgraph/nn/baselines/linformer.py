"""Attention over a fixed number of learned combinations of the tokens, in linear time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sbmgraph.checks import check_positive_int, check_range
from sbmgraph.nn.baselines.multi_head import InnerAttention, import_package
from sbmgraph.nn.baselines.ragged import padding_unit, run_padded


class LinformerAttention(InnerAttention):
    """Linformer's attention (Wang et al., *Linformer: Self-Attention with Linear Complexity*,
    2020), by the package ``linformer``.

    Padding: the package has no mask. Its compressed keys and values are weighted sums over
    positions, so padded keys and values of zero leave nothing behind; shorter sequences use the
    first rows of the learned projections.

    Args:
        heads (int): The number of heads.
        head_channels (int): The number of channels of a head.
        max_length (int): The longest sequence; the projections have this many rows.
        projected_length (int, optional): The number of combinations that keys and values are
            compressed to. (default: :obj:`256`)
        dropout (float, optional): Dropout probability of the attention weights. (default:
            :obj:`0.0`)
    """

    def __init__(
        self,
        heads: int,
        head_channels: int,
        max_length: int,
        *,
        projected_length: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(heads, head_channels, max_length)
        check_positive_int("projected_length", projected_length)
        check_range("dropout", dropout, 0.0, 1.0, high_open=True)
        hidden = heads * head_channels
        attention = import_package("linformer").LinformerSelfAttention(
            hidden, max_length, k=projected_length, heads=heads, dropout=dropout
        )
        attention.to_q = attention.to_out = nn.Identity()
        attention.to_k = _Channels(0, hidden)
        attention.to_v = _Channels(hidden, 2 * hidden)
        self.attention = attention

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return run_padded(self._dense, (query, key, value), batch, padding_unit(query, 128))

    def _dense(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        length = self.max_length
        query, key, value = (x.flatten(2) for x in (query, key, value))
        used = query.size(1) if mask is None else int(mask.sum(dim=1).max())
        if used > length:
            raise ValueError(
                f"'x' must hold sequences of at most 'max_length' = {length} tokens, got {used}"
            )
        context = torch.cat([key, value], dim=-1)[:, :length]
        out = self.attention(query, context=context)
        return out.view(*out.shape[:2], self.heads, self.head_channels)


class _Channels(nn.Module):
    """The channels from ``start`` to ``stop``, where the package expects a projection."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start = start
        self.stop = stop

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.start : self.stop]
