"""Transformer encoders on ragged batches, with any attention over flat tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sbmgraph.checks import check_batch, check_choice, check_positive_int, check_range, describe
from sbmgraph.graph import count_graphs, sum_by_graph
from sbmgraph.nn.attention import SBMAttention
from sbmgraph.nn.inputs import flatten_mask

POOLINGS = ("mean", "cls", "none")


class TransformerBlock(nn.Module):
    """A pre-norm block: attention and a feed-forward network, each with a residual connection.

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
        """Runs the block on flat tokens [T, C] with their sorted sequence numbers [T]."""
        attended = self.attention(self.norm_attention(x), batch=batch, generator=generator)
        x = x + self.dropout(attended)
        return x + self.dropout(self.ffn(self.norm_ffn(x)))


class Transformer(nn.Module):
    r"""Token and position embeddings, pre-norm blocks, pooling and a classifier.

    Tokens of all sequences of a batch lie end to end, so padding costs nothing in any part; an
    attention that needs padded input makes its own.

    Args:
        vocab_size (int): The number of token types.
        num_classes (int): The number of classes.
        attention (Callable): Makes one layer's attention; called once a layer. Its modules are
            called as ``attention(x, batch=batch, generator=generator)`` on flat tokens.
        channels (int, optional): Channels of the tokens. (default: :obj:`64`)
        num_layers (int, optional): The number of blocks. (default: :obj:`2`)
        ffn_channels (int, optional): Hidden channels of the feed-forward networks. (default:
            :obj:`128`)
        max_length (int, optional): The largest number of tokens of a sequence. (default:
            :obj:`2048`)
        dropout (float, optional): Dropout probability. (default: :obj:`0.1`)
        pooling (str, optional): :obj:`"mean"` over tokens, :obj:`"cls"` (a token put before each
            sequence), or :obj:`"none"` (a prediction for each token). (default: :obj:`"mean"`)
        num_documents (int, optional): With 2, sequences :math:`2b` and :math:`2b + 1` are one
            item's documents :math:`a, b`, and the classifier sees :math:`[a, b, a * b, a - b]`.
            (default: :obj:`1`)
        embedding_std (float, optional): Standard deviation of the initial embeddings. (default:
            :obj:`1.0`)
        position_std (float, optional): The same for the position embeddings; small values let
            the first steps see what a token is rather than where. (default: :obj:`embedding_std`)
        picture_width (int, optional): Where the tokens are a picture's pixels row by row, the
            pixels of a row: the position embeddings, learned all the same, start as
            :func:`picture_codes` of root mean square :obj:`position_std`, so that neighbours are
            known from the first step. (default: drawn at random)
        classifier_channels (int, optional): Channels of the classifier's hidden layer, which lets
            it see how the tokens pooled go together. (default: no hidden layer for one document,
            :obj:`ffn_channels` for two)

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        attention: Callable[[], nn.Module],
        channels: int = 64,
        num_layers: int = 2,
        ffn_channels: int = 128,
        max_length: int = 2048,
        dropout: float = 0.1,
        pooling: str = "mean",
        num_documents: int = 1,
        embedding_std: float = 1.0,
        position_std: float | None = None,
        picture_width: int | None = None,
        classifier_channels: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in {
            "vocab_size": vocab_size,
            "num_classes": num_classes,
            "channels": channels,
            "num_layers": num_layers,
            "ffn_channels": ffn_channels,
            "max_length": max_length,
        }.items():
            check_positive_int(name, value)
        if classifier_channels is not None:
            check_positive_int("classifier_channels", classifier_channels)
        check_choice("pooling", pooling, POOLINGS)
        check_range("dropout", dropout, 0.0, 1.0, high_open=True)
        if num_documents not in (1, 2):
            raise ValueError(f"'num_documents' must be 1 or 2, got {num_documents!r}")
        if num_documents == 2 and pooling == "none":
            raise ValueError("'pooling' must not be 'none' for two documents, got 'none'")
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.pooling = pooling
        self.num_documents = num_documents
        self.embedding_std = embedding_std
        self.position_std = embedding_std if position_std is None else position_std
        self.picture_width = picture_width
        self.token_embedding = nn.Embedding(vocab_size, channels)
        self.position_embedding = nn.Embedding(max_length, channels)
        self.cls = nn.Parameter(torch.empty(channels)) if pooling == "cls" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(attention(), channels, ffn_channels, dropout)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(channels)
        features = channels if num_documents == 1 else 4 * channels
        if classifier_channels is None and num_documents == 2:
            classifier_channels = ffn_channels
        head: list[nn.Module] = [nn.Linear(features, num_classes)]
        if classifier_channels is not None:
            head = [
                nn.Linear(features, classifier_channels),
                nn.ReLU(),
                nn.Linear(classifier_channels, num_classes),
            ]
        self.classifier = nn.Sequential(*head)
        self.reset_embeddings()

    def reset_embeddings(self) -> None:
        """Draws the embeddings anew."""
        nn.init.normal_(self.token_embedding.weight, std=self.embedding_std)
        nn.init.normal_(self.position_embedding.weight, std=self.position_std)
        if self.picture_width is not None:
            codes = picture_codes(
                self.max_length, self.position_embedding.embedding_dim, self.picture_width
            )
            with torch.no_grad():
                self.position_embedding.weight.copy_(self.position_std * codes)
        if self.cls is not None:
            nn.init.normal_(self.cls, std=self.embedding_std)

    def forward(
        self,
        tokens: Tensor,
        batch: Tensor | None = None,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        position: Tensor | None = None,
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

        Returns:
            Scores of shape :obj:`[B, num_classes]`; without pooling :obj:`[T, num_classes]`, or
            :obj:`[B, N, num_classes]` (zeros at padding) for padded input.

        Raises:
            ValueError: If shapes or dtypes do not fit, a token is not in the vocabulary, or a
                sequence is empty, all padding, or longer than the model.
        """
        if (
            not isinstance(tokens, Tensor)
            or tokens.dtype != torch.int64
            or tokens.dim() not in (1, 2)
        ):
            raise ValueError(
                f"'tokens' must be an int64 tensor of shape [tokens] or [batch, tokens], "
                f"got {describe(tokens)}"
            )
        padded_mask = None
        if tokens.dim() == 2:
            if batch is not None or position is not None:
                name = "batch" if batch is not None else "position"
                raise ValueError(f"'{name}' must be None for padded input; use 'mask'")
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
                raise ValueError("'mask' must be None for flat input; use 'batch'")
            if batch is None:
                batch = torch.zeros_like(tokens)
            check_batch("batch", batch, tokens.numel(), tokens.device)
            num_sequences = count_graphs(batch)
        features, batch = self.encode(tokens, batch, num_sequences, generator, position)
        if self.pooling == "none":
            scores = self.classifier(features)
            if padded_mask is None:
                return scores
            out = scores.new_zeros(*padded_mask.shape, scores.size(-1))
            return out.masked_scatter(padded_mask.unsqueeze(-1), scores)
        pooled = self.pool(features, batch, num_sequences)
        if self.num_documents == 2:
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
        self._check_tokens(tokens, length)
        if position is None:
            start = length.cumsum(0) - length
            position = torch.arange(tokens.numel(), device=tokens.device) - start[batch]
        else:
            self._check_positions(position, tokens)
        x = self.token_embedding(tokens) + self.position_embedding(position)
        if self.cls is not None:
            order = torch.cat([torch.arange(num_sequences, device=batch.device), batch])
            batch, order = torch.sort(order, stable=True)
            x = torch.cat([self.cls.expand(num_sequences, -1), x])[order]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, batch, generator)
        return self.norm(x), batch

    def pool(self, x: Tensor, batch: Tensor, num_sequences: int) -> Tensor:
        """One vector a sequence, [B, C], of token features [T, C]."""
        length = torch.bincount(batch, minlength=num_sequences)
        if self.pooling == "cls":
            return x[length.cumsum(0) - length]
        return sum_by_graph(x, batch, num_sequences) / length.unsqueeze(1)

    def _check_positions(self, position: Tensor, tokens: Tensor) -> None:
        if position.shape != tokens.shape or position.dtype != torch.int64:
            raise ValueError(
                f"'position' must be an int64 vector of {tokens.numel()} positions, "
                f"got {describe(position)}"
            )
        low, high = int(position.min()), int(position.max())
        if low < 0 or high >= self.max_length:
            raise ValueError(
                f"'position' must lie in [0, {self.max_length}), got values from {low} to {high}"
            )

    def _check_tokens(self, tokens: Tensor, length: Tensor) -> None:
        if length.numel() == 0 or bool((length == 0).any()):
            empty = int((length == 0).nonzero()[0]) if length.numel() else 0
            raise ValueError(
                f"'tokens' must hold a token of each sequence, got none of sequence {empty}"
            )
        longest = int(length.max())
        if longest > self.max_length:
            raise ValueError(
                f"'tokens' must hold sequences of at most 'max_length' = {self.max_length} tokens, "
                f"got one of {longest}"
            )
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"'tokens' must lie in [0, {self.vocab_size}), got values from {low} to {high}"
            )


