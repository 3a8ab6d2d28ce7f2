"""The SBM attention layer for PyG pipelines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.dense.linear import Linear

from sbmgraph._validate import (
    check_batch,
    check_choice,
    check_floating,
    check_positive_int,
    check_range,
    check_tensor,
)
from sbmgraph.graph import SampledGraph
from sbmgraph.nn.membership import MembershipNetwork
from sbmgraph.ops import BACKENDS, ESTIMATORS, edge_attention
from sbmgraph.record import emit
from sbmgraph.sampling import ALGORITHMS, LAWS, sample
from sbmgraph.sbm import SBM

PairTensor = tuple[Tensor, Tensor]


class SBMConv(MessagePassing):
    r"""Attention over graphs sampled from stochastic block models, from `"Transformers meet
    Stochastic Block Models: Attention with Data-Adaptive Sparsity and Cost"
    <https://arxiv.org/abs/2210.15541>`_ (Cho et al., NeurIPS 2022).

    Every head infers a mixed-membership SBM from its queries and keys, samples a bipartite graph
    from it, and attends over the sampled edges:

    .. math::
        \mathbf{x}^{\prime}_i = \sum_{j : M_{ij} = 1} \mathrm{softmax}_j \left(
        \frac{(\mathbf{W}_q \mathbf{x}_i)^{\top} \mathbf{W}_k \mathbf{x}_j}{\sqrt{d}} \right)
        \mathbf{W}_v \mathbf{x}_j, \qquad
        M_{ij} \sim \mathrm{Bernoulli}(\mathbf{y}_i \mathbf{B} \mathbf{z}_j^{\top} + \delta)

    The layer needs no ``edge_index``: it is a sparse *global* attention inside each graph, in
    :math:`\mathcal{O}(\text{edges})`. A node without a sampled edge gets the bias alone, so use a
    residual connection around the layer.

    Args:
        in_channels (int or tuple): Size of each input sample, or :obj:`-1` to derive it from the
            first input. A tuple gives the sizes of source (key) and target (query) nodes.
        out_channels (int): Channels of each head.
        heads (int, optional): The number of heads. (default: :obj:`1`)
        num_clusters (int, optional): The number :math:`K` of blocks. (default: :obj:`128`)
        concat (bool, optional): If :obj:`False`, heads are averaged instead of concatenated.
            (default: :obj:`True`)
        dropout (float, optional): Dropout probability of the attention weights. (default:
            :obj:`0.0`)
        bias (bool, optional): If :obj:`False`, the projections have no bias. (default:
            :obj:`True`)
        law (str, optional): Law of the edges, see :func:`~sbmgraph.sample`. (default:
            :obj:`"bernoulli"`)
        algorithm (str, optional): Sampling algorithm, likewise. (default: :obj:`"auto"`)
        backend (str, optional): See :func:`~sbmgraph.ops.edge_attention`. (default: :obj:`"auto"`)
        estimator (str, optional): Straight-through estimator, likewise. (default: :obj:`"logit"`)
        exploration (float, optional): Probability :math:`\delta` added to every edge's in
            training. (default: :obj:`0.01`)
        init_density (float, optional): Expected density at the start. (default: about ¼)
        max_density (float, optional): Bound of the expected density of each head on each graph;
            edge probabilities are scaled down to it. (default: :obj:`None`)
        num_samples (int, optional): Number of sampled graphs whose outputs are averaged in
            evaluation. (default: :obj:`1`)
        pe_channels (int, optional): Channels of a positional encoding of the nodes that block
            memberships may depend on. (default: :obj:`0`)
        **kwargs (optional): Arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:** node features :math:`(n, C_{in})`, or :math:`((m, C_{src}), (n, C_{dst}))`;
          batch vector :math:`(n)`, or :math:`((m), (n))`, sorted
        - **output:** :math:`(n, H \cdot C_{out})`, or :math:`(n, C_{out})` without :obj:`concat`

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        num_clusters: int = 128,
        concat: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        law: str = "bernoulli",
        algorithm: str = "auto",
        backend: str = "auto",
        estimator: str = "logit",
        exploration: float = 0.01,
        init_density: float | None = None,
        max_density: float | None = None,
        num_samples: int = 1,
        pe_channels: int = 0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("aggr", "add")
        super().__init__(node_dim=0, **kwargs)
        check_positive_int("out_channels", out_channels)
        check_positive_int("heads", heads)
        check_positive_int("num_samples", num_samples)
        check_range("dropout", dropout, 0.0, 1.0, high_open=True)
        check_choice("law", law, LAWS)
        check_choice("algorithm", algorithm, ALGORITHMS)
        check_choice("backend", backend, BACKENDS)
        check_choice("estimator", estimator, ESTIMATORS)
        check_range("exploration", exploration, 0.0, 1.0)
        if max_density is not None:
            check_range("max_density", max_density, 0.0, 1.0, low_open=True)
            if not exploration < max_density:
                raise ValueError(
                    f"'max_density' must be above 'exploration' = {exploration:g} (which it "
                    f"includes), got {max_density:g}"
                )
        if isinstance(in_channels, int):
            in_channels = (in_channels, in_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.num_clusters = num_clusters
        self.concat = concat
        self.dropout = dropout
        self.law = law
        self.algorithm = algorithm
        self.backend = backend
        self.estimator = estimator
        self.exploration = exploration
        self.max_density = max_density
        self.num_samples = num_samples
        # The layer samples its own edges; an explainer's mask of the input's edges is not for it.
        self.explain = False

        channels = heads * out_channels
        self.lin_query = Linear(in_channels[1], channels, bias=bias)
        self.lin_key = Linear(in_channels[0], channels, bias=bias)
        self.lin_value = Linear(in_channels[0], channels, bias=bias)
        self.membership = MembershipNetwork(
            out_channels, heads, num_clusters, init_density, pe_channels
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all weights anew."""
        super().reset_parameters()
        for module in (self.lin_query, self.lin_key, self.lin_value):
            module.reset_parameters()
            if -1 not in self.in_channels:
                nn.init.xavier_uniform_(module.weight)
        self.membership.reset_parameters()

    def forward(  # type: ignore[override]
        self,
        x: Tensor | PairTensor,
        batch: Tensor | PairTensor | None = None,
        pe: Tensor | PairTensor | None = None,
        generator: torch.Generator | None = None,
        return_attention_weights: bool | None = None,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
        r"""Runs the layer.

        Args:
            x (Tensor or tuple): Node features; a tuple of source (key) and target (query) features
                for bipartite attention, in which targets query sources.
            batch (Tensor or tuple, optional): Graph of each node, sorted. (default: one graph)
            pe (Tensor or tuple, optional): Positional encodings of shape
                :obj:`[num_nodes, pe_channels]`.
            generator (torch.Generator, optional): Source of the sampling's seed.
            return_attention_weights (bool, optional): If :obj:`True`, also returns
                :obj:`(edge_index, alpha)`: the union of the heads' edges, sorted by target, and
                weights of shape :obj:`[E, H]` that are 0 where a head did not sample the edge.

        Raises:
            ValueError: If shapes, batch vectors or encodings do not fit together or the features
                are not finite.
        """
        x_src, x_dst = x if isinstance(x, tuple) else (x, x)
        self._check_features("x", x_src, self.lin_key.in_channels)
        self._check_features("x", x_dst, self.lin_query.in_channels)
        batch_src, batch_dst = self._check_batches(batch, x_src, x_dst)
        pe_src, pe_dst = self._check_encodings(pe, x_src, x_dst)

        shape = (-1, self.heads, self.out_channels)
        query = self.lin_query(x_dst).view(shape)
        key = self.lin_key(x_src).view(shape)
        value = self.lin_value(x_src).view(shape)
        sbm = self.membership(query, key, batch_dst, batch_src, pe_dst, pe_src)
        exploration = self.exploration if self.training else 0.0
        if self.max_density is not None:
            sbm = sbm.limit_density(self.max_density, exploration)

        outs = []
        for _ in range(1 if self.training else self.num_samples):
            graph = self._sample(sbm, exploration, generator, x_src, x_dst)
            outs.append(
                edge_attention(
                    query,
                    key,
                    value,
                    graph,
                    sbm,
                    self.estimator,
                    dropout=self.dropout,
                    training=self.training,
                    backend=self.backend,
                    return_weights=bool(return_attention_weights),
                )
            )
        if not return_attention_weights:
            out = outs[0] if len(outs) == 1 else torch.stack(outs).mean(dim=0)
            return self._combine(out)
        if len(outs) > 1:
            raise ValueError(
                "'return_attention_weights' must go with 'num_samples' = 1 (weights belong to one "
                f"sampled graph), got {self.num_samples}"
            )
        out, weights = outs[0]
        return self._combine(out), merge_heads(graph, weights)

    @torch.compiler.disable
    def _sample(
        self,
        sbm: SBM,
        exploration: float,
        generator: torch.Generator | None,
        x_src: Tensor,
        x_dst: Tensor,
    ) -> SampledGraph:
        try:
            graph = sample(sbm, self.law, self.algorithm, exploration, generator)
        except ValueError:
            for x in (x_src, x_dst):
                if not bool(torch.isfinite(x).all()):
                    raise ValueError("'x' must be finite, got NaN or infinite entries") from None
            raise
        emit(self, sbm, graph, exploration)
        return graph

    def _combine(self, out: Tensor) -> Tensor:
        return out.flatten(1) if self.concat else out.mean(dim=1)

    def _check_features(self, name: str, x: Any, channels: int) -> None:
        expected = channels if channels > 0 else "in_channels"
        check_tensor(name, x, 2, f"[num_nodes, {expected}]")
        check_floating(name, x)
        if channels > 0 and x.size(1) != channels:
            raise ValueError(f"'{name}' must have {channels} channels, got {x.size(1)}")

    @staticmethod
    def _check_batches(
        batch: Tensor | PairTensor | None, x_src: Tensor, x_dst: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        if batch is None:
            return None, None
        batch_src, batch_dst = batch if isinstance(batch, tuple) else (batch, batch)
        check_batch("batch", batch_src, x_src.size(0), x_src.device)
        if batch_dst is not batch_src:
            check_batch("batch", batch_dst, x_dst.size(0), x_dst.device)
        elif x_dst.size(0) != x_src.size(0):
            raise ValueError(
                "'batch' must be a tuple of source and target batch vectors for bipartite input, "
                "got a single vector"
            )
        return batch_src, batch_dst

    def _check_encodings(
        self, pe: Tensor | PairTensor | None, x_src: Tensor, x_dst: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        lin = self.membership.lin_pe
        if (pe is None) != (lin is None):
            expected = "None as 'pe_channels' is 0" if lin is None else "a tensor"
            raise ValueError(f"'pe' must be {expected}, got {type(pe).__name__}")
        if pe is None or lin is None:
            return None, None
        pe_src, pe_dst = pe if isinstance(pe, tuple) else (pe, pe)
        for encoding, x in ((pe_src, x_src), (pe_dst, x_dst)):
            shape = (x.size(0), lin.in_features)
            if not isinstance(encoding, Tensor) or encoding.shape != shape:
                came = list(encoding.shape) if isinstance(encoding, Tensor) else encoding
                raise ValueError(f"'pe' must have shape {list(shape)}, got {came}")
        return pe_src, pe_dst

    def __repr__(self) -> str:
        source, target = self.in_channels
        channels = f"{source}" if source == target else f"({source}, {target})"
        return f"{type(self).__name__}({channels}, {self.out_channels}, heads={self.heads})"


def merge_heads(graph: SampledGraph, weights: Tensor) -> PairTensor:
    """The union of the heads' edges and each head's weight on them.

    Args:
        graph: A sampled graph.
        weights: Attention weight of every edge of :obj:`graph`, of shape :obj:`[E]`.

    Returns:
        ``edge_index`` [2, U] of the distinct (key, query) pairs, sorted by query, and weights of
        shape :obj:`[U, H]`, 0 where a head has no such edge.
    """
    key, query = graph.edge_index
    size = max(graph.num_keys, 1)
    pair, inverse = torch.unique(query * size + key, return_inverse=True)
    alpha = weights.new_zeros(pair.numel(), graph.heads)
    alpha = alpha.index_put((inverse, graph.head), weights)
    return torch.stack([pair % size, pair.div(size, rounding_mode="floor")]), alpha
