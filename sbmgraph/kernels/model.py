"""What a sampler draws from: the factors of a batch of stochastic block models."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbmgraph.kernels.words import Words, words_of


class EdgeModel(NamedTuple):
    r"""Edge probabilities by their factors: key :math:`j` of query :math:`i`'s graph has
    :math:`p_{ij} = \min(1, \mathbf{w}_i \mathbf{z}_j^{\top})` in each head.

    Attributes:
        rate: The rates :math:`\mathbf{W} = \mathbf{Y}\mathbf{B}` of the queries, of shape
            :obj:`[n, H, K]`, float32 or float64.
        member: The memberships :math:`\mathbf{Z}` of the keys, of shape :obj:`[m, H, K]`, of the
            same type.
        query_ptr: Where the queries of each graph start, int64 of shape :obj:`[G + 1]`.
        key_ptr: Where the keys of each graph start, int64 of shape :obj:`[G + 1]`.
        words: Where the bits of a sampled graph lie, where the caller knows it.
    """

    rate: Tensor
    member: Tensor
    query_ptr: Tensor
    key_ptr: Tensor
    words: Words | None = None

    def layout(self) -> Words:
        """Where the words of its graphs lie; waits for the device where nobody has said it."""
        if self.words is not None:
            return self.words
        queries, keys = (np.diff(ptr.cpu().numpy()) for ptr in (self.query_ptr, self.key_ptr))
        return words_of(queries, keys, self.heads, self.device)

    @property
    def num_queries(self) -> int:
        """The number :math:`n` of query nodes over all graphs."""
        return self.rate.size(0)

    @property
    def num_keys(self) -> int:
        """The number :math:`m` of key nodes over all graphs."""
        return self.member.size(0)

    @property
    def heads(self) -> int:
        """The number :math:`H` of heads."""
        return self.rate.size(1)

    @property
    def num_clusters(self) -> int:
        """The number :math:`K` of blocks."""
        return self.rate.size(2)

    @property
    def num_graphs(self) -> int:
        """The number :math:`G` of graphs."""
        return self.query_ptr.numel() - 1

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.rate.device


def graph_of_nodes(ptr: Tensor, num_nodes: int) -> Tensor:
    """The graph of each node, int64 of shape :obj:`[num_nodes]`, of offsets ``ptr``."""
    nodes = torch.arange(num_nodes, dtype=torch.int64, device=ptr.device)
    return torch.searchsorted(ptr, nodes, right=True) - 1


def tiny_model(device: torch.device) -> EdgeModel:
    """A model of two queries and three keys, on which a device's kernels are tried."""
    rate = torch.full((2, 1, 1), 0.5, dtype=torch.float32, device=device)
    member = torch.full((3, 1, 1), 0.5, dtype=torch.float32, device=device)
    queries, keys = (torch.tensor([0, size], dtype=torch.int64, device=device) for size in (2, 3))
    return EdgeModel(rate, member, queries, keys)
