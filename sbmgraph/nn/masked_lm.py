"""The head that names hidden tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskedLMHead(nn.Module):
    r"""Scores of every token type from token features, by a dense layer and the token embeddings
    themselves (Devlin et al., NAACL 2019).

    .. math::
        \mathbf{s} = \mathbf{E} \, \mathrm{LayerNorm}(\mathrm{GELU}(\mathbf{W} \mathbf{x} +
        \mathbf{b})) + \mathbf{c}

    Give it the features of hidden tokens alone: with tens of thousands of types, the scores of all
    tokens cost more than the encoder.

    Args:
        embedding (torch.nn.Embedding): Token embeddings :math:`\mathbf{E}` of shape
            :obj:`[vocab_size, C]`, shared.

    Shapes:
        - **input:** :math:`(*, C)`
        - **output:** :math:`(*, V)`

    Raises:
        ValueError: If :obj:`embedding` is no embedding.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        if not isinstance(embedding, nn.Embedding):
            raise ValueError(
                f"'embedding' must be a torch.nn.Embedding, got {type(embedding).__name__}"
            )
        channels = embedding.embedding_dim
        self.lin = nn.Linear(channels, channels)
        self.activation = nn.GELU()
        self.norm = nn.LayerNorm(channels)
        self.weight = embedding.weight
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings, dtype=self.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Scores :obj:`[..., V]` of features :obj:`[..., C]`."""
        return nn.functional.linear(self.norm(self.activation(self.lin(x))), self.weight, self.bias)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.weight.size(1)}, vocab_size={self.weight.size(0)})"
