"""Attention whose softmax kernel is estimated by random features, in linear time."""

from __future__ import annotations

import torch
from torch import Tensor

from sbmgraph.checks import check_positive_int
from sbmgraph.nn.baselines.multi_head import InnerAttention, import_package
from sbmgraph.nn.baselines.ragged import padding_unit, run_padded


class PerformerAttention(InnerAttention):
    """FAVOR+ attention (Choromanski et al., *Rethinking Attention with Performers*, ICLR 2021), by
    the package ``performer-pytorch``.

    The random features are drawn once, when the module is made, and saved with its parameters.

    Padding: the package has no mask in its attention; its own layers zero the padded values, while
    padded keys stay in the denominator and in the maximum that stabilises the exponential. Here a
    padded key repeats the first key of its sequence, which leaves the maximum alone, and its
    features are set to zero, which takes it out of both sums.

    Args:
        heads (int): The number of heads.
        head_channels (int): The number of channels of a head.
        max_length (int): Unused; any length will do.
        num_features (int, optional): The number of random features. (default: :obj:`256`)
    """

    def __init__(
        self, heads: int, head_channels: int, max_length: int, *, num_features: int = 256
    ) -> None:
        super().__init__(heads, head_channels, max_length)
        check_positive_int("num_features", num_features)
        package = import_package("performer_pytorch")
        self.fast_attention = package.FastAttention(head_channels, nb_features=num_features)

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
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        if mask is None:
            return self.fast_attention(query, key, value).transpose(1, 2)
        package = import_package("performer_pytorch.performer_pytorch")
        projection = self.fast_attention.projection_matrix
        valid = mask[:, None, :, None]
        key = torch.where(valid, key, key[:, :, :1])
        query_features = package.softmax_kernel(query, projection_matrix=projection, is_query=True)
        key_features = package.softmax_kernel(key, projection_matrix=projection, is_query=False)
        out = package.linear_attention(query_features, key_features * valid, value)
        return out.transpose(1, 2)
