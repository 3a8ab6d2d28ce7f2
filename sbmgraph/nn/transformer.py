"""Transformer encoders on ragged batches, with any attention over flat tokens."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.utils import scatter

from sbmgraph.checks import check_batch, check_positive_int, describe
from sbmgraph.nn.attention import SBMAttention
from sbmgraph.nn.config import POOLINGS, EncoderConfig
from sbmgraph.nn.inputs import check_positions, check_tokens, flatten_mask
from sbmgraph.nn.options import SBMOptions
from sbmgraph.nn.positions import picture_codes
from sbmgraph.nn.transforms import check_traceable, has_no_values
from sbmgraph.nodes import count_graphs

__all__ = ["POOLINGS", "SBMTransformer", "Transformer", "TransformerLayer", "picture_codes"]


class TransformerLayer(nn.Module):
    """A pre-norm layer: attention and a feed-forward network, each with a residual connection.

    Args:
        attention: A module ``attention(x [T, C], batch=..., generator=...) -> [T, C]``.
        channels: Channels :math:`C` of the tokens.
        ffn_channels: Hidden channels of the feed-forward network.
        dropout: Dropout probability after each of the two and inside the network.
    """

    def __init__(
        self, attention: nn.Module, channels: int, ffn_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = attention
        self.norm_attention = nn.LayerNorm(channels)
        self.norm_ffn = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.ffn = nn.Sequential(
            nn.Linear(channels, ffn_channels),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(ffn_channels, channels),
        )

    def forward(
        self, x: Tensor, batch: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Runs the layer on flat tokens [T, C] with their sorted sequence numbers [T]."""
        attended = self.attention(self.norm_attention(x), batch=batch, generator=generator)
        x = x + self.dropout(attended)
        return x + self.dropout(self.ffn(self.norm_ffn(x)))


