"""The configuration of a Transformer encoder, checked once and shared by models and training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sbmgraph.checks import check_choice, check_positive_int, check_range

POOLINGS = ("mean", "padded_mean", "cls", "none")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    r"""What an encoder is made of, apart from the kind of its attention.

    Args:
        vocab_size (int): The number of token types.
        num_classes (int): The number of classes.
        channels (int): Channels of the tokens.
        heads (int): The number of attention heads.
        head_channels (int, optional): Channels of each head. (default: :obj:`channels // heads`)
        num_layers (int): The number of layers.
        ffn_channels (int): Hidden channels of the feed-forward networks.
        max_length (int): The largest number of tokens of a sequence.
        dropout (float): Dropout probability.
        attention_dropout (float, optional): Dropout probability of attention weights, where the
            attention has weights. (default: :obj:`dropout`)
        pooling (str): :obj:`"mean"` over tokens, :obj:`"padded_mean"` (their sum divided by
            :obj:`padded_length`, as in the authors' program), :obj:`"cls"` (a token put before each
            sequence), or :obj:`"none"` (a prediction for each token).
        padded_length (int, optional): What :obj:`"padded_mean"` divides by. (default:
            :obj:`max_length`)
        num_documents (int): With 2, sequences :math:`2b` and :math:`2b + 1` are one item's
            documents :math:`a, b`, and the classifier sees :math:`[a, b, a * b, a - b]`.
        embedding_std (float): Standard deviation of the initial embeddings.
        position_std (float, optional): The same for the position embeddings; small values let
            the first steps see what a token is rather than where. (default: :obj:`embedding_std`)
        picture_width (int, optional): Where the tokens are a picture's pixels row by row, the
            pixels of a row: the position embeddings, learned all the same, start as
            :func:`~sbmgraph.nn.positions.picture_codes` of root mean square :obj:`position_std`,
            so that neighbours are known from the first step. (default: drawn at random)
        classifier_channels (int, optional): Channels of the classifier's hidden layer, which lets
            it see how the tokens pooled go together. (default: no hidden layer for one document,
            :obj:`ffn_channels` for two)

    Raises:
        ValueError: If a value is unknown, out of range or at odds with another.
    """

    vocab_size: int
    num_classes: int
    channels: int = 64
    heads: int = 2
    head_channels: int | None = None
    num_layers: int = 2
    ffn_channels: int = 128
    max_length: int = 2048
    dropout: float = 0.1
    attention_dropout: float | None = None
    pooling: str = "mean"
    padded_length: int | None = None
    num_documents: int = 1
    embedding_std: float = 1.0
    position_std: float | None = None
    picture_width: int | None = None
    classifier_channels: int | None = None

    def __post_init__(self) -> None:
        for name in (
            *("vocab_size", "num_classes", "channels", "heads", "num_layers", "ffn_channels"),
            "max_length",
        ):
            check_positive_int(name, getattr(self, name))
        for name in ("head_channels", "padded_length", "picture_width", "classifier_channels"):
            if getattr(self, name) is not None:
                check_positive_int(name, getattr(self, name))
        check_range("dropout", self.dropout, 0.0, 1.0, high_open=True)
        if self.attention_dropout is not None:
            check_range("attention_dropout", self.attention_dropout, 0.0, 1.0, high_open=True)
        check_range("embedding_std", self.embedding_std, 0.0, float("inf"), high_open=True)
        if self.position_std is not None:
            check_range("position_std", self.position_std, 0.0, float("inf"), high_open=True)
        check_choice("pooling", self.pooling, POOLINGS)
        if self.padded_length is not None and self.pooling != "padded_mean":
            raise ValueError(
                f"'padded_length' must be None unless 'pooling' is 'padded_mean', "
                f"got {self.padded_length}"
            )
        documents = self.num_documents
        if not isinstance(documents, int) or isinstance(documents, bool) or documents not in (1, 2):
            raise ValueError(f"'num_documents' must be 1 or 2, got {self.num_documents!r}")
        if self.num_documents == 2 and self.pooling == "none":
            raise ValueError("'pooling' must not be 'none' for two documents, got 'none'")

    @property
    def channels_per_head(self) -> int:
        """Channels of each head.

        Raises:
            ValueError: If :attr:`heads` does not divide :attr:`channels`, and nothing else is said.
        """
        return split_channels(self.channels, self.heads, self.head_channels)

    @property
    def weight_dropout(self) -> float:
        """Dropout probability of attention weights."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def hidden_classifier_channels(self) -> int | None:
        """Channels of the classifier's hidden layer, if it has one."""
        if self.classifier_channels is None and self.num_documents == 2:
            return self.ffn_channels
        return self.classifier_channels

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all fields."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def split(cls, given: Mapping[str, Any]) -> tuple[EncoderConfig, dict[str, Any]]:
        """A configuration from keyword arguments, and those that are none of its fields.

        Raises:
            ValueError: If a value is missing or wrong.
        """
        mine = {name: value for name, value in given.items() if name in cls.names()}
        for name in ("vocab_size", "num_classes"):
            if name not in mine:
                raise ValueError(f"'{name}' must be a positive integer, got nothing")
        rest = {name: value for name, value in given.items() if name not in mine}
        return cls(**mine), rest

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as plain values."""
        return asdict(self)


def split_channels(channels: int, heads: int, head_channels: int | None) -> int:
    """Channels of each of ``heads`` heads: ``head_channels``, or an equal share of ``channels``.

    Raises:
        ValueError: If a number is not positive, or there is no equal share.
    """
    check_positive_int("channels", channels)
    check_positive_int("heads", heads)
    if head_channels is not None:
        check_positive_int("head_channels", head_channels)
        return head_channels
    if channels % heads:
        raise ValueError(
            f"'channels' must be a multiple of 'heads' = {heads} unless 'head_channels' is "
            f"given, got {channels}"
        )
    return channels // heads
