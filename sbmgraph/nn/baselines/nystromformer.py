"""Attention reconstructed from its values at a few landmark tokens, in linear time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sbmgraph.checks import check_positive_int
from sbmgraph.nn.baselines.multi_head import InnerAttention, import_package
from sbmgraph.nn.baselines.ragged import run_padded


class NystromAttention(InnerAttention):
    """Nyström attention (Xiong et al., *Nyströmformer*, AAAI 2021), by the package
    ``nystrom-attention``, with its depth-wise convolution of the values.

    Padding: the package masks padded tokens, but a landmark is the mean of (padded length) /
    (number of landmarks) tokens, so it follows the padded length, and the pseudo-inverse is scaled
    by a maximum over the whole batch. Hence sequences run in groups of one padded length, the next
    multiple of the number of landmarks, and the package runs under :func:`torch.vmap`, one sequence
    at a time for all it can tell. Landmarks that cover a sequence's own padding only stay in its
    pseudo-inverse.

    Precision: the package makes tensors of torch's default dtype, which Lightning's ``"16-true"``
    sets to float16; there its divisor's 1e-8 is 0, and a landmark without a token is 0 / 0. So it
    runs with float32 as the default.

    Args:
        heads (int): The number of heads.
        head_channels (int): The number of channels of a head.
        max_length (int): Unused; any length will do.
        num_landmarks (int, optional): The number of landmarks. (default: :obj:`256`, as in the
            SBM-Transformer paper)
        kernel_size (int, optional): Length of the convolution, odd. (default: :obj:`35`)
    """

    def __init__(
        self,
        heads: int,
        head_channels: int,
        max_length: int,
        *,
        num_landmarks: int = 256,
        kernel_size: int = 35,
    ) -> None:
        super().__init__(heads, head_channels, max_length)
        check_positive_int("num_landmarks", num_landmarks)
        check_positive_int("kernel_size", kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"'kernel_size' must be odd, got {kernel_size}")
        attention = import_package("nystrom_attention").NystromAttention(
            heads * head_channels,
            dim_head=head_channels,
            heads=heads,
            num_landmarks=num_landmarks,
            residual_conv_kernel=kernel_size,
        )
        attention.to_qkv = attention.to_out = nn.Identity()
        self.num_landmarks = num_landmarks
        self.attention = attention

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return run_padded(self._dense, (query, key, value), batch, self.num_landmarks)

    def _dense(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        qkv = torch.cat([x.flatten(2) for x in (query, key, value)], dim=-1)
        with _single_by_default():
            if mask is None:
                out = torch.vmap(lambda x: self.attention(x[None])[0])(qkv)
            else:
                out = torch.vmap(lambda x, m: self.attention(x[None], mask=m[None])[0])(qkv, mask)
        return out.unflatten(-1, (self.heads, self.head_channels))


@contextmanager
def _single_by_default() -> Generator[None, None, None]:
    """float32 as torch's default for new floating-point tensors."""
    before = torch.get_default_dtype()
    if before == torch.float32:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
