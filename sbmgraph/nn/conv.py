"""The SBM attention layer for PyG pipelines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import zeros
from torch_geometric.typing import Adj, OptPairTensor, PairTensor

from sbmgraph.checks import (
    check_batch,
    check_choice,
    check_floating,
    check_positive_int,
    check_range,
    check_tensor,
    describe,
)
from sbmgraph.graph import SampledGraph
from sbmgraph.nn.edges import Attended, GivenEdges, attended_groups, read_edges
from sbmgraph.nn.membership import MembershipNetwork
from sbmgraph.ops import BACKENDS, ESTIMATORS, edge_attention
from sbmgraph.record import emit
from sbmgraph.ops.sample import ALGORITHMS, LAWS, sample
from sbmgraph.sbm import SBM


class EdgeAttention(nn.Module):
    """:func:`~sbmgraph.ops.edge_attention` as a module, so that forward hooks can read and extend
    what a layer attends with."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Any:
        """Calls :func:`~sbmgraph.ops.edge_attention`."""
        return edge_attention(query, key, value, **kwargs)


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
    :math:`\mathcal{O}(\text{edges})`. With one, :math:`M_{ij} = 1` for the given edges too; they
    give the SBM no gradient unless they were sampled as well. A node without any edge gets zeros,
    so use a residual connection around the layer.

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
        pe_channels (int, optional): Channels of a positional or structural encoding of the nodes
            that block memberships may depend on. (default: :obj:`0`)
        edge_dim (int, optional): The number of attributes of given edges; a linear function of
            them, one for each head, is added to the attention scores. (default: :obj:`None`)
        local_heads (int, optional): The first so many heads attend over the given edges only and
            sample none. (default: :obj:`0`)
        **kwargs (optional): Arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:** node features :math:`(n, C_{in})`, or :math:`((m, C_{src}), (n, C_{dst}))`;
          batch vector :math:`(n)`, or :math:`((m), (n))`, sorted; edge indices :math:`(2, E)` and
          edge attributes :math:`(E, D)` *(optional)*
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
        edge_dim: int | None = None,
        local_heads: int = 0,
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
        if edge_dim is not None:
            check_positive_int("edge_dim", edge_dim)
        check_positive_int("local_heads", local_heads, minimum=0)
        if local_heads >= heads:
            raise ValueError(
                f"'local_heads' must leave one of 'heads' = {heads} to sample, got {local_heads}"
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
        self.edge_dim = edge_dim
        self.local_heads = local_heads
        # The layer samples its own edges; an explainer's mask of the input's edges is not for it.
        self.explain = False

        channels = heads * out_channels
        options = {"bias": bias, "bias_initializer": "zeros"}
        self.lin_query = Linear(in_channels[1], channels, **options)
        self.lin_key = Linear(in_channels[0], channels, **options)
        self.lin_value = Linear(in_channels[0], channels, **options)
        self.lin_edge = None if edge_dim is None else nn.Linear(edge_dim, heads, bias=False)
        self.membership = MembershipNetwork(
            out_channels, heads - local_heads, num_clusters, init_density, pe_channels
        )
        self.attention = EdgeAttention()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all weights anew."""
        super().reset_parameters()
        for module in (self.lin_query, self.lin_key, self.lin_value):
            module.reset_parameters()
            zeros(module.bias)
        if self.lin_edge is not None:
            self.lin_edge.reset_parameters()
        self.membership.reset_parameters()

    def forward(  # type: ignore[override]
        self,
        x: Tensor | OptPairTensor,
        batch: Tensor | PairTensor | None = None,
        edge_index: Adj | None = None,
        edge_attr: Tensor | None = None,
        pe: Tensor | PairTensor | None = None,
        generator: torch.Generator | None = None,
        size: tuple[int, int] | None = None,
        return_attention_weights: bool | None = None,
    ) -> Tensor | tuple[Tensor, PairTensor]:
        r"""Runs the layer.

        Args:
            x (Tensor or tuple): Node features; a tuple of source (key) and target (query) features
                for bipartite attention, in which targets query sources. Targets without features
                (:obj:`(x_src, None)`) query with the bias alone.
            batch (Tensor or tuple, optional): Graph of each node, sorted. (default: one graph)
            edge_index (Tensor or SparseTensor, optional): Given edges, attended over besides the
                sampled ones; matrices are transposed adjacencies as everywhere in PyG.
            edge_attr (Tensor, optional): Attributes of the given edges, of shape
                :obj:`[E, edge_dim]`; duplicate edges are averaged.
            pe (Tensor or tuple, optional): Positional encodings of shape
                :obj:`[num_nodes, pe_channels]`.
            generator (torch.Generator, optional): Source of the sampling's seed.
            size (tuple, optional): The numbers of source and target nodes, for targets that have
                neither features nor a batch vector.
            return_attention_weights (bool, optional): If :obj:`True`, also returns
                :obj:`(edge_index, alpha)`: the union of the heads' edges, sorted by target, and
                weights of shape :obj:`[E, H]` that are 0 where a head does not have the edge.

        Raises:
            ValueError: If shapes, batch vectors, edges or encodings do not fit together or the
                features are not finite.
        """
        x_src, x_dst = x if isinstance(x, tuple) else (x, x)
        self._check_features(x_src, self.lin_key.in_channels)
        if x_dst is not None:
            self._check_features(x_dst, self.lin_query.in_channels)
        batch_src, batch_dst = _split_batch(batch, bipartite=x_dst is not x_src)
        size = _check_size(size, x_src, x_dst, batch_dst)
        pe_src, pe_dst = self._split_encodings(pe, size)

        shape = (-1, self.heads, self.out_channels)
        key = self.lin_key(x_src).view(shape)
        value = self.lin_value(x_src).view(shape)
        query = self._query(x_dst, size[1], key).view(shape)
        mine = slice(self.local_heads, None)
        sbm = self.membership(query[:, mine], key[:, mine], batch_dst, batch_src, pe_dst, pe_src)

        samples = self._sample(sbm, size, edge_index, edge_attr, generator, (x_src, x_dst))
        outs: list[Tensor] = []
        alphas: list[Tensor] = []
        for groups in samples:
            out, alphas = self._attend(query, key, value, groups, bool(return_attention_weights))
            outs.append(out)
        out = outs[0] if len(outs) == 1 else torch.stack(outs).mean(dim=0)
        out = out.flatten(1) if self.concat else out.mean(dim=1)
        if not return_attention_weights:
            return out
        if len(samples) > 1:
            raise ValueError(
                "'return_attention_weights' must go with 'num_samples' = 1 (weights belong to one "
                f"sampled graph), got {self.num_samples}"
            )
        return out, merge_heads([group.graph for group in samples[0]], alphas)

    def _query(self, x_dst: Tensor | None, num_targets: int, key: Tensor) -> Tensor:
        if x_dst is not None:
            return self.lin_query(x_dst)
        bias = self.lin_query.bias
        if bias is None:
            bias = key.new_zeros(self.lin_query.out_channels)
        return bias.to(key.dtype).expand(num_targets, -1)

    @torch.compiler.disable
    def _sample(
        self,
        sbm: SBM,
        size: tuple[int, int],
        edge_index: Adj | None,
        edge_attr: Tensor | None,
        generator: torch.Generator | None,
        x: OptPairTensor,
    ) -> list[list[Attended]]:
        """Everything that looks at values: for each sampled graph, what each group of heads
        attends over."""
        if sbm.query_batch is not None:
            check_batch("batch", sbm.key_batch, size[0], sbm.device)
            check_batch("batch", sbm.query_batch, size[1], sbm.device)
        given = self._read_edges(edge_index, edge_attr, size, sbm)
        bias = None
        if self.lin_edge is not None and given is not None and given.attr is not None:
            bias = self.lin_edge(given.attr.to(self.lin_edge.weight.dtype))
        exploration = self.exploration if self.training else 0.0
        if self.max_density is not None:
            sbm = sbm.limit_density(self.max_density, exploration)
        samples = []
        for _ in range(1 if self.training else self.num_samples):
            sampled = self._sample_once(sbm, exploration, generator, x)
            if given is None:
                samples.append([Attended(sampled, sbm)])
            else:
                samples.append(attended_groups(sampled, sbm, given, bias, self.local_heads))
        return samples

    def _sample_once(
        self, sbm: SBM, exploration: float, generator: torch.Generator | None, x: OptPairTensor
    ) -> SampledGraph:
        try:
            graph = sample(sbm, self.law, self.algorithm, exploration, generator)
        except ValueError:
            if any(part is not None and not bool(torch.isfinite(part).all()) for part in x):
                raise ValueError("'x' must be finite, got NaN or infinite entries") from None
            raise
        emit(self, sbm, graph, exploration)
        return graph

    def _read_edges(
        self, edge_index: Adj | None, edge_attr: Tensor | None, size: tuple[int, int], sbm: SBM
    ) -> GivenEdges | None:
        if edge_index is not None:
            return read_edges(
                edge_index,
                edge_attr,
                self.edge_dim,
                size,
                sbm.device,
                sbm.key_batch,
                sbm.query_batch,
            )
        if edge_attr is not None:
            raise ValueError(
                f"'edge_attr' must come with 'edge_index', got {describe(edge_attr)} alone"
            )
        if self.local_heads:
            raise ValueError(
                f"'edge_index' must be given as 'local_heads' = {self.local_heads} heads attend "
                "over it alone, got None"
            )
        return None

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, groups: list[Attended], weights: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Output [n, H, d] of groups of consecutive heads, and each group's attention weights."""
        outs, alphas, start = [], [], 0
        for group in groups:
            heads = slice(start, start + group.graph.heads)
            start = heads.stop
            out = self.attention(
                query[:, heads],
                key[:, heads],
                value[:, heads],
                graph=group.graph,
                sbm=group.sbm,
                bias=group.bias,
                sampled=group.learned,
                estimator=self.estimator,
                dropout=self.dropout,
                training=self.training,
                backend=self.backend,
                return_weights=weights,
            )
            if weights:
                out, alpha = out
                alphas.append(alpha)
            outs.append(out)
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1), alphas

    def _check_features(self, x: Any, channels: int) -> None:
        expected = channels if channels > 0 else "in_channels"
        check_tensor("x", x, 2, f"[num_nodes, {expected}]")
        check_floating("x", x)
        if channels > 0 and x.size(1) != channels:
            raise ValueError(f"'x' must have {channels} channels, got {x.size(1)}")

    def _split_encodings(
        self, pe: Tensor | PairTensor | None, size: tuple[int, int]
    ) -> tuple[Tensor | None, Tensor | None]:
        lin = self.membership.lin_pe
        if (pe is None) != (lin is None):
            expected = "None as 'pe_channels' is 0" if lin is None else "a tensor"
            raise ValueError(f"'pe' must be {expected}, got {type(pe).__name__}")
        if pe is None or lin is None:
            return None, None
        pair = pe if isinstance(pe, tuple) else (pe, pe)
        for encoding, num_nodes in zip(pair, size, strict=True):
            shape = (num_nodes, lin.in_features)
            if not isinstance(encoding, Tensor) or encoding.shape != shape:
                came = list(encoding.shape) if isinstance(encoding, Tensor) else encoding
                raise ValueError(f"'pe' must have shape {list(shape)}, got {came}")
        return pair

    def __repr__(self) -> str:
        source, target = self.in_channels
        channels = f"{source}" if source == target else f"({source}, {target})"
        return f"{type(self).__name__}({channels}, {self.out_channels}, heads={self.heads})"


