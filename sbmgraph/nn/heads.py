"""SBM attention on queries, keys and values that are ready: sampling and attention, no
projection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.typing import PairTensor

from sbmgraph.checks import check_positive_int, check_range
from sbmgraph.graph import SampledGraph
from sbmgraph.nn.attend import attend_groups
from sbmgraph.nn.dense import certain_sbm, complete_graph, dense_attention
from sbmgraph.nn.edges import Attended, attended_groups, merge_heads
from sbmgraph.nn.inputs import (
    check_batches,
    check_heads_input,
    split_batch,
    split_encodings,
)
from sbmgraph.nn.membership import MembershipNetwork
from sbmgraph.nn.options import SBMOptions
from sbmgraph.nn.recomputation import check_recomputation, watched_as_before
from sbmgraph.nn.transforms import (
    check_traceable,
    has_no_values,
    in_transform,
    refuse_script,
    sampling_model,
)
from sbmgraph.ops import sample
from sbmgraph.record import AttendedEdges, emit, is_recorded
from sbmgraph.sbm import SBM


class Layer(NamedTuple):
    """The layer that heads are part of.

    Attributes:
        module: The layer, as recorders name it.
        source: The features that it read keys from, one row a node.
        edge_index: Given edges, if any, which its method ``read_edges`` reads.
        edge_attr: Their attributes, likewise.
    """

    module: Any
    source: Tensor
    edge_index: Any = None
    edge_attr: Any = None


class SBMHeads(nn.Module):
    r"""Attention heads on ready queries, keys and values: each infers a stochastic block model from
    its queries and keys, samples a graph from it and attends over the sampled edges (Cho et al.,
    NeurIPS 2022).

    :class:`SBMConv` puts projections before it; to change the attention of an existing model, call
    it in place of ``scaled_dot_product_attention``.

    With :obj:`init_density=1`, or after :meth:`set_dense`, nothing is sampled: every query attends
    over all keys of its graph by ``scaled_dot_product_attention``.

    Args:
        channels (int): Channels :math:`d` of a head's queries and keys.
        heads (int): The number :math:`H` of heads.
        num_clusters (int, optional): The number :math:`K` of blocks. (default: :obj:`128`)
        dropout (float, optional): Dropout probability of the attention weights. (default:
            :obj:`0.0`)
        local_heads (int, optional): The first so many heads attend over given edges only and
            sample none. (default: :obj:`0`)
        pe_channels (int, optional): Channels of a positional or structural encoding of the nodes
            that block memberships may depend on. (default: :obj:`0`)
        options (SBMOptions, optional): Options as one object.
        **kwargs (optional): Single options, see :class:`SBMOptions`.

    Shapes:
        - **input:** queries :math:`(n, H, d)`, keys :math:`(m, H, d)`, values :math:`(m, H, d_v)`
        - **output:** :math:`(n, H, d_v)`

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        num_clusters: int | None = None,
        dropout: float = 0.0,
        *,
        local_heads: int = 0,
        pe_channels: int = 0,
        options: SBMOptions | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        options = SBMOptions.gather(
            type(self).__name__,
            options,
            {"num_clusters": num_clusters, **kwargs},
            ("channels", "heads", "dropout", "local_heads", "pe_channels"),
        )
        check_positive_int("channels", channels)
        check_positive_int("heads", heads)
        check_range("dropout", dropout, 0.0, 1.0, high_open=True)
        check_positive_int("local_heads", local_heads, minimum=0)
        if local_heads >= heads:
            raise ValueError(
                f"'local_heads' must leave one of 'heads' = {heads} to sample, got {local_heads}"
            )
        self.channels = channels
        self.heads = heads
        self.dropout = dropout
        self.local_heads = local_heads
        self.options = options
        self.dense = options.init_density == 1
        self.membership = MembershipNetwork(
            channels, heads - local_heads, pe_channels=pe_channels, options=options
        )

    def reset_parameters(self) -> None:
        """Draws all weights anew."""
        self.membership.reset_parameters()

    @property
    def num_samples(self) -> int:
        """Number of sampled graphs whose outputs are averaged in evaluation; may be set."""
        return self.options.num_samples

    @num_samples.setter
    def num_samples(self, value: int) -> None:
        self.options = replace(self.options, num_samples=value)

    @property
    def max_density(self) -> float | None:
        """Bound of the expected density of each head on each graph; may be set."""
        return self.options.max_density

    @max_density.setter
    def max_density(self, value: float | None) -> None:
        self.options = replace(self.options, max_density=value)

    def set_dense(self, dense: bool = True, density: float | None = None) -> None:
        """Turns sampling off or on.

        Args:
            dense (bool, optional): Whether to attend over all keys without sampling. (default:
                :obj:`True`)
            density (float, optional): Where sampling is turned on, the expected density to start
                with. (default: the memberships stay as they are)

        Raises:
            ValueError: If ``density`` is out of range, or missing for heads that were never given
                one.
        """
        if dense and self.options.max_density not in (None, 1):
            raise ValueError(
                f"'max_density' must be 1 or None for dense heads, got {self.options.max_density}"
            )
        if not dense:
            if density is not None:
                self.membership.set_density(density)
                self.options = replace(self.options, init_density=density)
            elif self.options.init_density == 1:
                raise ValueError(
                    "'density' must say where heads of 'init_density' = 1 start to sample, got None"
                )
        self.dense = bool(dense)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: Tensor | PairTensor | None = None,
        scale: float | None = None,
        *,
        dropout: float | None = None,
        generator: torch.Generator | None = None,
        pe: Tensor | PairTensor | None = None,
        given: SampledGraph | None = None,
        bias: Tensor | None = None,
        batch_size: int | None = None,
        return_attention_weights: bool | None = None,
        layer: Layer | None = None,
    ) -> Tensor | tuple[Tensor, PairTensor]:
        r"""Samples graphs and attends over them.

        Args:
            query (Tensor): Queries of shape :obj:`[n, H, d]`.
            key (Tensor): Keys of shape :obj:`[m, H, d]`.
            value (Tensor): Values of shape :obj:`[m, H, dv]`.
            batch (Tensor or tuple, optional): Graph of each node, sorted; a tuple gives it for
                source (key) and target (query) nodes. (default: one graph)
            scale (float, optional): Factor of the scores. (default: :math:`1 / \sqrt{d}`)
            dropout (float, optional): Dropout probability of this call, active in training.
                (default: the layer's)
            generator (torch.Generator, optional): Source of the sampling's seed.
            pe (Tensor or tuple, optional): Positional encodings of shape
                :obj:`[num_nodes, pe_channels]`; a tuple as for ``batch``.
            given (SampledGraph, optional): Edges of one head that every head attends over besides
                those that it samples.
            bias (Tensor, optional): Added to the scores on given edges, of shape :obj:`[E, H]`.
            batch_size (int, optional): The number of graphs, where the last have no nodes.
            return_attention_weights (bool, optional): If :obj:`True`, also returns
                :obj:`(edge_index, alpha)`: the union of the heads' edges, sorted by target, and
                weights of shape :obj:`[E, H]` that are 0 where a head does not have the edge.
            layer (Layer, optional): The layer that these heads are part of. (default: recorders
                name this module, and its keys as the features)

        Raises:
            ValueError: If shapes, dtypes, batch vectors, edges or encodings do not fit together, or
                inputs are not finite.
        """
        check_traceable(type(self).__name__)
        check_heads_input(
            query,
            key,
            value,
            scale,
            dropout,
            given,
            bias,
            like=(self.heads, self.membership.clusters),
        )
        pair = split_batch(batch, bipartite=query.size(0) != key.size(0))
        encodings = split_encodings(pe, self.membership.lin_pe, (key.size(0), query.size(0)))
        if batch_size is not None:
            check_positive_int("batch_size", batch_size, minimum=0)
        if has_no_values(query):
            return value.new_empty(query.size(0), self.heads, value.size(2), dtype=query.dtype)
        layer = Layer(self, key) if layer is None else layer
        dropout = (self.dropout if dropout is None else dropout) if self.training else 0.0
        weights = bool(return_attention_weights)
        sbm = None
        if not self.dense:
            mine = (query, key)
            if self.local_heads:
                mine = (query[:, self.local_heads :], key[:, self.local_heads :])
            of_source, of_target = encodings
            sbm = self.membership(*mine, pair[1], pair[0], of_target, of_source, batch_size)
        samples, watched = self._sample(
            query, key, pair, sbm, given, bias, generator, batch_size, layer, weights
        )
        if not samples:
            return dense_attention(query, key, value, pair[1], pair[0], scale, dropout)
        options = self.options
        outs: list[Tensor] = []
        alphas: list[Tensor] = []
        for drawn in samples:
            out, alphas = attend_groups(
                (query, key, value), drawn.groups, options, scale, dropout, weights or watched
            )
            if watched:
                _emit_weights(layer, drawn, alphas)
            outs.append(out)
        out = outs[0] if len(outs) == 1 else torch.stack(outs).mean(dim=0)
        if not weights:
            return out
        if len(samples) > 1:
            raise ValueError(
                "'return_attention_weights' must go with 'num_samples' = 1 (weights belong to one "
                f"sampled graph), got {self.num_samples}"
            )
        return out, merge_heads([group.graph for group in samples[0].groups], alphas)

    @torch.compiler.disable
    def _sample(
        self,
        query: Tensor,
        key: Tensor,
        pair: tuple[Tensor | None, Tensor | None],
        sbm: SBM | None,
        given: SampledGraph | None,
        bias: Tensor | None,
        generator: torch.Generator | None,
        batch_size: int | None,
        layer: Layer,
        weights: bool,
    ) -> tuple[list[_Drawn], bool]:
        """Everything that looks at values: what is attended over, once for each sampled graph, and
        whether recorders ask for weights; nothing where dense heads need no list of edges."""
        size = (key.size(0), query.size(0))
        check_batches(pair, size, query.device, batch_size)
        if layer.edge_index is not None:
            edges = (layer.edge_index, layer.edge_attr)
            given, bias = layer.module.read_edges(*edges, size, pair)
        if self.local_heads and given is None:
            raise ValueError(
                f"'edge_index' must be given as 'local_heads' = {self.local_heads} heads attend "
                "over it alone, got None"
            )
        watched = watched_as_before(self, layer.module, generator)
        if sbm is None:
            listed = weights or watched or bias is not None or self.local_heads > 0
            if not listed and not is_recorded(layer.module):
                return [], False
            graph = complete_graph(
                query.size(0),
                key.size(0),
                self.heads - self.local_heads,
                pair[1],
                pair[0],
                query.device,
                batch_size,
            )
            certain = certain_sbm(graph, torch.promote_types(query.dtype, torch.float32))
            emit(layer.module, certain, graph, 0.0)
            groups = attended_groups(graph, None, given, bias, self.local_heads)
            return [_Drawn(certain, graph, 0.0, groups)] if listed else [], watched
        options = self.options
        active = self.training or options.explore_in_evaluation
        exploration = options.exploration if active else 0.0
        if options.max_density is not None:
            sbm = sbm.limit_density(options.max_density, exploration)
        samples = []
        for _ in range(1 if self.training else self.num_samples):
            graph = self._sample_once(sbm, exploration, generator, layer.source, query)
            emit(layer.module, sbm, graph, exploration)
            groups = attended_groups(graph, sbm, given, bias, self.local_heads)
            samples.append(_Drawn(sbm, graph, exploration, groups))
        return samples, watched

    def _sample_once(
        self,
        sbm: SBM,
        exploration: float,
        generator: torch.Generator | None,
        source: Tensor,
        query: Tensor,
    ) -> SampledGraph:
        options = {
            "law": self.options.law,
            "algorithm": self.options.algorithm,
            "layout": self.options.layout,
            "exploration": exploration,
            "generator": generator,
            "channels": self.channels,
            "dtype": query.dtype,
        }
        if in_transform():
            with sampling_model(sbm) as values:
                return sample(values, **options)
        check_recomputation(self, generator)
        try:
            return sample(sbm, **options)
        except ValueError:
            for name, x in (("x" if source.dim() == 2 else "key", source), ("query", query)):
                if not bool(torch.isfinite(x).all()):
                    raise ValueError(
                        f"'{name}' must be finite, got NaN or infinite entries"
                    ) from None
            raise

    def __prepare_scriptable__(self) -> None:
        refuse_script(type(self).__name__)

    def __repr__(self) -> str:
        dense = ", dense" if self.dense else ""
        return (
            f"{type(self).__name__}({self.channels}, heads={self.heads}, "
            f"num_clusters={self.options.num_clusters}{dense})"
        )


class _Drawn(NamedTuple):
    """One sampled graph, and what each group of heads attends over with it."""

    sbm: SBM
    graph: SampledGraph
    exploration: float
    groups: list[Attended]


@torch.compiler.disable
def _emit_weights(layer: Layer, drawn: _Drawn, alphas: list[Tensor]) -> None:
    attended, start = [], 0
    for group, alpha in zip(drawn.groups, alphas, strict=True):
        sampled = group.sampled
        if sampled is None:
            sampled = torch.full_like(alpha, not group.local, dtype=torch.bool)
        attended.append(AttendedEdges(group.graph, start, sampled, alpha))
        start += group.graph.heads
    emit(layer.module, drawn.sbm, drawn.graph, drawn.exploration, tuple(attended), layer.source)
