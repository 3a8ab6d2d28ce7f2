r"""What fastRG prepares before it draws: how many proposals, and tables of blocks and keys.

fastRG (Rohe et al., JMLR 2018; Algorithm 1 of Cho et al., NeurIPS 2022) by rows: query vertex
:math:`i` makes :math:`\mathrm{Poisson}(c_i w_{iv} s_v)` proposals through block :math:`v`,
:math:`s_v = \sum_j z_{jv}`, each a key :math:`j` drawn in proportion to :math:`z_{jv}`; exploration
is one more block to which every key belongs with membership 1. Under the Poisson law
:math:`c_i = 1`. Under the Bernoulli law :math:`c_i = -\log(1 - \bar p_i) / \bar p_i` with a bound
:math:`\bar p_i` of the row's probabilities, and a proposed pair stays with probability
:math:`p_{ij} / (1 - e^{-c_i p_{ij}}) \le 1`, which leaves exactly :math:`p_{ij}`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sbmgraph.kernels.model import EdgeModel, graph_of_nodes

MAX_BOUND = {"bernoulli": 0.9, "poisson": 1.0}
"""Rows whose largest possible edge probability passes this take the dense algorithm: proposals at
rate ``-log(1 - bound) / bound`` grow without limit as the bound nears 1, and a Poisson mean above 1
must be cut."""

SMALLEST_BOUND = 1e-12
"""Below, :math:`c_i` is 1 to float64's rounding."""


class Plan(NamedTuple):
    """fastRG's tables of a model.

    Attributes:
        graph: Graph of each query node, int64 of shape :obj:`[n]`.
        is_dense: Query vertices that take the dense algorithm, boolean of shape :obj:`[n * H]`.
        excess: :math:`c_i`, 0 for those, float64 of shape :obj:`[n * H]`.
        axis: The proposals that a query vertex expects from the blocks up to each, exploration
            last, float64 of shape :obj:`[n * H, K + 1]`: arrivals of a Poisson process of rate 1
            on this axis are proposals, and their place tells their block.
        table: Cumulative memberships of a graph's keys in 2⁻³¹ths of their sum, int32 of shape
            :obj:`[H, K, m]`.
    """

    graph: Tensor
    is_dense: Tensor
    excess: Tensor
    axis: Tensor
    table: Tensor


def plan(model: EdgeModel, law: str, exploration: float) -> Plan:
    """The tables of a model, in torch operations: no wait for the device."""
    graph = graph_of_nodes(model.query_ptr, model.num_queries)
    bound = row_bound(model, graph, exploration).flatten()
    is_dense = bound > MAX_BOUND[law]
    excess = torch.ones_like(bound)
    if law == "bernoulli":
        safe = bound.clamp(SMALLEST_BOUND, MAX_BOUND[law])
        excess = -torch.log1p(-safe) / safe
    excess = excess.masked_fill(is_dense, 0.0)
    mass, table = _key_tables(model)
    mean = model.rate.detach().double() * mass[graph]
    explored = (exploration * model.key_ptr.diff().double())[graph].view(-1, 1, 1)
    mean = torch.cat([mean, explored.expand(-1, model.heads, 1)], -1).flatten(0, 1)
    # A dense row's mean may be infinite, and 0 times that is no number.
    mean = (mean * excess.unsqueeze(1)).masked_fill(is_dense.unsqueeze(1), 0.0)
    return Plan(graph, is_dense, excess, mean.cumsum(1), table)


def row_bound(model: EdgeModel, graph: Tensor, exploration: float) -> Tensor:
    """A bound of the edge probabilities of every query vertex, float64 of shape
    :obj:`[n, H]`."""
    largest = torch.zeros(
        (model.num_graphs, model.heads, model.num_clusters),
        dtype=model.member.dtype,
        device=model.device,
    )
    owner = graph_of_nodes(model.key_ptr, model.num_keys).view(-1, 1, 1).expand_as(model.member)
    largest.scatter_reduce_(0, owner, model.member.detach(), "amax")
    if model.num_graphs == 1:
        bound = torch.einsum("nhk,hk->nh", model.rate.detach(), largest[0])
    else:
        bound = (model.rate.detach() * largest[graph]).sum(-1)
    return bound.double() + exploration


def _key_tables(model: EdgeModel) -> tuple[Tensor, Tensor]:
    """Summed memberships, float64 of shape :obj:`[G, H, K]`, and :attr:`Plan.table`."""
    member = model.member.detach().permute(1, 2, 0)
    cumulative = torch.zeros(
        (*member.shape[:2], model.num_keys + 1), dtype=torch.float64, device=model.device
    )
    torch.cumsum(member, dim=-1, dtype=torch.float64, out=cumulative[..., 1:])
    at_ptr = cumulative[..., model.key_ptr]
    mass = at_ptr.diff(dim=-1)
    share = cumulative[..., 1:]
    if model.num_graphs == 1:
        share.div_(mass.clamp(min=1e-300))
    else:
        owner = graph_of_nodes(model.key_ptr, model.num_keys)
        share.sub_(at_ptr[..., owner]).div_(mass.clamp(min=1e-300)[..., owner])
    table = share.mul_(2.0**31).clamp_(max=2.0**31 - 1).int().contiguous()
    return mass.permute(2, 0, 1), table
