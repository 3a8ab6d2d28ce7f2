r"""The dense algorithm compiled for the CPU: a panel of 32 keys makes one word of a query's bits.

For a piece of query vertices :math:`i` of one head and graph, and each panel of 32 keys :math:`j`,

.. math::
    p_{ij} = \delta + \mathbf{w}_i \mathbf{z}_j^{\top}, \qquad
    \text{bit}_{ij} = [u_{ij} < p_{ij}] \quad\text{or}\quad [u_{ij} < 1 - e^{-\min(1, p_{ij})}]

under the Bernoulli and the Poisson law. Probabilities of six rows and a panel are summed in
registers; the uniform numbers :math:`u_{ij}` of a row and a panel are eight Philox counters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sbmgraph.kernels._numba.groups import by_group, cut, ranges
from sbmgraph.kernels._numba.jit import inline, jit
from sbmgraph.kernels._numba.law import one_minus_exp
from sbmgraph.kernels._numba.panels import PANEL, products, word_below
from sbmgraph.kernels._numba.random import row_uniforms
from sbmgraph.kernels._numba.threads import parallel_for
from sbmgraph.kernels.bits import Bits, empty_bits
from sbmgraph.kernels.model import EdgeModel
from sbmgraph.kernels.random import DENSE

HEIGHT = 60
"""Query vertices of a piece, a multiple of the six rows that meet a panel at once: their rates stay
in the cache while the panels pass."""


class Problem(NamedTuple):
    """What the kernel reads of a model. Rates lie head by head."""

    rate: np.ndarray  # [H * n, K]
    query_ptr: np.ndarray  # [G + 1]
    key_ptr: np.ndarray  # [G + 1]
    heads: int
    exploration: float
    poisson: bool
    seed: np.uint64


class Panels(NamedTuple):
    """Memberships as the product reads them: for each head and panel the keys of 32 columns."""

    member: np.ndarray  # [H * P * K, PANEL]
    ptr: np.ndarray  # panels of each graph [G + 1]


class Rows(NamedTuple):
    """Query vertices to sample, in order of graph, head, node, and where their words start."""

    vertex: np.ndarray  # [R]
    word: np.ndarray  # [R]


def sample(model: EdgeModel, law: str, exploration: float, seed: int) -> Bits:
    """As :func:`sbmgraph.kernels.dense.reference.sample`."""
    words = model.layout()
    bits = empty_bits(
        model.query_ptr,
        model.key_ptr,
        model.heads,
        words.total,
        word_ptr=words.ptr,
        zero=False,
    )
    fill(model, law, exploration, seed, by_group(model), bits)
    return bits


def fill(
    model: EdgeModel, law: str, exploration: float, seed: int, vertices: np.ndarray, bits: Bits
) -> None:
    """Writes the words of some query vertices of a model, given in order of graph, head, node.

    ``bits`` either has the model's heads and queries, or one head and, as queries, these vertices
    in ascending order.
    """
    problem = Problem(
        model.rate.detach().transpose(0, 1).reshape(-1, model.num_clusters).contiguous().numpy(),
        model.query_ptr.numpy(),
        model.key_ptr.numpy(),
        model.heads,
        exploration,
        law == "poisson",
        np.uint64(seed),
    )
    panels = _panels(model)
    rows = Rows(vertices, _first_words(model, vertices, bits))
    pieces = cut(model, vertices, HEIGHT)
    words = bits.words.numpy().view(np.uint32)
    parallel_for(
        lambda start, stop: _sample_pieces(start, stop, pieces, rows, problem, panels, words),
        ranges(len(pieces), 1),
    )


def _first_words(model: EdgeModel, vertices: np.ndarray, bits: Bits) -> np.ndarray:
    place = vertices
    if bits.heads != model.heads:
        place = np.empty_like(vertices)
        place[np.argsort(vertices)] = np.arange(vertices.size)
    ptr = bits.query_ptr.numpy() * bits.heads
    graph = np.searchsorted(ptr, place, side="right") - 1
    width = -(-np.diff(bits.key_ptr.numpy()) // PANEL)
    return bits.word_ptr.numpy()[graph] + (place - ptr[graph]) * width[graph]


def _panels(model: EdgeModel) -> Panels:
    counts = -(-np.diff(model.key_ptr.numpy()) // PANEL)
    ptr = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=ptr[1:])
    rows = model.member.detach().transpose(0, 1).reshape(-1, model.num_clusters)
    member = rows.contiguous().numpy()
    out = np.empty((model.heads * ptr[-1] * model.num_clusters, PANEL), member.dtype)
    units = model.heads * int(ptr[-1])
    parallel_for(
        lambda start, stop: _pack(start, stop, member, model.key_ptr.numpy(), ptr, out),
        ranges(units, 4096 // max(model.num_clusters, 1)),
    )
    return Panels(out, ptr)


@jit
def _pack(start, stop, member, key_ptr, ptr, out):
    """Walks pairs of a head and a panel: memberships [32 keys, K] become [K, 32 keys]."""
    depth, graph = member.shape[1], 0
    for unit in range(start, stop):
        h, panel = unit // ptr[-1], unit % ptr[-1]
        if panel < ptr[graph]:
            graph = 0
        while panel >= ptr[graph + 1]:
            graph += 1
        low = key_ptr[graph] + (panel - ptr[graph]) * PANEL
        width = min(PANEL, key_ptr[graph + 1] - low)
        for t in range(width):
            for k in range(depth):
                out[unit * depth + k, t] = member[h * key_ptr[-1] + low + t, k]
        for t in range(width, PANEL):
            for k in range(depth):
                out[unit * depth + k, t] = 0


@inline
def _under_poisson(prob, row):
    one = prob.dtype.type(1)
    for t in range(PANEL):
        p = prob[row, t]
        prob[row, t] = one_minus_exp(one if p > one else p)


@jit
def _sample_pieces(start, stop, pieces, rows, problem, panels, words):
    """Walks pieces, each against the panels of its graph, six query vertices at a time."""
    heads, depth = problem.heads, problem.rate.shape[1]
    num_queries, num_panels = problem.query_ptr[-1], panels.ptr[-1]
    prob = np.empty((6, PANEL), problem.rate.dtype)
    uniforms = np.empty(PANEL, np.float32)
    place = np.empty(HEIGHT, np.int64)
    for piece in range(start, stop):
        g, h, first, last = pieces[piece, 0], pieces[piece, 1], pieces[piece, 2], pieces[piece, 3]
        size = problem.key_ptr[g + 1] - problem.key_ptr[g]
        height = last - first
        for r in range(height):
            place[r] = h * num_queries + rows.vertex[first + r] // heads
        for p in range(panels.ptr[g + 1] - panels.ptr[g]):
            base = (h * num_panels + panels.ptr[g] + p) * depth
            valid = np.uint32(0xFFFFFFFF)
            if size - p * PANEL < PANEL:
                valid = np.uint32((1 << (size - p * PANEL)) - 1)
            for r in range(0, height, 6):
                end = height - 1
                six = (
                    place[r],
                    place[min(r + 1, end)],
                    place[min(r + 2, end)],
                    place[min(r + 3, end)],
                    place[min(r + 4, end)],
                    place[min(r + 5, end)],
                )
                products(problem.rate, six, panels.member, base, depth, problem.exploration, prob)
                for q in range(min(6, height - r)):
                    if problem.poisson:
                        _under_poisson(prob, q)
                    local = rows.vertex[first + r + q] - problem.query_ptr[g] * heads
                    row_uniforms(problem.seed, local, g, p * (PANEL // 4), DENSE, uniforms, 0)
                    word = word_below(uniforms, prob, q) & valid
                    words[rows.word[first + r + q] + p] = word
