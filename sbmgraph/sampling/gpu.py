r"""Both sampling algorithms on the GPU (Triton): edges become bits, bits become CSR.

Both algorithms set bits of a row-by-row bitmap of the possible edges, of which a bounded number of
rows exists at once; the bitmap merges repeated proposals and sorts. Reading it out gives CSR. The
host waits for nothing but numbers of edges (and, in a batch of several graphs, for their sizes).

Random numbers are hashes of the seed and of (graph, query vertex in the graph, draw or key in the
graph): a graph's sample does not depend on the graphs it is batched with. Probabilities are taken
in float32, uniform numbers have 31 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.kernels.csr import from_sorted as _csr_from_sorted
from sbmgraph.kernels._triton.launch import launch, pad
from sbmgraph.kernels._triton.random import UNIT, random_bits, uniform
from sbmgraph.sampling.reference import MAX_BOUND, _row_bound
from sbmgraph.sbm import SBM

MAX_WORDS = 2**26
"""32-bit words of bitmap that exist at once, about."""

MAX_BITMAP_KEYS = 2**16
"""Rows of more keys than this are mostly empty words: fastRG sorts their proposals instead."""

PROPOSAL, THINNING, DENSE = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
"""What a random number is for: the last word of its counter."""

BITS, COUNT, LIST = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
"""What becomes of proposals: bits of the bitmap, a number for each row, or edges in a list."""

PROPOSAL_ROWS, PROPOSAL_DRAWS = 2, 32
"""fastRG: query vertices of a program, and draws that each makes at once."""

READ_ENTRIES = 512
"""Words of the bitmap that a program reads at once."""

TILE_ROWS, TILE_KEYS, TILE_SPAN = 64, 64, 256
"""The dense algorithm: queries and keys of a tile, and keys that one program goes through."""


# fastRG ###########################################################################################


@triton.jit
def _search(base, value, size, mask):
    """Where the first of ``size`` ascending numbers stands that is above ``value``; else the last.
    ``size`` may differ from element to element."""
    position = tl.zeros(value.shape, tl.int32)
    left = position + size
    while tl.max(tl.max(left, 1), 0) > 1:
        half = tl.maximum(left // 2, 1)
        step = position + half
        entry = tl.load(base + (step - 1), mask=mask & (left > 1), other=0)
        position = tl.where((left > 1) & (entry <= value), step, position)
        left = tl.where(left > 1, left - half, left)
    return position


@triton.jit
def _one_minus_exp(x):
    """``1 - exp(-x)`` for ``x >= 0`` without cancellation."""
    series = x * (1 - x * (0.5 - x * (0.16666667 - x * 0.041666668)))
    return tl.where(x < 0.03, series, 1 - tl.exp(-x))


@triton.jit
def _prob(rate, member, row, vertex, mine, mask, clusters, exploration, K: tl.constexpr):
    """Probabilities of the edges of query vertices ``row``, where ``mine``, and key vertices
    ``vertex``, where ``mask``."""
    prob = tl.zeros(vertex.shape, tl.float32)
    for first in range(0, clusters, K):
        block = (first + tl.arange(0, K))[None, None, :]
        exists = block < clusters
        w_mask, z_mask = mine[:, :, None] & exists, mask[:, :, None] & exists
        w = tl.load(rate + row[:, :, None] * clusters + block, mask=w_mask, other=0.0)
        z = tl.load(member + vertex[:, :, None] * clusters + block, mask=z_mask, other=0.0)
        prob += tl.sum(w * z, 2)
    return tl.minimum(prob + exploration, 1.0)


@triton.jit(do_not_specialize=["seed", "first_row", "last_row"])
def _propose_kernel(
    rate, member, cumulative, table, excess, graph, query_ptr, key_ptr, start_ptr, out,
    heads, clusters, num_keys, exploration, first_row, last_row, seed,
    ROWS: tl.constexpr, DRAWS: tl.constexpr, K: tl.constexpr, THIN: tl.constexpr,
    MODE: tl.constexpr,
):  # fmt: skip
    """The proposals of a few query vertices: each is a Poisson process of rate 1 on the axis of the
    vertex's cumulative block means, so that an arrival's place tells its block."""
    row = (first_row + tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    mine = row < last_row
    node, head = row // heads, row % heads
    g = tl.load(graph + node, mask=mine, other=0)
    local = ((node - tl.load(query_ptr + g)) * heads + head).to(tl.int32)
    low = tl.load(key_ptr + g)
    size = (tl.load(key_ptr + g + 1) - low).to(tl.int32)
    axis = cumulative + row * (clusters + 1)
    end = tl.load(axis + clusters, mask=mine, other=0.0)
    factor = tl.load(excess + row, mask=mine, other=0.0)
    start = tl.load(start_ptr + row, mask=mine, other=0) - tl.load(start_ptr + first_row)
    count = tl.zeros((ROWS, 1), tl.int64)
    time = tl.zeros((ROWS, 1), tl.float32)
    draw = tl.arange(0, DRAWS)[None, :]
    while tl.max(tl.max((time < end).to(tl.int32), 1), 0) > 0:
        wait, place, _, _ = random_bits(seed, local, g.to(tl.int32), draw, PROPOSAL)
        arrival = time - tl.cumsum(tl.log((wait.to(tl.float32) + 0.5) * UNIT), 1)
        proposed = arrival < end
        block = _search(axis, arrival, clusters + 1, proposed)
        explores = block == clusters
        column = table + (head * clusters + block) * num_keys + low
        key = _search(column, place, size, proposed & ~explores)
        key = tl.where(explores, ((place.to(tl.int64) * size) >> 31).to(tl.int32), key)
        if THIN:
            bits, _, _, _ = random_bits(seed, local, g.to(tl.int32), key, THINNING)
            u = uniform(bits)
            doubtful = proposed & (u * factor >= 1)
            if tl.max(tl.max(doubtful.to(tl.int32), 1), 0) > 0:
                vertex = (low + key) * heads + head
                p = _prob(rate, member, row, vertex, mine, doubtful, clusters, exploration, K)
                proposed = proposed & (~doubtful | (u * _one_minus_exp(factor * p) < p))
        if MODE == BITS:
            tl.atomic_or(out + start + key // 32, 1 << (key % 32), mask=proposed, sem="relaxed")
        else:
            kept = proposed.to(tl.int64)
            if MODE == LIST:
                edge = row * num_keys + low + key
                tl.store(out + start + count + tl.cumsum(kept, 1) - 1, edge, mask=proposed)
            count += tl.sum(kept, 1)[:, None]
        time = tl.max(arrival, 1)[:, None]
        draw += DRAWS
    if MODE == COUNT:
        tl.store(out + (row - first_row), count, mask=mine)


# Dense ############################################################################################


@triton.jit(do_not_specialize=["seed", "first_node", "last_node"])
def _dense_kernel(
    rate, member, chosen, query_ptr, key_ptr, tile_ptr, tile_graph, word_ptr, out,
    heads, clusters, num_graphs, exploration, first_node, last_node, seed,
    ROWS: tl.constexpr, KEYS: tl.constexpr, SPAN: tl.constexpr, K: tl.constexpr,
    POISSON: tl.constexpr,
):  # fmt: skip
    """A tile of queries of one graph and head against a span of the graph's keys."""
    tile, head = tl.program_id(0), tl.program_id(1)
    g = tl.load(tile_graph + tile)
    if g >= num_graphs:
        return
    first_query = tl.load(query_ptr + g)
    low = tl.load(key_ptr + g)
    size = (tl.load(key_ptr + g + 1) - low).to(tl.int32)
    start = tl.program_id(2) * SPAN
    node = first_query + (tile - tl.load(tile_ptr + g)) * ROWS + tl.arange(0, ROWS)
    row = node * heads + head
    mine = (node >= first_node) & (node < last_node) & (node < tl.load(query_ptr + g + 1))
    if chosen is not None:
        mine = mine & (tl.load(chosen + row, mask=mine, other=0) != 0)
    if (start >= size) | (tl.max(mine.to(tl.int32), 0) == 0):
        return
    local = ((node - first_query) * heads + head).to(tl.int32)
    word = tl.load(word_ptr + row, mask=mine, other=0) - tl.load(word_ptr + first_node * heads)
    for first in range(start, tl.minimum(start + SPAN, size), KEYS):
        key = first + tl.arange(0, KEYS)
        inside = key < size
        vertex = (low + key) * heads + head
        prob = tl.zeros((ROWS, KEYS), tl.float32)
        for base in range(0, clusters, K):
            block = base + tl.arange(0, K)
            exists = block < clusters
            w = tl.load(
                rate + row[:, None] * clusters + block[None, :],
                mask=mine[:, None] & exists[None, :],
                other=0.0,
            )
            z = tl.load(
                member + vertex[None, :] * clusters + block[:, None],
                mask=inside[None, :] & exists[:, None],
                other=0.0,
            )
            prob = tl.dot(w, z, prob, input_precision="ieee")
        prob = tl.minimum(prob + exploration, 1.0)
        if POISSON:
            prob = _one_minus_exp(prob)
        four_keys = first // 4 + tl.arange(0, KEYS // 4)
        a, b, c, d = random_bits(seed, local[:, None], g.to(tl.int32), four_keys[None, :], DENSE)
        bits = tl.join(tl.join(a, c), tl.join(b, d)).reshape(ROWS, KEYS)
        edge = (uniform(bits) < prob) & inside[None, :]
        packed = edge.reshape(ROWS, KEYS // 32, 32).to(tl.int32) << tl.arange(0, 32)[None, None, :]
        place = first // 32 + tl.arange(0, KEYS // 32)
        exists = mine[:, None] & (place * 32 < size)[None, :]
        tl.store(out + word[:, None] + place[None, :], tl.sum(packed, 2), mask=exists)


# From bits to CSR #################################################################################


@triton.jit
def _popcount(word):
    """Number of bits set in a uint32."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24).to(tl.int32)


@triton.jit(do_not_specialize=["first_row", "last_row"])
def _read_kernel(
    bits, word_ptr, rowptr, out, graph, key_ptr, heads, first_row, last_row,
    ROWS: tl.constexpr, WORDS: tl.constexpr, FILL: tl.constexpr,
):  # fmt: skip
    """Counts the edges of a few query vertices, or lists their keys in order."""
    local = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    row = first_row + local
    mine = row < last_row
    shift = tl.load(word_ptr + first_row)
    start = tl.load(word_ptr + row, mask=mine, other=0)
    width = tl.load(word_ptr + row + 1, mask=mine, other=0) - start
    count = tl.zeros((ROWS, 1), tl.int64)
    low = tl.zeros((ROWS, 1), tl.int32)
    if FILL:
        count += tl.load(rowptr + local, mask=mine, other=0)
        g = tl.load(graph + row // heads, mask=mine, other=0)
        low += tl.load(key_ptr + g).to(tl.int32)
    for first in range(0, tl.max(tl.max(width, 1), 0), WORDS):
        place = first + tl.arange(0, WORDS)[None, :]
        word = tl.load(bits + (start - shift) + place, mask=place < width, other=0)
        word = word.to(tl.uint32, bitcast=True)
        number = _popcount(word)
        if FILL:
            position = count + tl.cumsum(number, 1) - number
            key = low + place.to(tl.int32) * 32
            while tl.max(tl.max(word, 1), 0) > 0:
                rest = word & (word - 1)
                bit = _popcount((word ^ rest) - 1)
                tl.store(out + position, key + bit, mask=word != 0)
                position += 1
                word = rest
        count += tl.sum(number, 1)[:, None]
    if not FILL:
        tl.store(out + local, count, mask=mine)


# The samplers #####################################################################################


class _Model(NamedTuple):
    """An SBM in the kernels' terms.

    Attributes:
        rate: Rates of the query vertices, float32 of shape :obj:`[n * H, K]`.
        member: Memberships of the key vertices, float32 of shape :obj:`[m * H, K]`.
        graph: Graph of each query node, int64 of shape :obj:`[n]`.
        word_ptr: Where each query vertex's words of the bitmap start, int64 of shape
            :obj:`[n * H + 1]`; a bit for each key of its graph.
        chunks: First and last node of each part of the bitmap that exists at once, and its words.
        max_keys: The number of keys of the largest graph.
    """

    rate: Tensor
    member: Tensor
    graph: Tensor
    word_ptr: Tensor
    chunks: list[tuple[int, int, int]]
    max_keys: int


def _model(sbm: SBM) -> _Model:
    rate = sbm.rate.detach().float().contiguous().flatten(0, 1)
    member = sbm.key_membership.detach().float().contiguous().flatten(0, 1)
    graph = sbm.query_batch
    if graph is None:
        graph = torch.zeros(sbm.num_queries, dtype=torch.int64, device=sbm.device)
    words = (sbm.key_ptr.diff() + 31).div(32, rounding_mode="floor")
    rows = sbm.num_queries * sbm.heads
    word_ptr = torch.zeros(rows + 1, dtype=torch.int64, device=sbm.device)
    torch.cumsum(words[graph].repeat_interleave(sbm.heads), 0, out=word_ptr[1:])
    if sbm.num_graphs == 1:
        max_keys, total = sbm.num_keys, rows * triton.cdiv(sbm.num_keys, 32)
    else:
        max_keys, total = torch.stack([sbm.key_ptr.diff().max(), word_ptr[-1]]).tolist()
    return _Model(rate, member, graph, word_ptr, _chunks(sbm, word_ptr, total), max_keys)


def _chunks(sbm: SBM, word_ptr: Tensor, total: int) -> list[tuple[int, int, int]]:
    if total <= MAX_WORDS:
        return [(0, sbm.num_queries, total)]
    node_ptr = word_ptr[:: sbm.heads].contiguous()
    targets = torch.arange(0, total, MAX_WORDS, device=sbm.device)
    cuts = torch.searchsorted(node_ptr, targets)
    nodes = torch.unique(torch.cat([cuts, cuts.new_tensor([sbm.num_queries])]))
    bounds, starts = torch.stack([nodes, node_ptr[nodes]]).tolist()
    words = [stop - start for start, stop in pairwise(starts)]
    return [(a, b, size) for (a, b), size in zip(pairwise(bounds), words, strict=True)]


def sample_fastrg(sbm: SBM, law: str, exploration: float, seed: int) -> tuple[Tensor, Tensor]:
    r"""fastRG by rows; the law and the proposals are those of
    :func:`sbmgraph.sampling.reference.sample_fastrg`.

    A query's proposals are the arrivals of a Poisson process on an axis where every block takes its
    mean number of proposals: an arrival's place tells the block, and a uniform number the key, by
    binary search in the block's cumulative memberships. Thinning decides by a random number of the
    edge, so that repeated proposals agree before they merge.
    """
    if sbm.num_queries == 0 or sbm.num_keys == 0:
        return _no_edges(sbm)
    model = _model(sbm)
    bound = _row_bound(sbm, exploration).reshape(-1)
    is_dense = bound > MAX_BOUND[law]
    excess = torch.ones_like(bound)
    if law == "bernoulli":
        safe = bound.clamp(1e-12, MAX_BOUND[law])
        excess = -torch.log1p(-safe) / safe
    excess = excess.masked_fill(is_dense, 0.0).float()
    proposer = _Proposer(sbm, model, law, exploration, excess, seed)
    if model.max_keys > MAX_BITMAP_KEYS and not bool(is_dense.any()):
        return _csr_from_sorted(proposer.edges(), excess.numel(), sbm.num_keys)
    chosen = is_dense.to(torch.uint8)

    def fill(first: int, last: int, bits: Tensor) -> None:
        proposer.set_bits(first, last, bits.zero_())
        _set_dense_bits(sbm, model, law, exploration, seed, chosen, first, last, bits)

    return _read_chunks(sbm, model, fill)


def sample_dense(sbm: SBM, law: str, exploration: float, seed: int) -> tuple[Tensor, Tensor]:
    """Compares every edge probability with a uniform number, tile by tile."""
    if sbm.num_queries == 0 or sbm.num_keys == 0:
        return _no_edges(sbm)
    model = _model(sbm)

    def fill(first: int, last: int, bits: Tensor) -> None:
        _set_dense_bits(sbm, model, law, exploration, seed, None, first, last, bits)

    return _read_chunks(sbm, model, fill)


def _no_edges(sbm: SBM) -> tuple[Tensor, Tensor]:
    rowptr = torch.zeros(sbm.num_queries * sbm.heads + 1, dtype=torch.int64, device=sbm.device)
    return rowptr, rowptr.new_empty(0, dtype=torch.int32)


class _Proposer:
    """fastRG's proposals of an SBM: tables first, then kernel launches."""

    def __init__(
        self, sbm: SBM, model: _Model, law: str, exploration: float, excess: Tensor, seed: int
    ) -> None:
        self.sbm, self.model, self.excess = sbm, model, excess
        self.exploration, self.seed, self.thin = exploration, seed, law == "bernoulli"
        mass, self.table = _key_tables(sbm)
        mean = sbm.rate.detach() * mass.to(sbm.rate.dtype)[model.graph]
        explored = (exploration * sbm.key_ptr.diff())[model.graph].to(mean.dtype)
        explored = explored.view(-1, 1, 1).expand(-1, sbm.heads, 1)
        mean = torch.cat([mean, explored], -1).flatten(0, 1) * excess.unsqueeze(1)
        self.cumulative = torch.cumsum(mean, 1).float()

    def set_bits(self, first_node: int, last_node: int, bits: Tensor) -> None:
        self._launch(first_node, last_node, self.model.word_ptr, bits, BITS.value)

    def edges(self) -> Tensor:
        """Sorted distinct edges ``row * num_keys + key``."""
        rows, nodes = self.excess.numel(), self.sbm.num_queries
        offset = torch.zeros(rows + 1, dtype=torch.int64, device=self.sbm.device)
        count = torch.empty_like(offset[1:])
        self._launch(0, nodes, offset, count, COUNT.value)
        torch.cumsum(count, 0, out=offset[1:])
        edge = torch.empty(int(offset[-1]), dtype=torch.int64, device=self.sbm.device)
        self._launch(0, nodes, offset, edge, LIST.value)
        return torch.unique(edge)

    def _launch(
        self, first_node: int, last_node: int, pointer: Tensor, out: Tensor, mode: int
    ) -> None:
        sbm, model = self.sbm, self.model
        rows = (last_node - first_node) * sbm.heads
        launch(
            _propose_kernel, (triton.cdiv(rows, PROPOSAL_ROWS),), out,
            model.rate, model.member, self.cumulative, self.table, self.excess, model.graph,
            sbm.query_ptr, sbm.key_ptr, pointer, out, sbm.heads, sbm.num_clusters, sbm.num_keys,
            self.exploration, first_node * sbm.heads, last_node * sbm.heads, self.seed,
            ROWS=PROPOSAL_ROWS, DRAWS=PROPOSAL_DRAWS, K=4, THIN=self.thin, MODE=mode, num_warps=1,
        )  # fmt: skip


def _key_tables(sbm: SBM) -> tuple[Tensor, Tensor]:
    """Summed memberships of every graph, of shape :obj:`[num_graphs, H, K]`, and cumulative
    memberships of a graph's keys in 2⁻³¹ths of their sum, int32 of shape :obj:`[H, K, m]`."""
    member = sbm.key_membership.detach().permute(1, 2, 0)
    cumulative = torch.zeros(
        *member.shape[:2], sbm.num_keys + 1, dtype=torch.float64, device=sbm.device
    )
    torch.cumsum(member, dim=-1, dtype=torch.float64, out=cumulative[..., 1:])
    at_ptr = cumulative[..., sbm.key_ptr]
    mass = at_ptr.diff(dim=-1)
    steps = 2.0**31 / mass.clamp(min=1e-200)
    share = cumulative[..., 1:]
    if sbm.num_graphs == 1 or sbm.key_batch is None:
        share.mul_(steps)
    else:
        share.sub_(at_ptr[..., sbm.key_batch]).mul_(steps[..., sbm.key_batch])
    return mass.permute(2, 0, 1), share.clamp_(max=2.0**31 - 1).int().contiguous()


def _set_dense_bits(
    sbm: SBM,
    model: _Model,
    law: str,
    exploration: float,
    seed: int,
    chosen: Tensor | None,
    first_node: int,
    last_node: int,
    bits: Tensor,
) -> None:
    tiles = (sbm.query_ptr.diff() + TILE_ROWS - 1).div(TILE_ROWS, rounding_mode="floor")
    tile_ptr = torch.zeros_like(sbm.query_ptr)
    torch.cumsum(tiles, 0, out=tile_ptr[1:])
    most = sbm.num_queries // TILE_ROWS + sbm.num_graphs
    tile_graph = torch.searchsorted(tile_ptr[1:], torch.arange(most, device=sbm.device), right=True)
    launch(
        _dense_kernel, (most, sbm.heads, triton.cdiv(model.max_keys, TILE_SPAN)), bits,
        model.rate, model.member, chosen, sbm.query_ptr, sbm.key_ptr, tile_ptr, tile_graph,
        model.word_ptr, bits, sbm.heads, sbm.num_clusters, sbm.num_graphs, exploration,
        first_node, last_node, seed,
        ROWS=TILE_ROWS, KEYS=TILE_KEYS, SPAN=TILE_SPAN, K=min(pad(sbm.num_clusters), 32),
        POISSON=law == "poisson", num_warps=4,
    )  # fmt: skip


def _read_chunks(
    sbm: SBM, model: _Model, fill: Callable[[int, int, Tensor], None]
) -> tuple[Tensor, Tensor]:
    """CSR of the bitmap that ``fill`` sets, a part at a time."""
    pointers, columns, total = [model.word_ptr.new_zeros(1)], [], 0
    for first, last, words in model.chunks:
        bits = torch.empty(words, dtype=torch.int32, device=sbm.device)
        fill(first, last, bits)
        rowptr, col = _read_bits(sbm, model, first, last, bits)
        pointers.append(rowptr[1:] + total)
        columns.append(col)
        total += col.numel()
    return torch.cat(pointers), torch.cat(columns) if len(columns) > 1 else columns[0]


def _read_bits(
    sbm: SBM, model: _Model, first_node: int, last_node: int, bits: Tensor
) -> tuple[Tensor, Tensor]:
    rows = (last_node - first_node) * sbm.heads
    rowptr = torch.zeros(rows + 1, dtype=torch.int64, device=sbm.device)
    count = torch.empty_like(rowptr[1:])
    words = min(128, triton.next_power_of_2(triton.cdiv(model.max_keys, 32)))
    tile = READ_ENTRIES // words

    def read(out: Tensor, fill: bool) -> None:
        launch(
            _read_kernel, (triton.cdiv(rows, tile),), bits,
            bits, model.word_ptr, rowptr, out, model.graph, sbm.key_ptr, sbm.heads,
            first_node * sbm.heads, last_node * sbm.heads,
            ROWS=tile, WORDS=words, FILL=fill, num_warps=4,
        )  # fmt: skip

    read(count, fill=False)
    torch.cumsum(count, 0, out=rowptr[1:])
    col = torch.empty(int(rowptr[-1]), dtype=torch.int32, device=sbm.device)
    read(col, fill=True)
    return rowptr, col
