r"""fastRG on the GPU (Triton): proposals become bits, bits become a list.

Proposals set bits of a row-by-row bitmap of the possible edges, of which a bounded number of rows
exists at once; the bitmap merges repeated proposals and sorts. Where graphs have so many keys that
rows would be mostly empty words, proposals are listed and sorted instead. Rows that are too dense
for proposals get their bits from the dense algorithm.

The draws are those of :mod:`sbmgraph.kernels.fastrg.reference`, in float32. Thinning decides by a
number of the pair, before repetitions merge: all of them agree.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.kernels._triton.bitmap import row_words
from sbmgraph.kernels._triton.launch import launch
from sbmgraph.kernels._triton.law import at_most_one, one_minus_exp
from sbmgraph.kernels._triton.random import UNIT, edge_bits, random_bits, uniform
from sbmgraph.kernels.bits import Bits, empty_bits
from sbmgraph.kernels.bits import gpu as bits_gpu
from sbmgraph.kernels.dense import gpu as dense_gpu
from sbmgraph.kernels.fastrg.plan import Plan, plan
from sbmgraph.kernels.model import EdgeModel
from sbmgraph.kernels.random import PROPOSAL, THINNING

MAX_WORDS = 2**26
"""32-bit words of bitmap that exist at once, about."""

MAX_BITMAP_KEYS = 2**16
"""Rows of more keys than this are mostly empty words: their proposals are sorted instead."""

BITS, COUNT, LIST = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
"""What becomes of proposals: bits of the bitmap, a number for each row, or edges in a list."""

ROWS, DRAWS, BLOCKS = 2, 32, 4
"""Query vertices of a program, draws that each makes at once, and blocks that a probability sums at
once."""


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
def _waiting_time(first, last):
    """``-log(1 - v)`` of ``v = (first + last / 2^31) / 2^31``, exact to float32 for small ``v``
    too."""
    share = (first.to(tl.float32) + last.to(tl.float32) * UNIT) * UNIT
    series = share * (1 + share * (0.5 + share * (0.33333333 + share * 0.25)))
    rest = ((2147483647 - first).to(tl.float32) + 0.5) * UNIT
    return tl.where(share < 0.015625, series, -tl.log(rest))


@triton.jit
def _prob(rate, member, row, vertex, mine, mask, clusters, exploration, BLOCKS: tl.constexpr):
    """Probabilities of the edges of query vertices ``row`` [ROWS, 1], where ``mine``, and key
    vertices ``vertex`` [ROWS, DRAWS], where ``mask``."""
    prob = tl.zeros(vertex.shape, tl.float32)
    for first in range(0, clusters, BLOCKS):  # blocks of the model
        block = (first + tl.arange(0, BLOCKS))[None, None, :]
        exists = block < clusters
        w_mask, z_mask = mine[:, :, None] & exists, mask[:, :, None] & exists
        w = tl.load(rate + row[:, :, None] * clusters + block, mask=w_mask, other=0.0)
        z = tl.load(member + vertex[:, :, None] * clusters + block, mask=z_mask, other=0.0)
        prob += tl.sum(w * z, 2)
    return at_most_one(prob + exploration)


@triton.jit(do_not_specialize=["seed", "first_row", "last_row", "num_keys"])
def _propose_kernel(
    rate, member, axis, table, excess, graph, query_ptr, part_ptr, key_ptr, place_ptr, out,
    heads, clusters, num_keys, exploration, first_row, last_row, seed: tl.int64,
    ROWS: tl.constexpr, DRAWS: tl.constexpr, BLOCKS: tl.constexpr, THIN: tl.constexpr,
    MODE: tl.constexpr, PROPOSES: tl.constexpr, THINS: tl.constexpr,
):  # fmt: skip
    """A program: the proposals of a few query vertices, each a Poisson process of rate 1 on the
    vertex's axis. ``place_ptr`` says where a graph's words start, or a vertex's edges."""
    row = (first_row + tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    mine = row < last_row
    row = tl.where(mine, row, first_row)
    node, head = row // heads, row % heads
    g = tl.load(graph + node)
    local = (row - tl.load(query_ptr + g) * heads).to(tl.int32)
    low = tl.load(key_ptr + g)
    size = (tl.load(key_ptr + g + 1) - low).to(tl.int32)
    limits = axis + row * (clusters + 1)
    end = tl.where(mine, tl.load(limits + clusters), 0.0)
    factor = tl.load(excess + row)
    if MODE == BITS:
        start = row_words(row, g, part_ptr, key_ptr, place_ptr, heads)[0]
    else:
        start = tl.load(place_ptr + row)
    count = tl.zeros((ROWS, 1), tl.int64)
    time = tl.zeros((ROWS, 1), tl.float32)
    draw = tl.arange(0, DRAWS)[None, :]
    while tl.max(tl.max((time < end).to(tl.int32), 1), 0) > 0:  # DRAWS draws of each row
        wait, number, _, fine = random_bits(seed, local, g.to(tl.int32), draw, PROPOSES)
        arrival = time + tl.cumsum(_waiting_time(wait, fine), 1)  # [ROWS, DRAWS]
        proposed = arrival < end
        block = _search(limits, arrival, clusters + 1, proposed)
        explores = block == clusters
        column = table + (head * clusters + block) * num_keys + low
        key = _search(column, number, size, proposed & ~explores)
        key = tl.where(explores, ((number.to(tl.int64) * size) >> 31).to(tl.int32), key)
        if THIN:
            u = uniform(edge_bits(seed, local, g.to(tl.int32), key, THINS))
            doubtful = proposed & (u * factor >= 1)
            if tl.max(tl.max(doubtful.to(tl.int32), 1), 0) > 0:
                vertex = (low + key) * heads + head
                p = _prob(rate, member, row, vertex, mine, doubtful, clusters, exploration, BLOCKS)
                proposed = proposed & (~doubtful | (u * one_minus_exp(factor * p) < p))
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
        tl.store(out + row, count, mask=mine)


class _Proposer:
    """fastRG's proposals of a model: tables first, then kernel launches."""

    def __init__(
        self, model: EdgeModel, plan_: Plan, law: str, exploration: float, seed: int
    ) -> None:
        self.model, self.plan, self.thins = model, plan_, law == "bernoulli"
        self.exploration, self.seed = float(exploration), seed
        self.rate, self.member = (
            x.detach().float().contiguous() for x in (model.rate, model.member)
        )
        self.axis, self.excess = plan_.axis.float(), plan_.excess.float()

    def set_bits(self, first_node: int, last_node: int, ptr: Tensor, bits: Bits) -> None:
        """Sets the bits of the queries of a part, whose graphs' first queries are ``ptr``."""
        self._launch(first_node, last_node, ptr, bits.word_ptr, bits.words, BITS.value)

    def edges(self) -> Tensor:
        """Sorted distinct edges ``row * num_keys + key``."""
        rows, nodes, device = self.excess.numel(), self.model.num_queries, self.excess.device
        offset = torch.zeros(rows + 1, dtype=torch.int64, device=device)
        count = torch.empty(rows, dtype=torch.int64, device=device)
        self._launch(0, nodes, self.model.query_ptr, offset, count, COUNT.value)
        torch.cumsum(count, 0, out=offset[1:])
        edge = torch.empty(int(offset[-1]), dtype=torch.int64, device=device)
        self._launch(0, nodes, self.model.query_ptr, offset, edge, LIST.value)
        return torch.unique(edge)

    def _launch(
        self, first_node: int, last_node: int, ptr: Tensor, places: Tensor, out: Tensor, mode: int
    ) -> None:
        model, plan_ = self.model, self.plan
        rows = (last_node - first_node) * model.heads
        launch(
            _propose_kernel, (triton.cdiv(rows, ROWS),), out,
            self.rate, self.member, self.axis, plan_.table, self.excess, plan_.graph,
            model.query_ptr, ptr, model.key_ptr, places, out, model.heads, model.num_clusters,
            model.num_keys, self.exploration, first_node * model.heads, last_node * model.heads,
            self.seed, ROWS=ROWS, DRAWS=DRAWS, BLOCKS=BLOCKS, THIN=self.thins, MODE=mode,
            PROPOSES=PROPOSAL, THINS=THINNING, num_warps=1,
        )  # fmt: skip


def sample(model: EdgeModel, law: str, exploration: float, seed: int) -> tuple[Tensor, Tensor]:
    """As :func:`sbmgraph.kernels.fastrg.reference.sample`."""
    rows = model.num_queries * model.heads
    if rows == 0 or model.num_keys == 0:
        rowptr = torch.zeros(rows + 1, dtype=torch.int64, device=model.device)
        return rowptr, torch.empty(0, dtype=torch.int32, device=model.device)
    plan_ = plan(model, law, exploration)
    proposer = _Proposer(model, plan_, law, exploration, seed)
    word_ptr, total, max_keys = model.layout()
    if max_keys > MAX_BITMAP_KEYS and not bool(plan_.is_dense.any()):
        edge = proposer.edges()
        row = edge.div(model.num_keys, rounding_mode="floor")
        every = torch.arange(rows + 1, dtype=torch.int64, device=model.device)
        return torch.searchsorted(row, every), (edge - row * model.num_keys).int()
    chosen = plan_.is_dense.to(torch.uint8)
    pointers, columns, edges = [word_ptr.new_zeros(1)], [], 0
    for first, last, words in _parts(model, plan_, word_ptr, total):
        ptr = model.query_ptr.clamp(first, last)
        bits = empty_bits(ptr - first, model.key_ptr, model.heads, words)
        proposer.set_bits(first, last, ptr, bits)
        part = dense_gpu.Part(ptr, last - first, max_keys, bits)
        dense_gpu.fill(model, law, exploration, seed, part, chosen)
        rowptr, col = bits_gpu.to_csr(bits, rows=(last - first) * model.heads)
        pointers.append(rowptr[1:] + edges)
        columns.append(col)
        edges += col.numel()
    return torch.cat(pointers), torch.cat(columns) if len(columns) > 1 else columns[0]


def _parts(
    model: EdgeModel, plan_: Plan, word_ptr: Tensor, total: int
) -> list[tuple[int, int, int]]:
    """Ranges of queries whose bits exist at once, and the words of each."""
    if total <= MAX_WORDS:
        return [(0, model.num_queries, total)]
    width = (model.key_ptr.diff() + 31)[plan_.graph] // 32 * model.heads
    node_ptr = torch.cat([width.new_zeros(1), width.cumsum(0)])
    targets = torch.arange(0, total, MAX_WORDS, dtype=torch.int64, device=width.device)
    end = torch.full_like(targets[:1], model.num_queries)
    nodes = torch.unique(torch.cat([torch.searchsorted(node_ptr, targets), end]))
    bounds, starts = torch.stack([nodes, node_ptr[nodes]]).tolist()
    words = [stop - start for start, stop in pairwise(starts)]
    return [(a, b, size) for (a, b), size in zip(pairwise(bounds), words, strict=True)]
