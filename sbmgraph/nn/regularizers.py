"""Differentiable measures of memberships, to weigh in a loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from sbmgraph.checks import describe
from sbmgraph.sbm import SBM


def node_entropy(sbm: SBM) -> Tensor:
    r"""How undecided nodes are: the mean entropy in nats of a node's memberships over the blocks.

    It is

    .. math::
        \frac{1}{n + m} \sum_i H(\bar{\mathbf{y}}_i), \qquad \bar{\mathbf{y}}_i = \mathbf{y}_i /
        \sum_k y_{ik},

    over queries and keys; between 0, where each node has one block, and :math:`\log K`.

    Args:
        sbm (SBM): The model.

    Returns:
        Tensor of shape :obj:`[num_graphs, H]`, differentiable; 0 for a graph without nodes.

    Raises:
        ValueError: If ``sbm`` is not an SBM.
    """
    shares, batch = _shares(sbm)
    return scatter(_entropy(shares), batch, dim_size=sbm.num_graphs, reduce="mean")


def block_entropy(sbm: SBM) -> Tensor:
    r"""How evenly blocks are used: the entropy in nats of the mean of the nodes' memberships, each
    normalized as for :func:`node_entropy`; between 0, where all nodes share one block, and
    :math:`\log K`. To be raised by a loss that keeps blocks from emptying.

    Args:
        sbm (SBM): The model.

    Returns:
        Tensor of shape :obj:`[num_graphs, H]`, differentiable; 0 for a graph without nodes.

    Raises:
        ValueError: If ``sbm`` is not an SBM.
    """
    shares, batch = _shares(sbm)
    return _entropy(scatter(shares, batch, dim_size=sbm.num_graphs, reduce="mean"))


def _shares(sbm: SBM) -> tuple[Tensor, Tensor]:
    """Normalized memberships of queries and keys, and their graphs."""
    if not isinstance(sbm, SBM):
        raise ValueError(f"'sbm' must be an SBM, got {describe(sbm)}")
    parts = torch.cat([sbm.query_membership, sbm.key_membership])
    batches = [
        torch.zeros(x.size(0), dtype=torch.int64, device=x.device) if batch is None else batch
        for x, batch in (
            (sbm.query_membership, sbm.query_batch),
            (sbm.key_membership, sbm.key_batch),
        )
    ]
    total = parts.sum(-1, keepdim=True).clamp(min=torch.finfo(parts.dtype).tiny)
    return parts / total, torch.cat(batches)


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p.clamp(min=torch.finfo(p.dtype).tiny)).sum(-1)