class Transformer(nn.Module):
    r"""Token and position embeddings, pre-norm layers, pooling and a classifier.

    Tokens of all sequences of a batch lie end to end, so padding costs nothing in any part; an
    attention that needs padded input makes its own.

    Args:
        vocab_size (int): The number of token types.
        num_classes (int): The number of classes.
        attention (Callable): Makes one layer's attention; called once a layer. Its modules are
            called as ``attention(x, batch=batch, generator=generator)`` on flat tokens.
        **kwargs (optional): Further fields of :class:`EncoderConfig`; what concerns the heads is
            left to ``attention``.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        attention: Callable[[], nn.Module],
        channels: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        given = {"vocab_size": vocab_size, "num_classes": num_classes, "channels": channels}
        config, rest = EncoderConfig.split({**given, **kwargs})
        if rest:
            raise ValueError(
                f"the arguments of {type(self).__name__} must be among attention, "
                f"{', '.join(EncoderConfig.names())}, got {next(iter(rest))!r}"
            )
        if not callable(attention):
            raise ValueError(
                f"'attention' must make a layer's attention when called, got {describe(attention)}"
            )
        self.config = config
        self.token_embedding = nn.Embedding(vocab_size, channels)
        self.position_embedding = nn.Embedding(config.max_length, channels)
        self.cls = nn.Parameter(torch.empty(channels)) if config.pooling == "cls" else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(attention(), channels, config.ffn_channels, config.dropout)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(channels)
        features = channels if config.num_documents == 1 else 4 * channels
        hidden = config.hidden_classifier_channels
        head: list[nn.Module] = [nn.Linear(features, num_classes)]
        if hidden is not None:
            head = [nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)]
        self.classifier = nn.Sequential(*head)
        self.register_load_state_dict_pre_hook(_rename_blocks)
        self.reset_embeddings()

    @classmethod
    def from_config(cls, config: EncoderConfig, attention: Callable[[], nn.Module]) -> Transformer:
        """The encoder of a configuration, with attention that ``attention`` makes for a layer."""
        return cls(attention=attention, **config.to_dict())

    @property
    def max_length(self) -> int:
        """The largest number of tokens of a sequence."""
        return self.config.max_length

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers; deprecated name of ``layers``."""
        warnings.warn(
            "'blocks' of a Transformer is now called 'layers' (blocks are those of an SBM); the "
            "old name goes in the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.layers

    def reset_embeddings(self) -> None:
        """Draws the embeddings anew."""
        config = self.config
        position_std = config.embedding_std if config.position_std is None else config.position_std
        nn.init.normal_(self.token_embedding.weight, std=config.embedding_std)
        nn.init.normal_(self.position_embedding.weight, std=position_std)
        if config.picture_width is not None:
            codes = picture_codes(config.max_length, config.channels, config.picture_width)
            with torch.no_grad():
                self.position_embedding.weight.copy_(position_std * codes)
        if self.cls is not None:
            nn.init.normal_(self.cls, std=config.embedding_std)

    def forward(
        self,
        tokens: Tensor,
        batch: Tensor | None = None,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        position: Tensor | None = None,
        num_sequences: int | None = None,
    ) -> Tensor:
        r"""Class scores.

        Args:
            tokens (Tensor): Token numbers, int64: flat of shape :obj:`[T]`, or padded
                :obj:`[B, N]`.
            batch (Tensor, optional): Sequence of every flat token, sorted, of shape :obj:`[T]`.
                (default: one sequence)
            mask (Tensor, optional): Valid tokens of padded input, boolean of shape :obj:`[B, N]`.
                (default: all)
            generator (torch.Generator, optional): Source of the sampling's seeds.
            position (Tensor, optional): Position of every flat token in its sequence, of shape
                :obj:`[T]`, where some tokens are left out. (default: consecutive from 0)
            num_sequences (int, optional): The number :math:`B` of flat sequences, where some may
                have no token: the mean of those is 0. (default: as many as :obj:`batch` names)

        Returns:
            Scores of shape :obj:`[B, num_classes]`; without pooling :obj:`[T, num_classes]`, or
            :obj:`[B, N, num_classes]` (zeros at padding) for padded input.

        Raises:
            ValueError: If shapes or dtypes do not fit, a token is not in the vocabulary, or a
                sequence is empty, all padding, or longer than the model.
        """
        check_traceable(type(self).__name__)
        if (
            not isinstance(tokens, Tensor)
            or tokens.dtype != torch.int64
            or tokens.dim() not in (1, 2)
            or tokens.layout != torch.strided
        ):
            raise ValueError(
                f"'tokens' must be an int64 tensor of shape [tokens] or [batch, tokens], "
                f"got {describe(tokens)}"
            )
        if has_no_values(tokens):
            return self._infer_shape(tokens, batch)
        padded_mask = None
        if tokens.dim() == 2:
            if batch is not None or position is not None:
                name = "batch" if batch is not None else "position"
                raise ValueError(
                    f"'{name}' must be None for padded input (use 'mask'), got a value"
                )
            padded_mask, batch = flatten_mask(tokens.shape, mask, tokens.device)
            empty = ~padded_mask.any(dim=1)
            if bool(empty.any()):
                raise ValueError(
                    f"'mask' must leave a valid token in each sequence, got all padding in "
                    f"sequence {int(empty.nonzero()[0])}"
                )
            num_sequences = tokens.size(0)
            tokens = tokens[padded_mask]
        else:
            if mask is not None:
                raise ValueError(
                    f"'mask' must be None for flat input (use 'batch'), got {describe(mask)}"
                )
            if batch is None:
                batch = torch.zeros_like(tokens)
            check_batch("batch", batch, tokens.numel(), tokens.device)
            num_sequences = self._count(batch, num_sequences)
        features, batch = self.encode(tokens, batch, num_sequences, generator, position)
        if self.config.pooling == "none":
            scores = self.classifier(features)
            if padded_mask is None:
                return scores
            out = scores.new_zeros(*padded_mask.shape, scores.size(-1))
            return out.masked_scatter(padded_mask.unsqueeze(-1), scores)
        pooled = self.pool(features, batch, num_sequences)
        if self.config.num_documents == 2:
            if num_sequences % 2:
                raise ValueError(
                    f"'tokens' must hold two documents an item, got {num_sequences} sequences"
                )
            first, second = pooled[0::2], pooled[1::2]
            pooled = torch.cat([first, second, first * second, first - second], dim=-1)
        return self.classifier(pooled)

    def encode(
        self,
        tokens: Tensor,
        batch: Tensor,
        num_sequences: int,
        generator: torch.Generator | None = None,
        position: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features [T, C] of flat tokens [T], and their sequence numbers; with ``"cls"`` pooling
        each sequence gets its extra token in front."""
        length = torch.bincount(batch, minlength=num_sequences)
        check_tokens(tokens, length, self.config)
        if position is None:
            start = length.cumsum(0) - length
            position = torch.arange(tokens.numel(), device=tokens.device) - start[batch]
        else:
            check_positions(position, tokens, self.max_length)
        x = self.token_embedding(tokens) + self.position_embedding(position)
        if self.cls is not None:
            order = torch.cat([torch.arange(num_sequences, device=batch.device), batch])
            batch, order = torch.sort(order, stable=True)
            x = torch.cat([self.cls.expand(num_sequences, -1), x])[order]
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, batch, generator)
        return self.norm(x), batch

    def pool(self, x: Tensor, batch: Tensor, num_sequences: int) -> Tensor:
        """One vector a sequence, [B, C], of token features [T, C]."""
        length = torch.bincount(batch, minlength=num_sequences)
        if self.config.pooling == "cls":
            return x[length.cumsum(0) - length]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        total = scatter(wide, batch, dim_size=num_sequences)
        if self.config.pooling == "padded_mean":
            return (total / (self.config.padded_length or self.max_length)).to(x.dtype)
        return (total / length.clamp(min=1).unsqueeze(1)).to(x.dtype)

    def _infer_shape(self, tokens: Tensor, batch: Tensor | None) -> Tensor:
        """Scores without values, of tokens without values."""
        weight: Any = self.classifier[-1].weight
        config = self.config
        if config.pooling == "none":
            return tokens.new_empty(*tokens.shape, config.num_classes, dtype=weight.dtype)
        if tokens.dim() == 1 and batch is not None:
            raise ValueError(
                "'batch' must be None for tokens without values (their number of sequences is not "
                f"known), got {describe(batch)}"
            )
        sequences = tokens.size(0) if tokens.dim() == 2 else 1
        shape = (sequences // config.num_documents, config.num_classes)
        return tokens.new_empty(shape, dtype=weight.dtype)

    def _count(self, batch: Tensor, given: int | None) -> int:
        """The number of flat sequences; some may be empty only where it is given."""
        found = count_graphs(batch)
        if given is not None:
            check_positive_int("num_sequences", given, max(found, 1))
            return given
        length = torch.bincount(batch, minlength=found)
        if found == 0 or bool((length == 0).any()):
            empty = int((length == 0).nonzero()[0]) if found else 0
            raise ValueError(
                f"'tokens' must hold a token of each sequence, got none of sequence {empty}"
            )
        return found


class SBMTransformer(Transformer):
    r"""A Transformer encoder whose heads attend over graphs sampled from SBMs (Cho et al., NeurIPS
    2022).

    Args:
        vocab_size (int): The number of token types.
        num_classes (int): The number of classes.
        channels (int, optional): Channels of the tokens. (default: :obj:`64`)
        heads (int, optional): The number of heads. (default: :obj:`2`)
        options (SBMOptions, optional): Options of the attention as one object.
        bias_init (str, optional): See :class:`SBMConv`. (default: :obj:`"zeros"`)
        **kwargs (optional): Further fields of :class:`EncoderConfig` (``num_layers``,
            ``max_length``, ``pooling`` and so on), and single options of :class:`SBMOptions`
            (``num_clusters``, ``init_density``, ``num_samples`` and so on).

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        channels: int = 64,
        heads: int = 2,
        *,
        options: SBMOptions | None = None,
        bias_init: str = "zeros",
        **kwargs: Any,
    ) -> None:
        given = {"vocab_size": vocab_size, "num_classes": num_classes, "channels": channels}
        config, rest = EncoderConfig.split({**given, "heads": heads, **kwargs})
        options = SBMOptions.gather(
            type(self).__name__, options, rest, (*EncoderConfig.names(), "options", "bias_init")
        )
        attention = partial(
            SBMAttention,
            channels,
            heads,
            config.head_channels,
            dropout=config.weight_dropout,
            bias_init=bias_init,
            options=options,
        )
        super().__init__(attention=attention, **config.to_dict())

    @classmethod
    def from_config(  # type: ignore[override]
        cls, config: EncoderConfig, options: SBMOptions | None = None, bias_init: str = "zeros"
    ) -> SBMTransformer:
        """The encoder of a configuration."""
        return cls(options=options, bias_init=bias_init, **config.to_dict())


def _rename_blocks(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Reads state dicts from when layers were called blocks."""
    old = f"{prefix}blocks."
    for name in [name for name in state_dict if name.startswith(old)]:
        state_dict[f"{prefix}layers.{name[len(old) :]}"] = state_dict.pop(name)


def __getattr__(name: str) -> object:
    if name == "TransformerBlock":
        warnings.warn(
            "TransformerBlock is now called TransformerLayer (blocks are those of an SBM); the old "
            "name goes in the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return TransformerLayer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
