"""Attention whose weights are exactly zero for most pairs, at the full cost of all pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sbmgraph.checks import check_range
from sbmgraph.nn.baselines.multi_head import InnerAttention, import_package
from sbmgraph.nn.baselines.ragged import padding_unit, run_padded, sequence_lengths


class EntmaxAttention(InnerAttention):
    r"""Attention with 1.5-entmax in place of softmax (Correia et al., *Adaptively Sparse
    Transformers*, EMNLP 2019), by the package ``entmax``.

    The other way to learned sparsity: the score of every pair is computed and sorted, and the
    smaller ones get weight zero. :math:`\mathcal{O}(n^2 \log n)` time, :math:`\mathcal{O}(n^2)`
    memory.

    Padding: scores of padded keys are :math:`-\infty`, which the package maps to weight zero
    exactly.

    Args:
        heads (int): The number of heads.
        head_channels (int): The number of channels of a head.
        max_length (int): Unused; any length will do.
        dropout (float, optional): Dropout probability of the attention weights. (default:
            :obj:`0.0`)
    """

    def __init__(
        self, heads: int, head_channels: int, max_length: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__(heads, head_channels, max_length)
        check_range("dropout", dropout, 0.0, 1.0, high_open=True)
        self.dropout = dropout
        self.entmax = import_package("entmax").entmax15

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
        def support(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
            return (self._weights(query, key, mask) > 0).sum(dim=-1).transpose(1, 2)

        degree = run_padded(support, (query, key), batch, padding_unit(query, 1))
        lengths = sequence_lengths(batch, query.size(0), query.device)
        return int(degree.sum()) / (self.heads * max(int((lengths * lengths).sum()), 1))

    def _dense(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        weight = F.dropout(self._weights(query, key, mask), self.dropout, self.training)
        return torch.einsum("bhij,bjhd->bihd", weight, value)

    def _weights(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        score = torch.einsum("bihd,bjhd->bhij", query, key) * self.head_channels**-0.5
        if mask is not None:
            score = score.masked_fill(~mask[:, None, None, :], -torch.inf)
        return self.entmax(score, dim=-1)