def merge_heads(graphs: list[SampledGraph], weights: list[Tensor]) -> PairTensor:
    """The union of all heads' edges and each head's weight on them.

    Args:
        graphs: Graphs of consecutive groups of heads over the same nodes.
        weights: For each, the attention weight of every edge, of shape :obj:`[E]`.

    Returns:
        ``edge_index`` [2, U] of the distinct (key, query) pairs, sorted by query, and weights of
        shape :obj:`[U, H]`, 0 where a head has no such edge.
    """
    size = max(graphs[0].num_keys, 1)
    heads, pairs, start = [], [], 0
    for graph in graphs:
        key, query = graph.edge_index
        pairs.append(query * size + key)
        heads.append(graph.head + start)
        start += graph.heads
    pair, inverse = torch.unique(torch.cat(pairs), return_inverse=True)
    alpha = weights[0].new_zeros(pair.numel(), start)
    alpha = alpha.index_put((inverse, torch.cat(heads)), torch.cat(weights))
    return torch.stack([pair % size, pair.div(size, rounding_mode="floor")]), alpha


def _split_batch(batch: Any, bipartite: bool) -> tuple[Tensor | None, Tensor | None]:
    if batch is None:
        return None, None
    if not isinstance(batch, tuple):
        if not isinstance(batch, Tensor) or batch.dim() != 1:
            raise ValueError(
                f"'batch' must be an int64 vector of graph numbers, got {describe(batch)}; edges "
                "go to 'edge_index' by keyword ('edge_index_dict' in HeteroConv)"
            )
        if bipartite:
            raise ValueError(
                "'batch' must be a tuple of source and target batch vectors for bipartite input, "
                "got a single vector"
            )
        return batch, batch
    if len(batch) != 2 or (batch[0] is None) != (batch[1] is None):
        raise ValueError(
            "'batch' must hold a batch vector for source and one for target nodes, got "
            f"{[None if part is None else describe(part) for part in batch]}"
        )
    return batch


def _check_size(
    size: tuple[int, int] | None, x_src: Tensor, x_dst: Tensor | None, batch_dst: Tensor | None
) -> tuple[int, int]:
    """The numbers of source and target nodes."""
    if x_dst is not None:
        found = (x_src.size(0), x_dst.size(0))
    elif batch_dst is not None:
        found = (x_src.size(0), batch_dst.numel())
    elif size is not None:
        found = (x_src.size(0), size[1])
    else:
        raise ValueError(
            "'size' or 'batch' must tell the number of target nodes as their features are None, "
            "got neither"
        )
    if size is not None and tuple(size) != found:
        raise ValueError(f"'size' must be {found} like the nodes, got {tuple(size)}")
    return found
