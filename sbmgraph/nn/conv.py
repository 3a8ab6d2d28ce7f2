"""The SBM attention layer for PyG pipelines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.typing import Adj, OptPairTensor, PairTensor

from sbmgraph.checks import check_choice, check_flag, check_positive_int, describe
from sbmgraph.graph import SampledGraph
from sbmgraph.nn.edges import read_edges
from sbmgraph.nn.heads import Layer, SBMHeads
from sbmgraph.nn.inputs import check_features, check_size, split_batch
from sbmgraph.nn.membership import MembershipNetwork
from sbmgraph.nn.options import SBMOptions
from sbmgraph.nn.transforms import check_traceable, refuse_script
from sbmgraph.record import wants_weights

BIAS_INITS = ("zeros", "uniform")

ARGUMENTS = (
    *("in_channels", "out_channels", "heads", "concat", "dropout", "bias"),
    *("pe_channels", "edge_dim", "local_heads", "bias_init", "options"),
)
"""The arguments of :class:`SBMConv` apart from single options."""


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
        pe_channels (int, optional): Channels of a positional or structural encoding of the nodes
            that block memberships may depend on. (default: :obj:`0`)
        edge_dim (int, optional): The number of attributes of given edges; a linear function of
            them, one for each head, is added to the attention scores. (default: :obj:`None`)
        local_heads (int, optional): The first so many heads attend over the given edges only and
            sample none. (default: :obj:`0`)
        bias_init (str, optional): How the projections' biases start: :obj:`"zeros"`, or
            :obj:`"uniform"` in :math:`\pm 1 / \sqrt{C_{in}}`, as in the authors' program.
            (default: :obj:`"zeros"`)
        options (SBMOptions, optional): Options of the SBM, its sampling and attention as one
            object.
        **kwargs (optional): Single options: ``law``, ``init_density``, ``exploration`` and so on,
            see :class:`SBMOptions`.

    Shapes:
        - **input:** node features :math:`(n, C_{in})`, or :math:`((m, C_{src}), (n, C_{dst}))`;
          batch vector :math:`(n)`, or :math:`((m), (n))`, sorted; edge indices :math:`(2, E)` and
          edge attributes :math:`(E, D)` *(optional)*
        - **output:** :math:`(n, H \cdot C_{out})`, or :math:`(n, C_{out})` without :obj:`concat`

    Examples:
        >>> import torch
        >>> from sbmgraph.nn import SBMConv
        >>> conv = SBMConv(16, 32, heads=4, num_clusters=8, init_density=0.1)
        >>> conv
        SBMConv(16, 32, heads=4)
        >>> x, batch = torch.randn(7, 16), torch.tensor([0, 0, 0, 0, 1, 1, 1])
        >>> conv(x, batch).shape
        torch.Size([7, 128])
        >>> out, (edge_index, alpha) = conv(x, batch, return_attention_weights=True)
        >>> alpha.shape == (edge_index.size(1), 4)
        True

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        num_clusters: int | None = None,
        concat: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        pe_channels: int = 0,
        edge_dim: int | None = None,
        local_heads: int = 0,
        bias_init: str = "zeros",
        options: SBMOptions | None = None,
        **kwargs: Any,
    ) -> None:
        options = SBMOptions.gather(
            type(self).__name__, options, {"num_clusters": num_clusters, **kwargs}, ARGUMENTS
        )
        super().__init__(aggr="add", node_dim=0)
        in_channels = _check_channels(in_channels)
        check_positive_int("out_channels", out_channels)
        check_positive_int("heads", heads)
        check_flag("concat", concat)
        check_flag("bias", bias)
        check_choice("bias_init", bias_init, BIAS_INITS)
        if edge_dim is not None:
            check_positive_int("edge_dim", edge_dim)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.edge_dim = edge_dim
        self.bias_init = bias_init

        channels = heads * out_channels
        # PyG's name for biases in 1 / sqrt(in_channels) is None.
        initializer = None if bias_init == "uniform" else bias_init
        shared = {"bias": bias, "bias_initializer": initializer}
        self.lin_query = Linear(in_channels[1], channels, **shared)
        self.lin_key = Linear(in_channels[0], channels, **shared)
        self.lin_value = Linear(in_channels[0], channels, **shared)
        self.lin_edge = None if edge_dim is None else nn.Linear(edge_dim, heads, bias=False)
        self.attention = SBMHeads(
            out_channels,
            heads,
            dropout=dropout,
            local_heads=local_heads,
            pe_channels=pe_channels,
            options=options,
        )
        self.register_load_state_dict_pre_hook(_rename_membership)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all weights anew."""
        super().reset_parameters()
        for module in (self.lin_query, self.lin_key, self.lin_value, self.lin_edge):
            if module is not None:
                module.reset_parameters()
        self.attention.reset_parameters()

    @property
    def membership(self) -> MembershipNetwork:
        """The network that infers the heads' SBMs."""
        return self.attention.membership

    @property
    def options(self) -> SBMOptions:
        """The options of the SBM, its sampling and attention; may be set, but for those that the
        weights depend on."""
        return self.attention.options

    @options.setter
    def options(self, value: SBMOptions) -> None:
        self.attention.options = value

    @property
    def num_clusters(self) -> int:
        """The number of blocks."""
        return self.options.num_clusters

    @property
    def num_samples(self) -> int:
        """Number of sampled graphs whose outputs are averaged in evaluation; may be set."""
        return self.attention.num_samples

    @num_samples.setter
    def num_samples(self, value: int) -> None:
        self.attention.num_samples = value

    def set_dense(self, dense: bool = True, density: float | None = None) -> None:
        """Turns sampling off or on, see :meth:`SBMHeads.set_dense`."""
        self.attention.set_dense(dense, density)

    @property
    def explain(self) -> bool | None:
        """Always :obj:`False`, since the layer samples its own edges, and a mask of the input's,
        which PyG's explainers learn, is not for it; see :func:`sbmgraph.nn.explain`."""
        return False

    @explain.setter
    def explain(self, value: bool | None) -> None:
        if value:
            raise ValueError(
                f"'explain' must be False for a {type(self).__name__}, got {value!r}: its edges "
                "are sampled, so PyG's edge masks do not apply; use sbmgraph.nn.explain"
            )

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
        batch_size: int | None = None,
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
            batch_size (int, optional): The number of graphs, where the last have no nodes.

        Raises:
            ValueError: If shapes, batch vectors, edges or encodings do not fit together or the
                features are not finite.
        """
        check_traceable(type(self).__name__)
        x_src, x_dst = self._split_features(x)
        batch_src, batch_dst = split_batch(batch, bipartite=x_dst is not x_src)
        size = check_size(size, x_src, x_dst, batch_dst)
        x_src, x_dst = self._trace_source(x_src, x_dst)

        shape = (-1, self.heads, self.out_channels)
        key = self.lin_key(x_src).view(shape)
        value = self.lin_value(x_src).view(shape)
        query = self._query(x_dst, size[1], key).view(shape)
        if edge_index is None and edge_attr is not None:
            raise ValueError(
                f"'edge_attr' must come with 'edge_index', got {describe(edge_attr)} alone"
            )
        attended = self.attention(
            query,
            key,
            value,
            None if batch_src is None else (batch_src, batch_dst),
            generator=generator,
            pe=pe,
            batch_size=batch_size,
            return_attention_weights=return_attention_weights,
            layer=Layer(self, x_src, edge_index, edge_attr),
        )
        out, weights = attended if return_attention_weights else (attended, None)
        out = out.flatten(1) if self.concat else out.mean(dim=1)
        return out if weights is None else (out, weights)

    def _split_features(self, x: Any) -> tuple[Tensor, Tensor | None]:
        if isinstance(x, tuple | list) and len(x) != 2:
            raise ValueError(
                f"'x' must be a tensor or a pair of source and target features, got {len(x)} parts"
            )
        x_src, x_dst = x if isinstance(x, tuple | list) else (x, x)
        check_features("x", x_src, self.lin_key)
        if x_dst is not None and x_dst is not x_src:
            check_features("x", x_dst, self.lin_query)
        return x_src, x_dst

    def _trace_source(self, x_src: Tensor, x_dst: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The features, with a gradient where a recorder of weights explains the layer by it."""
        if torch.compiler.is_compiling() or x_src.requires_grad or not torch.is_grad_enabled():
            return x_src, x_dst
        if not wants_weights(self):
            return x_src, x_dst
        traced = x_src.detach().requires_grad_()
        return traced, traced if x_dst is x_src else x_dst

    def _query(self, x_dst: Tensor | None, num_targets: int, key: Tensor) -> Tensor:
        if x_dst is not None:
            return self.lin_query(x_dst)
        bias = self.lin_query.bias
        if bias is None:
            bias = key.new_zeros(self.lin_query.out_channels)
        return bias.to(key.dtype).expand(num_targets, -1)

    def read_edges(
        self,
        edge_index: Adj,
        edge_attr: Tensor | None,
        size: tuple[int, int],
        batch: tuple[Tensor | None, Tensor | None],
    ) -> tuple[SampledGraph, Tensor | None]:
        """The distinct given edges, and their bias for each head of shape :obj:`[E, H]`."""
        weight = self.lin_value.weight
        given = read_edges(edge_index, edge_attr, self.edge_dim, size, weight.device, *batch)
        if self.lin_edge is None or given.attr is None:
            return given.graph, None
        return given.graph, self.lin_edge(given.attr.to(self.lin_edge.weight.dtype))

    def __prepare_scriptable__(self) -> None:
        refuse_script(type(self).__name__)

    def __repr__(self) -> str:
        source, target = self.in_channels
        channels = f"{source}" if source == target else f"({source}, {target})"
        return f"{type(self).__name__}({channels}, {self.out_channels}, heads={self.heads})"


def _check_channels(in_channels: Any) -> tuple[int, int]:
    pair = in_channels if isinstance(in_channels, tuple) else (in_channels, in_channels)
    if len(pair) != 2 or any(
        isinstance(c, bool) or not isinstance(c, int) or not (c == -1 or c > 0) for c in pair
    ):
        raise ValueError(
            "'in_channels' must be a positive integer or -1, or a pair of them for source and "
            f"target nodes, got {in_channels!r}"
        )
    return pair


def _rename_membership(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Reads state dicts from before the heads were a module of their own."""
    old = f"{prefix}membership."
    for name in [name for name in state_dict if name.startswith(old)]:
        state_dict[f"{prefix}attention.membership.{name[len(old) :]}"] = state_dict.pop(name)
