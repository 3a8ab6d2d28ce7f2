"""From queries and keys to a stochastic block model."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sbmgraph.checks import check_positive_int, check_range
from sbmgraph.sbm import SBM


class MembershipNetwork(nn.Module):
    r"""Infers each head's SBM from its queries and keys (Section 3.2 of Cho et al., NeurIPS 2022).

    .. math::
        \mathbf{Y} = \sigma(\phi(\mathbf{Q}) \mathbf{C}^{\top} + b), \qquad
        \mathbf{Z} = \sigma(\phi(\mathbf{K}) \mathbf{C}^{\top} + b), \qquad
        \mathbf{B} = \mathrm{softmax}(\mathbf{C} \mathbf{C}^{\top})

    with one two-layer network :math:`\phi` for queries and keys of all heads, cluster embeddings
    :math:`\mathbf{C}` of each head, and the softmax over all :math:`K^2` block pairs. The constant
    :math:`b` sets the density at the start: memberships are near :math:`\sigma(b)` and
    :math:`\mathbf{B}` sums to 1, so the density is near :math:`\sigma(b)^2`.

    Memberships and affinity are computed in at least float32, also under autocast.

    Args:
        channels (int): Channels :math:`d` of a head.
        heads (int): The number :math:`H` of heads.
        num_clusters (int): The number :math:`K` of blocks.
        init_density (float, optional): Expected density at the start, in (0, 1). (default: the
            paper's ¼)
        pe_channels (int, optional): Channels of a positional or structural encoding of the nodes
            that :math:`\phi` sees too. (default: :obj:`0`)

    Shapes:
        - **input:** queries :math:`(n, H, d)`, keys :math:`(m, H, d)`
        - **output:** an :class:`~sbmgraph.SBM`
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        num_clusters: int,
        init_density: float | None = None,
        pe_channels: int = 0,
    ) -> None:
        super().__init__()
        check_positive_int("channels", channels)
        check_positive_int("heads", heads)
        check_positive_int("num_clusters", num_clusters)
        check_positive_int("pe_channels", pe_channels, minimum=0)
        self.channels = channels
        self.heads = heads
        self.num_clusters = num_clusters
        self.init_density = init_density
        self.offset = 0.0
        if init_density is not None:
            check_range("init_density", init_density, 0.0, 1.0, low_open=True, high_open=True)
            membership = math.sqrt(init_density)
            self.offset = math.log(membership / (1.0 - membership))
        self.phi = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )
        self.lin_pe = nn.Linear(pe_channels, heads * channels, bias=False) if pe_channels else None
        self.clusters = nn.Parameter(torch.empty(heads, num_clusters, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all weights anew: :math:`\\phi` as linear layers, the clusters Kaiming-normal."""
        for module in self.phi:
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        if self.lin_pe is not None:
            self.lin_pe.reset_parameters()
        nn.init.normal_(self.clusters, std=math.sqrt(2.0 / self.channels))

    def membership(self, x: Tensor, pe: Tensor | None = None) -> Tensor:
        """Memberships of nodes with head features ``x`` [n, H, d] → [n, H, K] in (0, 1)."""
        if self.lin_pe is not None and pe is not None:
            x = x + self.lin_pe(pe).view_as(x)
        hidden = self.phi(x)
        with torch.autocast(x.device.type, enabled=False):
            hidden, clusters = _at_least_float32(hidden), _at_least_float32(self.clusters)
            logits = torch.einsum("nhd,hkd->nhk", hidden, clusters) + self.offset
            return torch.sigmoid(logits)

    def affinity(self) -> Tensor:
        """The block affinities :math:`\\mathbf{B}` [H, K, K]; each head's sum to 1."""
        with torch.autocast(self.clusters.device.type, enabled=False):
            clusters = _at_least_float32(self.clusters)
            scores = clusters @ clusters.transpose(1, 2)
            return scores.flatten(1).softmax(dim=-1).view_as(scores)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_batch: Tensor | None = None,
        key_batch: Tensor | None = None,
        query_pe: Tensor | None = None,
        key_pe: Tensor | None = None,
    ) -> SBM:
        """The SBM of queries [n, H, d] and keys [m, H, d] with sorted batch vectors."""
        return SBM.unchecked(
            self.membership(query, query_pe),
            self.membership(key, key_pe),
            self.affinity(),
            query_batch,
            key_batch,
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.channels}, heads={self.heads}, "
            f"num_clusters={self.num_clusters})"
        )


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def split_membership(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights of ``model`` outside and inside its membership networks, for two parameter groups
    of an optimizer.

    A tenth of the learning rate for the second keeps heads from thinning out before the task's
    gradient has said which edges are of use.
    """
    networks = (module for module in model.modules() if isinstance(module, MembershipNetwork))
    inside = {weight for network in networks for weight in network.parameters()}
    weights = list(model.parameters())
    return [w for w in weights if w not in inside], [w for w in weights if w in inside]
