"""The GPS recipe with SBM attention as its global part."""

from __future__ import annotations

import inspect
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.inits import reset
from torch_geometric.nn.resolver import activation_resolver, normalization_resolver
from torch_geometric.typing import Adj

from sbmgraph.checks import check_positive_int, check_range, check_tensor, describe
from sbmgraph.nn.attention import SBMAttention

ATTN_TYPES = ("sbm", "multihead")


@cache
def _warn_multihead() -> None:
    """Says once that another attention is run than the name asks for."""
    warnings.warn(
        "'attn_type' = 'multihead' of a GPSBlock runs SBM attention, no dense one; 'sbm' says so",
        stacklevel=3,
    )


class GPSBlock(nn.Module):
    r"""The graph transformer layer of `"Recipe for a General, Powerful, Scalable Graph
    Transformer" <https://arxiv.org/abs/2205.12454>`_ (Rampášek et al., NeurIPS 2022) with SBM
    attention: local message passing and sparse global attention side by side, then an MLP.

    .. math::
        \mathbf{X}_L &= \mathrm{norm}(\mathbf{X} + \mathrm{MPNN}(\mathbf{X}, \mathbf{A})) \\
        \mathbf{X}_G &= \mathrm{norm}(\mathbf{X} + \mathrm{SBMAttention}(\mathbf{X})) \\
        \mathbf{X}^{\prime} &= \mathrm{norm}(\mathbf{X}_L + \mathbf{X}_G +
        \mathrm{MLP}(\mathbf{X}_L + \mathbf{X}_G))

    It takes the place of :class:`torch_geometric.nn.conv.GPSConv` by its name alone: arguments and
    their order are the same. Batches stay flat, so nothing is ever padded.

    Args:
        channels (int): Size of each input sample.
        conv (MessagePassing, optional): The local message passing layer, or :obj:`None` for
            attention alone.
        heads (int, optional): The number of attention heads. (default: :obj:`1`)
        dropout (float, optional): Dropout probability of intermediate embeddings. (default:
            :obj:`0.0`)
        act (str or Callable, optional): The activation function. (default: :obj:`"relu"`)
        act_kwargs (dict, optional): Arguments of the activation function. (default: :obj:`None`)
        norm (str or Callable, optional): The normalization. (default: :obj:`"batch_norm"`)
        norm_kwargs (dict, optional): Arguments of the normalization. (default: :obj:`None`)
        attn_type (str, optional): :obj:`"sbm"`. :obj:`"multihead"`, the default of
            :class:`~torch_geometric.nn.conv.GPSConv`, is taken for it, so that its calls need no
            change, with one warning; no dense attention is ever run. (default: :obj:`"sbm"`)
        attn_kwargs (dict, optional): Arguments of :class:`SBMAttention`: ``num_clusters``,
            ``init_density``, ``dropout`` (of the attention weights) and so on. (default:
            :obj:`None`)

    Shapes:
        - **input:** node features :math:`(n, C)`, edge indices :math:`(2, E)`, sorted batch vector
          :math:`(n)` *(optional)*
        - **output:** node features :math:`(n, C)`

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        channels: int,
        conv: MessagePassing | None,
        heads: int = 1,
        dropout: float = 0.0,
        act: str = "relu",
        act_kwargs: dict[str, Any] | None = None,
        norm: str | None = "batch_norm",
        norm_kwargs: dict[str, Any] | None = None,
        attn_type: str = "sbm",
        attn_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_positive_int("channels", channels)
        check_range("dropout", dropout, 0.0, 1.0)
        if attn_type not in ATTN_TYPES:
            raise ValueError(
                f"'attn_type' must be 'sbm' (or 'multihead', taken for it), got {attn_type!r}; "
                "torch_geometric.nn.GPSConv has other attention"
            )
        if attn_type == "multihead":
            _warn_multihead()
        self.channels = channels
        self.conv = conv
        self.heads = heads
        self.dropout = dropout
        self.attn = SBMAttention(channels, heads, **(attn_kwargs or {}))
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels),
            activation_resolver(act, **(act_kwargs or {})),
            nn.Dropout(dropout),
            nn.Linear(2 * channels, channels),
            nn.Dropout(dropout),
        )
        norms = [normalization_resolver(norm, channels, **(norm_kwargs or {})) for _ in range(3)]
        self.norm_local, self.norm_global, self.norm_out = norms
        self.norm_with_batch = (
            norm is not None and "batch" in inspect.signature(norms[0].forward).parameters
        )

    def reset_parameters(self) -> None:
        """Draws all weights anew."""
        self.attn.reset_parameters()
        for module in (self.conv, self.mlp, self.norm_local, self.norm_global, self.norm_out):
            reset(module)

    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        batch: Tensor | None = None,
        pe: Tensor | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> Tensor:
        r"""Runs the block.

        Args:
            x (Tensor): Node features of shape :obj:`[n, C]`.
            edge_index (Tensor or SparseTensor): Edges for the local message passing.
            batch (Tensor, optional): Graph of each node, sorted. (default: one graph)
            pe (Tensor, optional): Encodings that block memberships see, of shape
                :obj:`[n, pe_channels]`; see :class:`SBMConv`.
            generator (torch.Generator, optional): Source of the sampling's seed.
            **kwargs (optional): Further arguments of the local layer, such as ``edge_attr``.

        Raises:
            ValueError: If shapes or batch vectors do not fit together.
        """
        if batch is not None and not isinstance(batch, Tensor):
            raise ValueError(
                f"'batch' must be an int64 vector of graph numbers, got {describe(batch)}"
            )
        check_tensor("x", x, 2, f"[num_nodes, {self.channels}]")
        attended = self.attn(x, batch=batch, pe=pe, generator=generator)
        out = self._residual(x, attended, self.norm_global, batch)
        if self.conv is not None:
            local = self.conv(x, edge_index, **kwargs)
            out = out + self._residual(x, local, self.norm_local, batch)
        return self._norm(out + self.mlp(out), self.norm_out, batch)

    def _residual(
        self, x: Tensor, update: Tensor, norm: nn.Module | None, batch: Tensor | None
    ) -> Tensor:
        update = F.dropout(update, p=self.dropout, training=self.training)
        return self._norm(x + update, norm, batch)

    def _norm(self, x: Tensor, norm: nn.Module | None, batch: Tensor | None) -> Tensor:
        if norm is None:
            return x
        return norm(x, batch=batch) if self.norm_with_batch else norm(x)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.channels}, conv={self.conv}, heads={self.heads}, "
            f"attn_type=sbm)"
        )
