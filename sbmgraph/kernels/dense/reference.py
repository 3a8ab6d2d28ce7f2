r"""The dense algorithm in plain torch: any device, readable, the yardstick.

Every pair of a query vertex :math:`i` and a key :math:`j` of its graph has the uniform number
:math:`u_{ij}` of its own (:mod:`sbmgraph.kernels.random`) and is an edge where
:math:`u_{ij} < p_{ij}`, :math:`p_{ij} = \min(1, \mathbf{w}_i \mathbf{z}_j^{\top} + \delta)`, under
the Bernoulli law, and where :math:`u_{ij} < 1 - e^{-p_{ij}}` under the Poisson law.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sbmgraph.kernels import random
from sbmgraph.kernels.bits import Bits, empty_bits
from sbmgraph.kernels.bits.layout import WORD_BITS, words_per_row
from sbmgraph.kernels.model import EdgeModel, graph_of_nodes

TILE = 2**22
"""Pairs whose probabilities exist at once."""


def sample(model: EdgeModel, law: str, exploration: float, seed: int) -> Bits:
    """Compares the probability of every pair with a uniform number.

    Args:
        model (EdgeModel): The edge probabilities.
        law (str): ``"bernoulli"`` or ``"poisson"``.
        exploration (float): :math:`\\delta`, added to every probability.
        seed (int): The key of the random numbers, in [0, 2⁶³).
    """
    bits = empty_bits(model.query_ptr, model.key_ptr, model.heads, zero=False)
    nodes = torch.arange(model.num_queries, dtype=torch.int64, device=model.device)
    parts = sample_nodes(model, nodes, law, exploration, seed)
    return bits._replace(words=torch.cat([bits.words[:0], *parts]))


def sample_nodes(
    model: EdgeModel, nodes: Tensor, law: str, exploration: float, seed: int
) -> list[Tensor]:
    """The words of some queries and all their heads, one query after the other.

    Args:
        model (EdgeModel): The edge probabilities.
        nodes (Tensor): Query nodes, ascending, int64.
        law (str): As in :func:`sample`.
        exploration (float): As in :func:`sample`.
        seed (int): As in :func:`sample`.
    """
    graph = graph_of_nodes(model.query_ptr, model.num_queries)[nodes]
    width = words_per_row(model.key_ptr)
    most = int(width.max()) if width.numel() else 0
    step = max(TILE // max(most * model.heads * WORD_BITS, 1), 1)
    parts = []
    for start in range(0, nodes.numel(), step):
        mine = nodes[start : start + step]
        prob = _padded_probabilities(model, mine, graph[start : start + step], exploration)
        if law == "poisson":
            prob = -torch.expm1(-prob)
        bits = _numbers(model, mine, graph[start : start + step], width, seed)
        edge = random.uniform(bits) < prob
        shift = torch.arange(WORD_BITS, dtype=torch.int64, device=edge.device)
        parts.append((edge.long() << shift).sum(-1).int())
    return parts


def _padded_probabilities(
    model: EdgeModel, nodes: Tensor, graph: Tensor, exploration: float
) -> Tensor:
    """Probabilities [words, 32] of queries ``nodes``; 0 behind a row's last key."""
    found = [model.rate.new_zeros(0, WORD_BITS)]
    edges = torch.searchsorted(
        graph, torch.arange(model.num_graphs + 1, dtype=torch.int64, device=graph.device)
    ).tolist()
    key_ptr = model.key_ptr.tolist()
    for g in range(model.num_graphs):
        low, high = key_ptr[g : g + 2]
        if edges[g] == edges[g + 1] or low == high:
            continue
        rate = model.rate.detach()[nodes[edges[g] : edges[g + 1]]].transpose(0, 1)
        member = model.member.detach()[low:high].permute(1, 2, 0)
        prob = (rate @ member + exploration).clamp(max=1).transpose(0, 1)
        prob = torch.nn.functional.pad(prob, (0, -(high - low) % WORD_BITS))
        found.append(prob.reshape(-1, WORD_BITS))
    return torch.cat(found)


def _numbers(model: EdgeModel, nodes: Tensor, graph: Tensor, width: Tensor, seed: int) -> Tensor:
    """The 31-bit integers [words, 32] of the pairs of queries ``nodes``."""
    heads = torch.arange(model.heads, dtype=torch.int64, device=nodes.device)
    first = (nodes - model.query_ptr[graph]) * model.heads
    vertex = (first.unsqueeze(-1) + heads).flatten()
    graph = graph.repeat_interleave(model.heads)
    words = width[graph]
    row = torch.repeat_interleave(words)
    place = torch.arange(row.numel(), dtype=torch.int64, device=row.device)
    place = place - (words.cumsum(0) - words)[row]
    eight = torch.arange(WORD_BITS // 4, dtype=torch.int64, device=row.device)
    four = place.unsqueeze(-1) * (WORD_BITS // 4) + eight
    numbers = random.random_bits(
        seed, vertex[row].unsqueeze(-1), graph[row].unsqueeze(-1), four, random.DENSE
    )
    return torch.stack(numbers, dim=-1).flatten(1)