def picture_codes(num_pixels: int, channels: int, picture_width: int) -> Tensor:
    r"""Sinusoidal codes of the pixels of a picture, row by row.

    A quarter of the channels each holds :math:`\sqrt{2} \sin \omega_f y`,
    :math:`\sqrt{2} \sin \omega_f x`, and the same with cosines, for row :math:`y`, column
    :math:`x` and the frequencies :math:`\omega_f = w^{-f/F}`, :math:`f = 0, \ldots, F - 1`, with
    :math:`F = C / 4`. These are the codes of Vaswani et al. (NeurIPS 2017, Section 3.5) along both
    axes, with the width :math:`w` in place of 10000. The product of two pixels' codes is a function
    of their displacement.

    Args:
        num_pixels (int): The number of pixels :math:`n`; the last row may be incomplete.
        channels (int): Channels :math:`C`, a multiple of 4.
        picture_width (int): Pixels :math:`w` of a row.

    Returns:
        Codes of shape :obj:`[n, C]`; each has a mean square of 1.

    Raises:
        ValueError: If a number is not positive, or :obj:`channels` not a multiple of 4.
    """
    check_positive_int("num_pixels", num_pixels)
    check_positive_int("channels", channels)
    check_positive_int("picture_width", picture_width)
    if channels % 4:
        raise ValueError(
            f"'channels' must be a multiple of 4 to hold 'picture_width' codes, got {channels}"
        )
    frequencies = channels // 4
    exponent = -torch.arange(frequencies, dtype=torch.float64) / frequencies
    pixel = torch.arange(num_pixels)
    place = torch.stack([pixel.div(picture_width, rounding_mode="floor"), pixel % picture_width], 1)
    angle = (place.unsqueeze(2) * float(picture_width) ** exponent).flatten(1)
    return (math.sqrt(2.0) * torch.cat([angle.sin(), angle.cos()], dim=1)).float()


