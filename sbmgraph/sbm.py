"""The mixed-membership stochastic block model of a batch of attention heads.

A head's SBM gives every (query, key) pair of a graph the edge probability
:math:`p_{ij} = y_i B z_j^\\top` (Cho et al., NeurIPS 2022, Section 3.2). It is held by its factors;
no n×m matrix is ever formed here.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from sbmgraph.checks import check_batch, check_floating, check_same, check_tensor, describe
from sbmgraph.graph import (
    MAX_NODES,
    SampledGraph,
    batch_to_ptr,
    count_graphs,
    num_pairs,
    sum_by_graph,
)


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
        if (query_batch is None) != (key_batch is None):
            raise ValueError(
                "'query_batch' and 'key_batch' must be given together, got one of them"
            )
        if query_batch is not None and key_batch is not None:
            check_batch("query_batch", query_batch, query_membership.size(0), affinity.device)
            check_batch("key_batch", key_batch, key_membership.size(0), affinity.device)
        for name, value in (
            ("query_membership", query_membership),
            ("key_membership", key_membership),
        ):
            if value.size(0) > MAX_NODES:
                raise ValueError(
                    f"'{name}' must have at most {MAX_NODES} nodes, got {value.size(0)}"
                )
        self._assign(query_membership, key_membership, affinity, query_batch, key_batch)

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
        out = cls.__new__(cls)
        out._assign(query_membership, key_membership, affinity, query_batch, key_batch, num_graphs)
        return out

    def _assign(
        self,
        query_membership: Tensor,
        key_membership: Tensor,
        affinity: Tensor,
        query_batch: Tensor | None,
        key_batch: Tensor | None,
        num_graphs: int | None = None,
    ) -> None:
        low = query_membership.dtype in (torch.float16, torch.bfloat16)
        self.query_membership = query_membership.float() if low else query_membership
        self.key_membership = key_membership.float() if low else key_membership
        self.affinity = affinity.float() if low else affinity
        self.query_batch = query_batch
        self.key_batch = key_batch
        self._rate: Tensor | None = None
        if num_graphs is not None:
            self.num_graphs = num_graphs

    # Sizes ########################################################################################

    @property
    def num_queries(self) -> int:
        """The number :math:`n` of query nodes."""
        return self.query_membership.size(0)

    @property
    def num_keys(self) -> int:
        """The number :math:`m` of key nodes."""
        return self.key_membership.size(0)

    @property
    def heads(self) -> int:
        """The number :math:`H` of heads."""
        return self.affinity.size(0)

    @property
    def num_clusters(self) -> int:
        """The number :math:`K` of blocks."""
        return self.affinity.size(-1)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.affinity.device

    @cached_property
    def num_graphs(self) -> int:
        """The number of graphs in the batch."""
        return count_graphs(self.query_batch, self.key_batch)

    @cached_property
    def query_ptr(self) -> Tensor:
        """Query node offsets of each graph, int64 of shape :obj:`[num_graphs + 1]`."""
        return batch_to_ptr(self.query_batch, self.num_queries, self.num_graphs, self.device)

    @cached_property
    def key_ptr(self) -> Tensor:
        """Key node offsets of each graph, int64 of shape :obj:`[num_graphs + 1]`."""
        return batch_to_ptr(self.key_batch, self.num_keys, self.num_graphs, self.device)

    # Probabilities ################################################################################

    @property
    def rate(self) -> Tensor:
        r""":math:`\mathbf{Y}\mathbf{B}` of shape :obj:`[n, H, K]`: an edge's probability is the
        inner product of its query's rate and its key's membership. Computed once and kept."""
        wanted = torch.is_grad_enabled() and (
            self.query_membership.requires_grad or self.affinity.requires_grad
        )
        if self._rate is None or (wanted and not self._rate.requires_grad):
            with torch.autocast(self.device.type, enabled=False):
                rate = torch.einsum("nhk,hkl->nhl", self.query_membership, self.affinity)
            self._rate = rate
        return self._rate

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
        queries = sum_by_graph(self.query_membership, self.query_batch, self.num_graphs)
        keys = sum_by_graph(self.key_membership, self.key_batch, self.num_graphs)
        with torch.autocast(self.device.type, enabled=False):
            edges = torch.einsum("ghk,hkl,ghl->gh", queries, self.affinity, keys)
        if exploration == 0.0:
            return edges
        return edges + exploration * num_pairs(self.query_ptr, self.key_ptr).unsqueeze(1)

    def expected_density(self, exploration: float = 0.0) -> Tensor:
        """Expected fraction of possible edges of each head on each graph, of shape
        :obj:`[num_graphs, H]`; 0 for a graph without possible edges. See :meth:`expected_edges`."""
        pairs = num_pairs(self.query_ptr, self.key_ptr).clamp(min=1).unsqueeze(1)
        return self.expected_edges(exploration) / pairs

    def edge_prob(self, graph: SampledGraph) -> Tensor:
        """The probability of every edge of ``graph``, differentiable, of shape :obj:`[E]`.

        Raises:
            ValueError: If ``graph`` has other nodes or heads than the model.
        """
        from sbmgraph.ops.edge_prob import edge_prob

        self.check_graph(graph)
        return edge_prob(self.rate, self.key_membership, graph).clamp(max=1)

    def check_graph(self, graph: SampledGraph) -> None:
        """Raises a :class:`ValueError` if ``graph`` has other nodes or heads than the model."""
        mine = (self.num_queries, self.num_keys, self.heads)
        theirs = (graph.num_queries, graph.num_keys, graph.heads)
        if mine != theirs:
            raise ValueError(
                f"'graph' must have (num_queries, num_keys, heads) = {mine} like the "
                f"SBM, got {theirs}"
            )

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
        return SBM.unchecked(
            self.query_membership * factor.unsqueeze(-1),
            self.key_membership,
            self.affinity,
            self.query_batch,
            self.key_batch,
            self.num_graphs,
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_queries={self.num_queries}, num_keys={self.num_keys}, "
            f"heads={self.heads}, num_clusters={self.num_clusters}, "
            f"num_graphs={self.num_graphs})"
        )
