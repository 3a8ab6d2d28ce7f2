"""Softmax attention over all pairs of tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sbmgraph.checks import check_range
from sbmgraph.nn.baselines.multi_head import InnerAttention
from sbmgraph.nn.baselines.ragged import padding_unit, run_padded


class FullAttention(InnerAttention):
    """Softmax attention by :func:`torch.nn.functional.scaled_dot_product_attention`.

    On CPU, sequences of one length run together, without padding or mask; on GPU, sequences of
    different lengths are padded and masked.

    Args:
        heads (int): The number of heads.
        head_channels (int): The number of channels of a head.
        max_length (int): Unused; any length will do.
        dropout (float, optional): Dropout probability of the attention weights. (default:
            :obj:`0.0`)
    """

    full_precision = False

    def __init__(
        self, heads: int, head_channels: int, max_length: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__(heads, head_channels, max_length)
        check_range("dropout", dropout, 0.0, 1.0, high_open=True)
        self.dropout = dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return run_padded(self._dense, (query, key, value), batch, padding_unit(query, 1))

    def density(self, query: Tensor, key: Tensor, batch: Tensor | None) -> float | None:
        return 1.0

    def _dense(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return out.transpose(1, 2)
