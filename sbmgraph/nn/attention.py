"""SBM attention as a drop-in for multi-head self-attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sbmgraph.checks import check_tensor, describe
from sbmgraph.nn.config import split_channels
from sbmgraph.nn.conv import SBMConv
from sbmgraph.nn.inputs import flatten_mask
from sbmgraph.nn.options import SBMOptions
from sbmgraph.nn.transforms import check_traceable, has_no_values

CONV_ARGUMENTS = ("dropout", "pe_channels", "bias_init")
"""The arguments that go to the layer inside, apart from options."""


class SBMAttention(nn.Module):
    r"""Multi-head self-attention over sampled graphs with an output projection.

    Padding is dropped before anything is computed: padded tokens are never sampled, cost nothing,
    and come out as zeros.

    Args:
        channels (int): Channels of the input and the output.
        heads (int): The number of heads.
        head_channels (int, optional): Channels of each head. (default: :obj:`channels // heads`)
        bias (bool, optional): If :obj:`False`, the projections have no bias. (default:
            :obj:`True`)
        **kwargs (optional): Arguments of :class:`SBMConv` (``dropout``, ``pe_channels``,
            ``bias_init``, ``options``) and single options of :class:`SBMOptions`
            (``num_clusters``, ``init_density`` and so on).

    Shapes:
        - **input:** :math:`(B, N, C)` with a boolean mask :math:`(B, N)`, :obj:`True` where valid;
          or :math:`(T, C)` with a sorted batch vector :math:`(T)`
        - **output:** the shape of the input

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        head_channels: int | None = None,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        head_channels = split_channels(channels, heads, head_channels)
        if "concat" in kwargs:
            raise ValueError("'concat' must be left out: heads are projected together")
        conv = {name: kwargs.pop(name) for name in CONV_ARGUMENTS if name in kwargs}
        options = SBMOptions.gather(
            type(self).__name__,
            kwargs.pop("options", None),
            kwargs,
            ("channels", "heads", "head_channels", "bias", "options", *CONV_ARGUMENTS),
        )
        self.channels = channels
        self.conv = SBMConv(channels, head_channels, heads, bias=bias, options=options, **conv)
        self.lin_out = nn.Linear(heads * self.conv.out_channels, channels, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all weights anew."""
        self.conv.reset_parameters()
        self.lin_out.reset_parameters()

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        batch: Tensor | None = None,
        generator: torch.Generator | None = None,
        pe: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        r"""Runs the layer.

        Args:
            x (Tensor): Padded input of shape :obj:`[B, N, C]`, or flat input :obj:`[T, C]`.
            mask (Tensor, optional): Valid tokens of padded input, boolean of shape :obj:`[B, N]`.
                (default: all)
            batch (Tensor, optional): Sequence of each token of flat input, sorted, of shape
                :obj:`[T]`. (default: one sequence)
            generator (torch.Generator, optional): Source of the sampling's seed.
            pe (Tensor, optional): Positional encodings, shaped as :obj:`x`.
            batch_size (int, optional): The number of flat sequences, where the last are empty.

        Raises:
            ValueError: If shapes or dtypes do not fit together.
        """
        check_traceable(type(self).__name__)
        if not isinstance(x, Tensor) or x.dim() not in (2, 3) or x.size(-1) != self.channels:
            raise ValueError(
                f"'x' must have shape [batch, tokens, {self.channels}] or [tokens, "
                f"{self.channels}], got {describe(x)}"
            )
        check_tensor("x", x, x.dim(), f"[..., {self.channels}]")
        if x.dim() == 2:
            if mask is not None:
                raise ValueError(
                    f"'mask' must be None for flat input (use 'batch'), got {describe(mask)}"
                )
            out = self.conv(x, batch, pe=pe, generator=generator, batch_size=batch_size)
            return self.lin_out(out)
        if batch is not None:
            raise ValueError(
                f"'batch' must be None for padded input (use 'mask'), got {describe(batch)}"
            )
        if has_no_values(x):
            return x.new_empty(x.shape)
        mask, batch = flatten_mask(x.shape[:2], mask, x.device)
        if batch_size is not None:
            raise ValueError(f"'batch_size' must be None for padded input, got {batch_size!r}")
        out = x.new_zeros(x.shape)
        if pe is not None:
            check_tensor("pe", pe, 3, f"[{x.size(0)}, {x.size(1)}, pe_channels]")
            if pe.shape[:2] != mask.shape:
                raise ValueError(
                    f"'pe' must have shape [{x.size(0)}, {x.size(1)}, pe_channels], "
                    f"got {describe(pe)}"
                )
            pe = pe[mask]
        flat = self.lin_out(self.conv(x[mask], batch, pe=pe, generator=generator))
        out = out.to(flat.dtype)
        return out.masked_scatter(mask.unsqueeze(-1), flat)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.channels}, heads={self.conv.heads}, "
            f"head_channels={self.conv.out_channels}, num_clusters={self.conv.num_clusters})"
        )


class FlatSBMAttention(SBMAttention):
    """:class:`SBMAttention` with the arguments of all attentions that encoders are built from:
    ``attention(x [T, C], batch=None, generator=None) -> [T, C]``."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        batch: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Attends inside each sequence of flat tokens."""
        check_tensor("x", x, 2, f"[num_tokens, {self.channels}]")
        return super().forward(x, batch=batch, generator=generator)
