"""Attention over a hand-made sparse pattern: what learned sparsity has to beat."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from sbmgraph.checks import check_positive_int, check_range
from sbmgraph.graph import SampledGraph
from sbmgraph.nn.baselines.multi_head import InnerAttention
from sbmgraph.nn.baselines.ragged import sequence_lengths
from sbmgraph.ops import edge_attention

_BITS = 31
"""Random keys are kept as fractions of a sequence's length with this many binary digits."""


class PatternAttention(InnerAttention):
    """Attention over window, global and random edges (the pattern of Zaheer et al., *Big Bird*,
    NeurIPS 2020, by tokens in place of blocks), on the package's own
    :func:`~sbmgraph.ops.edge_attention`.

    A token attends to the tokens at most ``window`` positions away, to the first ``num_global``
    tokens of its sequence, which attend to all tokens, and to ``num_random`` random ones, drawn
    anew for every position and head but the same for every sequence of one length.

    Args:
        heads (int): The number of heads.
        head_channels (int): The number of channels of a head.
        max_length (int): The longest sequence.
        window (int, optional): Reach of the window to either side. (default: :obj:`64`)
        num_global (int, optional): The number of global tokens. (default: :obj:`1`)
        num_random (int, optional): Random keys of a token and head; fewer where they coincide with
            each other or with other edges. (default: :obj:`64`)
        seed (int, optional): Seed of the random edges. (default: :obj:`0`)
        dropout (float, optional): Dropout probability of the attention weights. (default:
            :obj:`0.0`)
        backend (str, optional): See :func:`~sbmgraph.ops.edge_attention`. (default: :obj:`"auto"`)
    """

    full_precision = False

    def __init__(
        self,
        heads: int,
        head_channels: int,
        max_length: int,
        *,
        window: int = 64,
        num_global: int = 1,
        num_random: int = 64,
        seed: int = 0,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__(heads, head_channels, max_length)
        check_positive_int("window", window, minimum=0)
        check_positive_int("num_global", num_global, minimum=0)
        check_positive_int("num_random", num_random, minimum=0)
        check_positive_int("seed", seed, minimum=0)
        check_range("dropout", dropout, 0.0, 1.0, high_open=True)
        self.pattern = shared_pattern(heads, max_length, window, num_global, num_random, seed)
        self.dropout = dropout
        self.backend = backend

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        out = edge_attention(
            query,
            key,
            value,
            self.pattern.graph(query.size(0), batch, query.device),
            dropout=self.dropout,
            training=self.training,
            backend=self.backend,
        )
        return cast(Tensor, out)

    def density(self, query: Tensor, key: Tensor, batch: Tensor | None) -> float | None:
        lengths = sequence_lengths(batch, query.size(0), query.device)
        pairs = self.heads * int((lengths * lengths).sum())
        graph = self.pattern.graph(query.size(0), batch, query.device)
        return graph.num_edges / max(pairs, 1)


class EdgePattern:
    """Makes the edges of :class:`PatternAttention`, whose arguments it shares."""

    def __init__(
        self,
        heads: int,
        max_length: int,
        window: int,
        num_global: int,
        num_random: int,
        seed: int,
    ) -> None:
        self.heads = heads
        self.max_length = max_length
        self.window = window
        self.num_global = num_global
        generator = torch.Generator().manual_seed(seed)
        self.random = torch.randint(2**_BITS, (max_length, heads, num_random), generator=generator)
        self._last: SampledGraph | None = None

    def graph(self, num_tokens: int, batch: Tensor | None, device: torch.device) -> SampledGraph:
        """The pattern on a batch; the last one is kept, for the next layer.

        Raises:
            ValueError: If a sequence is longer than the pattern.
        """
        last = self._last
        if last is None or not _is_over(last, num_tokens, batch, device):
            self._last = last = self._make_graph(num_tokens, batch, device)
        return last

    # Kept for later calls, of which some may need gradients: no inference tensors.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _make_graph(
        self, num_tokens: int, batch: Tensor | None, device: torch.device
    ) -> SampledGraph:
        if batch is not None and batch.is_inference():
            batch = batch.clone()
        lengths = sequence_lengths(batch, num_tokens, device)
        if int(lengths.max()) > self.max_length:
            raise ValueError(
                f"'x' must hold sequences of at most 'max_length' = {self.max_length} tokens, "
                f"got {int(lengths.max())}"
            )
        start = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        length = lengths.repeat_interleave(lengths)
        position = torch.arange(num_tokens, device=device) - start
        key, present = self._sparse_rows(position, length)
        key += start.int().view(-1, 1, 1)
        degree = present.sum(dim=-1)
        is_global = position < self.num_global
        degree[is_global] = length[is_global].unsqueeze(1)
        rowptr = torch.cat([degree.new_zeros(1), degree.flatten().cumsum(0)])
        col = key[present]
        if self.num_global > 0:
            col = self._merge_global_rows(col, rowptr, is_global, start)
        return SampledGraph.from_csr(rowptr, col, num_tokens, self.heads, batch, batch)

    def _sparse_rows(self, position: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Candidate keys inside their sequence, and which of them are edges, each [T, H, C]; edges
        ascend along the last dimension. Global queries have none."""
        self.random = self.random.to(position.device)
        shape = (position.numel(), self.heads)
        random = self.random[position] * length.view(-1, 1, 1) >> _BITS
        random = random.int().sort(dim=-1).values
        position, length = position.int().view(-1, 1, 1), length.int().view(-1, 1, 1)
        low = (position - self.window).clamp(min=0)
        high = torch.minimum(position + self.window, length - 1)
        near = position + torch.arange(
            -self.window, self.window + 1, dtype=torch.int32, device=position.device
        )
        first = torch.arange(self.num_global, dtype=torch.int32, device=position.device)
        new = random >= self.num_global
        new[..., 1:] &= random[..., 1:] != random[..., :-1]
        candidates = (
            (first, (first < low) & (first < length)),
            (random, new & (random < low)),
            (near, (near >= low) & (near <= high)),
            (random, new & (random > high)),
        )
        key = torch.cat([k.expand(*shape, k.size(-1)) for k, _ in candidates], dim=-1)
        present = torch.cat([p.expand(*shape, p.size(-1)) for _, p in candidates], dim=-1)
        return key, present & (position >= self.num_global)

    def _merge_global_rows(
        self, sparse: Tensor, rowptr: Tensor, is_global: Tensor, start: Tensor
    ) -> Tensor:
        """Keys of all rows, given those of the rows that are not global."""
        num_edges = int(rowptr[-1])
        node = torch.arange(start.numel(), device=sparse.device).repeat_interleave(self.heads)
        degree = rowptr.diff()
        dense = is_global[node].repeat_interleave(degree, output_size=num_edges)
        col = sparse.new_empty(num_edges)
        col[~dense] = sparse
        edge = dense.nonzero().squeeze(1)
        vertex = is_global[node].nonzero().squeeze(1)
        count = degree[vertex]
        offset = (start[node[vertex]] - rowptr[vertex]).repeat_interleave(count)
        col[edge] = (edge + offset).int()
        return col


shared_pattern = lru_cache(maxsize=16)(EdgePattern)
"""The pattern of some arguments, one for all layers."""


def _is_over(
    graph: SampledGraph, num_tokens: int, batch: Tensor | None, device: torch.device
) -> bool:
    if graph.num_queries != num_tokens or graph.device != device:
        return False
    if batch is None or graph.query_batch is None:
        return batch is graph.query_batch
    return torch.equal(graph.query_batch, batch)
