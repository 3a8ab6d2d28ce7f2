"""From queries and keys to a stochastic block model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sbmgraph.checks import (
    check_floating,
    check_positive_int,
    check_range,
    check_same,
    check_tensor,
    check_weight_dtype,
    describe,
)
from sbmgraph.nn.options import SBMOptions
from sbmgraph.products import head_product
from sbmgraph.sbm import SBM

DEFAULT_DENSITY = 0.25
"""Expected density at the start where none is asked for: the paper's."""

REFERENCE_NODES = 256
"""Standard normal queries and keys that the density of a new network is set by."""


class MembershipNetwork(nn.Module):
    r"""Infers each head's SBM from its queries and keys.

    One two-layer network :math:`\phi` serves queries and keys of all heads, and every head has
    cluster embeddings :math:`\mathbf{C}`. With :obj:`membership="sigmoid"` (Section 3.2 of Cho et
    al., NeurIPS 2022)

    .. math::
        \mathbf{Y} = \sigma(\tau \phi(\mathbf{Q}) \mathbf{C}^{\top} + b), \qquad
        \mathbf{Z} = \sigma(\tau \phi(\mathbf{K}) \mathbf{C}^{\top} + b), \qquad
        \mathbf{B} = \mathrm{softmax}(\mathbf{C} \mathbf{C}^{\top})

    with a softmax over all :math:`K^2` block pairs, :math:`\tau = 1` and a constant :math:`b` for
    the density at the start: memberships are near :math:`\sigma(b)` and :math:`\mathbf{B}` sums to
    1, so the density is near :math:`\sigma(b)^2`. With :obj:`membership="softmax"`, the
    mixed-membership SBM of Airoldi et al. (JMLR 2008),

    .. math::
        \mathbf{Y} = \mathrm{softmax}(\tau \phi(\mathbf{Q}) \mathbf{C}^{\top}), \qquad
        \mathbf{Z} = \mathrm{softmax}(\tau \phi(\mathbf{K}) \mathbf{C}^{\top}), \qquad
        \mathbf{B} = \sigma(\mathbf{C} \mathbf{C}^{\top} + b),

    where every head has its own :math:`b`, kept in the state dict: the one that gives, for the
    weights drawn and standard normal queries and keys, the expected density asked for.

    Memberships and affinity are computed in at least float32, also under autocast.

    Args:
        channels (int): Channels :math:`d` of a head.
        heads (int): The number :math:`H` of heads.
        num_clusters (int, optional): The number :math:`K` of blocks. (default: :obj:`128`)
        pe_channels (int, optional): Channels of a positional or structural encoding of the nodes
            that :math:`\phi` sees too. (default: :obj:`0`)
        options (SBMOptions, optional): Options as one object.
        **kwargs (optional): Single options, see :class:`SBMOptions`; those of sampling and
            attention are not read here.

    Shapes:
        - **input:** queries :math:`(n, H, d)`, keys :math:`(m, H, d)`
        - **output:** an :class:`~sbmgraph.SBM`

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    affinity_offset: Tensor | None

    def __init__(
        self,
        channels: int,
        heads: int,
        num_clusters: int | None = None,
        *,
        pe_channels: int = 0,
        options: SBMOptions | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        options = SBMOptions.gather(
            type(self).__name__,
            options,
            {"num_clusters": num_clusters, **kwargs},
            ("channels", "heads", "pe_channels"),
        )
        check_positive_int("channels", channels)
        check_positive_int("heads", heads)
        check_positive_int("pe_channels", pe_channels, minimum=0)
        self.channels = channels
        self.heads = heads
        self.options = options
        self.offset = 0.0
        self.phi = _mlp(channels)
        self.phi_key = None if options.shared_membership else _mlp(channels)
        self.lin_pe = nn.Linear(pe_channels, heads * channels, bias=False) if pe_channels else None
        clusters = options.num_clusters
        self.clusters = nn.Parameter(torch.empty(heads, clusters, channels))
        free = options.affinity == "free"
        self.affinity_logits = (
            nn.Parameter(torch.empty(heads, clusters, clusters)) if free else None
        )
        self.log_temperature = (
            nn.Parameter(torch.empty(heads)) if options.learn_temperature else None
        )
        self.register_buffer("affinity_offset", torch.zeros(heads) if self._simplex else None)
        self.reset_parameters()

    @property
    def num_clusters(self) -> int:
        """The number :math:`K` of blocks."""
        return self.options.num_clusters

    @property
    def _simplex(self) -> bool:
        return self.options.membership == "softmax"

    def reset_parameters(self) -> None:
        """Draws all weights anew: :math:`\\phi` as linear layers, the clusters normal; and sets the
        density at the start."""
        for network in (self.phi, self.phi_key):
            for module in network or ():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
        if self.lin_pe is not None:
            self.lin_pe.reset_parameters()
        variance = 2.0 / self.channels
        if self.options.cluster_init == "authors":
            variance /= self.num_clusters
        nn.init.normal_(self.clusters, std=math.sqrt(variance))
        with torch.no_grad():
            if self.affinity_logits is not None:
                self.affinity_logits.copy_(self.clusters @ self.clusters.transpose(1, 2))
            if self.log_temperature is not None:
                self.log_temperature.fill_(math.log(self.options.membership_temperature))
        density = self.options.init_density
        if self._simplex or density not in (None, 1):
            self.set_density(DEFAULT_DENSITY if density in (None, 1) else density)

    @torch.no_grad()
    def set_density(
        self, density: float, query: Tensor | None = None, key: Tensor | None = None
    ) -> None:
        r"""Sets the constant :math:`b`, so that the expected density becomes ``density``.

        Args:
            density (float): The expected density, in (0, 1).
            query (Tensor, optional): Queries of shape :obj:`[n, H, d]` that it shall hold for.
                (default: what is typical of a new network)
            key (Tensor, optional): Keys of shape :obj:`[m, H, d]`, likewise.

        Raises:
            ValueError: If ``density`` is out of range, or one of ``query`` and ``key`` is missing.
        """
        check_range("density", density, 0.0, 1.0, low_open=True, high_open=True)
        if (query is None) != (key is None):
            raise ValueError("'query' and 'key' must be given together, got one of them")
        if self.clusters.is_meta:
            return
        if query is None or key is None:
            if not self._simplex:
                self.offset = _logit(math.sqrt(density))
                return
            generator = torch.Generator().manual_seed(0)
            shape = (2, REFERENCE_NODES, self.heads, self.channels)
            nodes = torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
            query, key = nodes.to(self.clusters)
        if self.affinity_offset is not None:
            mean_query = self.membership(query).mean(0).double()
            mean_key = self.membership(key, of_keys=True).mean(0).double()
            weight = mean_query.unsqueeze(-1) * mean_key.unsqueeze(-2)
            logits = self._affinity_scores().double()
            self.affinity_offset.copy_(
                _solve(
                    lambda b: (weight * torch.sigmoid(logits + b.view(-1, 1, 1))).sum((1, 2)),
                    density,
                    logits.new_empty(self.heads),
                )
            )
            return
        of_query, of_key = self._logits(self.phi(query)), self._logits(self._key_network(key))
        affinity = self.affinity()

        def expected(b: Tensor) -> Tensor:
            mean_query = torch.sigmoid(of_query - self.offset + b).mean(0)
            mean_key = torch.sigmoid(of_key - self.offset + b).mean(0)
            return torch.einsum("hk,hkl,hl->h", mean_query, affinity, mean_key).mean().double()

        place = torch.empty((), dtype=torch.float64, device=affinity.device)
        self.offset = float(_solve(expected, density, place))

    def membership(self, x: Tensor, pe: Tensor | None = None, of_keys: bool = False) -> Tensor:
        """Memberships of nodes with head features ``x`` [n, H, d] → [n, H, K] in (0, 1), as
        queries or as keys."""
        if self.lin_pe is not None and pe is not None:
            x = x + self.lin_pe(pe).view_as(x)
        network = self._key_network if of_keys else self.phi
        return self._memberships(network(x))

    def affinity(self) -> Tensor:
        """The block affinities :math:`\\mathbf{B}` [H, K, K]: with ``"sigmoid"`` each head's sum
        to 1, with ``"softmax"`` each lies in (0, 1)."""
        with torch.autocast(self.clusters.device.type, enabled=False):
            scores = self._affinity_scores()
            if self.affinity_offset is not None:
                return torch.sigmoid(scores + self.affinity_offset.to(scores.dtype).view(-1, 1, 1))
            return scores.flatten(1).softmax(dim=-1).view_as(scores)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_batch: Tensor | None = None,
        key_batch: Tensor | None = None,
        query_pe: Tensor | None = None,
        key_pe: Tensor | None = None,
        num_graphs: int | None = None,
    ) -> SBM:
        """The SBM of queries [n, H, d] and keys [m, H, d] with sorted batch vectors, which are not
        looked at."""
        for name, value in (("query", query), ("key", key)):
            check_tensor(name, value, 3, f"[nodes, {self.heads}, {self.channels}]")
            check_floating(name, value)
            if value.shape[1:] != (self.heads, self.channels):
                raise ValueError(
                    f"'{name}' must have shape [nodes, {self.heads}, {self.channels}], "
                    f"got {describe(value)}"
                )
            check_weight_dtype(name, value, self.clusters)
            check_same("device", **{name: value, "weight": self.clusters})
        if self.phi_key is None and self.lin_pe is None:
            hidden = self.phi(torch.cat([query, key]))
            of_query, of_key = hidden.split([query.size(0), key.size(0)])
            members = self._memberships(of_query), self._memberships(of_key)
        else:
            members = self.membership(query, query_pe), self.membership(key, key_pe, of_keys=True)
        return SBM.unchecked(
            members[0],
            members[1],
            self.affinity(),
            query_batch,
            key_batch,
            num_graphs,
        )

    @property
    def _key_network(self) -> nn.Sequential:
        return self.phi if self.phi_key is None else self.phi_key

    def _memberships(self, hidden: Tensor) -> Tensor:
        logits = self._logits(hidden)
        return logits.softmax(dim=-1) if self._simplex else torch.sigmoid(logits)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Of :math:`\\phi`'s output [n, H, d]: [n, H, K], which lie head by head."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden, clusters = _at_least_float32(hidden), _at_least_float32(self.clusters)
            logits = head_product(hidden, clusters.transpose(1, 2))
            if self.log_temperature is not None:
                logits = logits * _at_least_float32(self.log_temperature).exp().unsqueeze(-1)
            elif self.options.membership_temperature != 1.0:
                logits = logits * self.options.membership_temperature
            return logits if self._simplex else logits + self.offset

    def _affinity_scores(self) -> Tensor:
        if self.affinity_logits is not None:
            return _at_least_float32(self.affinity_logits)
        clusters = _at_least_float32(self.clusters)
        return torch.bmm(clusters, clusters.transpose(1, 2))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.channels}, heads={self.heads}, "
            f"num_clusters={self.num_clusters}, membership={self.options.membership})"
        )


def _mlp(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _logit(p: float) -> float:
    return math.log(p / (1.0 - p))


def _solve(density_at: Any, target: float, like: Tensor) -> Tensor:
    """Where the increasing function ``density_at`` takes the value ``target``, by bisection; one
    answer for each entry of ``like``."""
    low, high = torch.full_like(like, -64.0), torch.full_like(like, 64.0)
    for _ in range(44):
        middle = (low + high) / 2
        above = density_at(middle) > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


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
