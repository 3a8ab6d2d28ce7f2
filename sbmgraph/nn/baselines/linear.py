"""Attention whose softmax is replaced by a product of feature maps, in linear time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sbmgraph.nn.baselines.multi_head import InnerAttention
from sbmgraph.nn.baselines.ragged import padding_unit, run_padded


class LinearAttention(InnerAttention):
    r"""Linear attention (Katharopoulos et al., *Transformers are RNNs*, ICML 2020).

    .. math::
        \mathrm{out}_i = \frac{\phi(\mathbf{q}_i)^\top \sum_j \phi(\mathbf{k}_j) \mathbf{v}_j^\top}
        {\phi(\mathbf{q}_i)^\top \sum_j \phi(\mathbf{k}_j)}, \qquad
        \phi(\mathbf{x}) = \mathrm{elu}(\mathbf{x}) + 1

    Padding: the features of padded keys are set to zero, so that both sums leave them out.

    Args:
        heads (int): The number of heads.
        head_channels (int): The number of channels of a head.
        max_length (int): Unused; any length will do.
    """

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
        query, key = F.elu(query) + 1, F.elu(key) + 1
        if mask is not None:
            key = key * mask[:, :, None, None]
        context = torch.einsum("bnhd,bnhe->bhde", key, value)
        numerator = torch.einsum("bnhd,bhde->bnhe", query, context)
        denominator = torch.einsum("bnhd,bhd->bnh", query, key.sum(dim=1))
        tiny = torch.finfo(denominator.dtype).tiny
        return numerator / denominator.clamp(min=tiny).unsqueeze(-1)
