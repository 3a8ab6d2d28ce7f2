"""The mixed-membership stochastic block model of a batch of attention heads.

A head's SBM gives every (query, key) pair of a graph the edge probability
:math:`p_{ij} = y_i B z_j^\\top` (Cho et al., NeurIPS 2022, Section 3.2). It is held by its factors;
no n×m matrix is ever formed here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sbmgraph.checks import check_floating, check_range, check_same, check_tensor, describe
from sbmgraph.nodes import Nodes
from sbmgraph.products import head_product


class SBM:
    r"""Mixed-membership stochastic block models of :math:`H` heads over a batch of graphs.

    .. math::
        p_{ij} = \min(1,\ \mathbf{y}_i\, \mathbf{B}\, \mathbf{z}_j^{\top})

    is the probability of the edge from key :math:`j` to query :math:`i`; pairs of different graphs
    have none.

    Args:
        query_membership (Tensor): :math:`\mathbf{Y}`, how strongly each query belongs to each
            block, non-negative, of shape :obj:`[n, H, K]`.
        key_membership (Tensor): :math:`\mathbf{Z}`, likewise for keys, of shape :obj:`[m, H, K]`.
        affinity (Tensor): :math:`\mathbf{B}`, non-negative, rows are query blocks and columns key
            blocks, of shape :obj:`[H, K, K]`.
        query_batch (Tensor, optional): Graph of each query, sorted int64 of shape :obj:`[n]`.
            (default: one graph)
        key_batch (Tensor, optional): Graph of each key, sorted int64 of shape :obj:`[m]`.

    Examples:
        Two blocks; queries of the first attend to keys of the second, half of the time:

        >>> import torch
        >>> from sbmgraph import SBM
        >>> member = torch.eye(2)[[0, 0, 1]].unsqueeze(1)  # [3 tokens, 1 head, 2 blocks]
        >>> sbm = SBM(member, member, torch.tensor([[[0.0, 0.5], [0.0, 0.0]]]))
        >>> sbm
        SBM(num_queries=3, num_keys=3, heads=1, num_clusters=2, num_graphs=1)
        >>> sbm.expected_edges()  # two queries, one key
        tensor([[1.]])

    Raises:
        ValueError: If shapes, dtypes or devices do not fit together, a factor is negative or not
            finite, or a batch vector is not sorted.
    """

    def __init__(
        self,
        query_membership: Tensor,
        key_membership: Tensor,
        affinity: Tensor,
        query_batch: Tensor | None = None,
        key_batch: Tensor | None = None,
    ) -> None:
        factors = {
            "query_membership": query_membership,
            "key_membership": key_membership,
            "affinity": affinity,
        }
        shapes = (
            "[num_queries, heads, num_clusters]",
            "[num_keys, heads, num_clusters]",
            "[heads, num_clusters, num_clusters]",
        )
        for (name, value), shape in zip(factors.items(), shapes, strict=True):
            check_tensor(name, value, 3, shape)
            check_floating(name, value)
        heads, clusters = query_membership.shape[1:]
        if key_membership.shape[1:] != query_membership.shape[1:]:
            raise ValueError(
                f"'key_membership' must have shape [num_keys, {heads}, {clusters}] like "
                f"'query_membership', got {describe(key_membership)}"
            )
        if affinity.shape != (heads, clusters, clusters):
            raise ValueError(
                f"'affinity' must have shape [{heads}, {clusters}, {clusters}], "
                f"got {describe(affinity)}"
            )
        if clusters == 0:
            raise ValueError(f"'affinity' must have at least one block, got {describe(affinity)}")
        check_same("device", **factors)
        check_same("dtype", **factors)
        for name, value in factors.items():
            if value.numel() == 0:
                continue
            least, most = torch.stack(torch.aminmax(value.detach())).tolist()
            if not (math.isfinite(least) and math.isfinite(most)):
                raise ValueError(f"'{name}' must be finite, got NaN or infinite entries")
            if least < 0:
                raise ValueError(f"'{name}' must be non-negative, got a minimum of {least:g}")
        nodes = Nodes.checked(
            query_membership.size(0),
            key_membership.size(0),
            heads,
            query_batch,
            key_batch,
            affinity.device,
        )
        self._assign(query_membership, key_membership, affinity, nodes)

    @classmethod
    def unchecked(
        cls,
        query_membership: Tensor,
        key_membership: Tensor,
        affinity: Tensor,
        query_batch: Tensor | None = None,
        key_batch: Tensor | None = None,
        num_graphs: int | None = None,
    ) -> SBM:
        """The constructor without its checks, for factors that are right by construction."""
        nodes = Nodes(
            query_membership.size(0),
            key_membership.size(0),
            affinity.size(0),
            query_batch,
            key_batch,
            num_graphs,
            affinity.device,
        )
        return cls.over(nodes, query_membership, key_membership, affinity)

    @classmethod
    def over(
        cls, nodes: Nodes, query_membership: Tensor, key_membership: Tensor, affinity: Tensor
    ) -> SBM:
        """A model over given nodes, without checks."""
        out = cls.__new__(cls)
        out._assign(query_membership, key_membership, affinity, nodes)
        return out

    def _assign(
        self, query_membership: Tensor, key_membership: Tensor, affinity: Tensor, nodes: Nodes
    ) -> None:
        low = query_membership.dtype in (torch.float16, torch.bfloat16)
        self.query_membership = query_membership.float() if low else query_membership
        self.key_membership = key_membership.float() if low else key_membership
        self.affinity = affinity.float() if low else affinity
        self.nodes = nodes
        self._rate: Tensor | None = None

    # Sizes ########################################################################################

    @property
    def num_queries(self) -> int:
        """The number :math:`n` of query nodes."""
        return self.nodes.num_queries

    @property
    def num_keys(self) -> int:
        """The number :math:`m` of key nodes."""
        return self.nodes.num_keys

    @property
    def heads(self) -> int:
        """The number :math:`H` of heads."""
        return self.nodes.heads

    @property
    def num_clusters(self) -> int:
        """The number :math:`K` of blocks."""
        return self.affinity.size(-1)

    @property
    def num_graphs(self) -> int:
        """The number of graphs in the batch."""
        return self.nodes.num_graphs

    @property
    def query_batch(self) -> Tensor | None:
        """Graph of each query, sorted int64 of shape :obj:`[n]`; :obj:`None` for one graph."""
        return self.nodes.query_batch

    @property
    def key_batch(self) -> Tensor | None:
        """Graph of each key, likewise."""
        return self.nodes.key_batch

    @property
    def query_ptr(self) -> Tensor:
        """Query node offsets of each graph, int64 of shape :obj:`[num_graphs + 1]`."""
        return self.nodes.query_ptr

    @property
    def key_ptr(self) -> Tensor:
        """Key node offsets of each graph, int64 of shape :obj:`[num_graphs + 1]`."""
        return self.nodes.key_ptr

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.affinity.device

    # Probabilities ################################################################################

    @property
    def rate(self) -> Tensor:
        r""":math:`\mathbf{Y}\mathbf{B}` of shape :obj:`[n, H, K]`, whose inner product with a key's
        membership is the probability of an edge.

        The value is computed once and kept; each read has an autograd node of its own, so that any
        number of backward passes may run."""
        if self._rate is None:
            with torch.inference_mode(False), torch.no_grad():
                self._rate = head_product(self.query_membership, self.affinity)
        wanted = self.query_membership.requires_grad or self.affinity.requires_grad
        if not (wanted and torch.is_grad_enabled()):
            return self._rate
        return head_product(self.query_membership, self.affinity, self._rate)

    def expected_edges(self, exploration: float = 0.0) -> Tensor:
        r"""Expected number of edges :math:`\sum_{ij} p_{ij}` of each head on each graph, exact and
        differentiable, in :math:`\mathcal{O}((n + m) K + K^2)`.

        Where some :math:`p_{ij}` pass 1 (which memberships in (0, 1) with an affinity that sums to
        1 never do) it is an upper bound.

        Args:
            exploration (float, optional): :math:`\delta` added to every probability.

        Returns:
            Tensor of shape :obj:`[num_graphs, H]`.
        """
        check_range("exploration", exploration, 0.0, 1.0)
        queries = self.nodes.sum_queries(self.query_membership)
        keys = self.nodes.sum_keys(self.key_membership)
        with torch.autocast(self.device.type, enabled=False):
            rates = torch.bmm(queries.transpose(0, 1), self.affinity)  # [H, G, K]
            edges = (rates * keys.transpose(0, 1)).sum(-1).t()
        if exploration == 0.0:
            return edges
        return edges + exploration * self.nodes.num_pairs.unsqueeze(1).to(edges.dtype)

    def expected_density(self, exploration: float = 0.0) -> Tensor:
        """Expected fraction of possible edges of each head on each graph, of shape
        :obj:`[num_graphs, H]`; 0 for a graph without possible edges. See :meth:`expected_edges`."""
        pairs = self.nodes.num_pairs.clamp(min=1).unsqueeze(1)
        return self.expected_edges(exploration) / pairs

    def limit_density(self, max_density: float, exploration: float = 0.0) -> SBM:
        """The model with the query memberships of every (graph, head) scaled down so that the
        expected density, ``exploration`` included, is at most ``max_density``.

        Raises:
            ValueError: If ``max_density`` is not above ``exploration``.
        """
        if not exploration < max_density:
            raise ValueError(
                f"'max_density' must be above 'exploration' = {exploration:g} (which it "
                f"includes), got {max_density:g}"
            )
        with torch.no_grad():
            density = self.expected_density()
            factor = ((max_density - exploration) / density.clamp(min=1e-30)).clamp(max=1.0)
            if self.query_batch is not None:
                factor = factor[self.query_batch]
        return SBM.over(
            self.nodes,
            self.query_membership * factor.unsqueeze(-1),
            self.key_membership,
            self.affinity,
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_queries={self.num_queries}, num_keys={self.num_keys}, "
            f"heads={self.heads}, num_clusters={self.num_clusters}, "
            f"num_graphs={self.num_graphs})"
        )