class SBMTransformer(Transformer):
    r"""A Transformer encoder whose heads attend over graphs sampled from SBMs (Cho et al., NeurIPS
    2022).

    Args:
        vocab_size (int): The number of token types.
        num_classes (int): The number of classes.
        channels (int, optional): Channels of the tokens. (default: :obj:`64`)
        heads (int, optional): The number of heads. (default: :obj:`2`)
        num_layers (int, optional): The number of blocks. (default: :obj:`2`)
        ffn_channels (int, optional): Hidden channels of the feed-forward networks. (default:
            :obj:`128`)
        max_length (int, optional): The largest number of tokens of a sequence. (default:
            :obj:`2048`)
        dropout (float, optional): Dropout probability. (default: :obj:`0.1`)
        pooling (str, optional): See :class:`Transformer`. (default: :obj:`"mean"`)
        num_documents (int, optional): See :class:`Transformer`. (default: :obj:`1`)
        embedding_std (float, optional): See :class:`Transformer`. (default: :obj:`1.0`)
        position_std (float, optional): See :class:`Transformer`. (default: :obj:`embedding_std`)
        attention_dropout (float, optional): Dropout probability of attention weights. (default:
            :obj:`dropout`)
        picture_width (int, optional): See :class:`Transformer`. (default: :obj:`None`)
        classifier_channels (int, optional): See :class:`Transformer`. (default: :obj:`None`)
        **kwargs (optional): Arguments of :class:`SBMConv`: ``num_clusters``, ``exploration``,
            ``init_density``, ``num_samples`` and so on, and ``head_channels``.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        channels: int = 64,
        heads: int = 2,
        num_layers: int = 2,
        ffn_channels: int = 128,
        max_length: int = 2048,
        dropout: float = 0.1,
        pooling: str = "mean",
        num_documents: int = 1,
        embedding_std: float = 1.0,
        position_std: float | None = None,
        attention_dropout: float | None = None,
        picture_width: int | None = None,
        classifier_channels: int | None = None,
        **kwargs: Any,
    ) -> None:
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        super().__init__(
            vocab_size,
            num_classes,
            partial(SBMAttention, channels, heads, dropout=attention_dropout, **kwargs),
            channels,
            num_layers,
            ffn_channels,
            max_length,
            dropout,
            pooling,
            num_documents,
            embedding_std,
            position_std,
            picture_width,
            classifier_channels,
        )
