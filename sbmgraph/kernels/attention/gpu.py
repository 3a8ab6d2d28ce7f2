r"""Attention over edges on the GPU (Triton): a program walks over one query vertex's edges.

The mathematics is that of :mod:`sbmgraph.kernels.attention.cpu`. Scores and weights are computed
anew in every pass, from the log-sum-exp of each query vertex's scores: no :obj:`[edges, channels]`
tensor exists. No two programs write the same place, so results do not depend on scheduling. Sums
are taken in float32, or in float64 for float64 inputs. All tensors must be contiguous.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.kernels._triton.launch import launch, pad
from sbmgraph.kernels._triton.random import random_bits, uniform
from sbmgraph.kernels._triton.rows import gather, load_row, neighbours, store_row
from sbmgraph.kernels.csr import CSR
from sbmgraph.kernels.options import Options

DROPOUT = tl.constexpr(5)
"""The purpose of a dropout's random number, see :mod:`sbmgraph.kernels.random`."""


@triton.jit
def keep(weight, key, local, g, seed, dropout):
    """Dropout of ``weight`` [EDGES], decided by the seed, the graph, the query vertex in it and the
    key in it."""
    a, b, c, d = random_bits(seed, local, g, key // 4, DROPOUT)
    word = key % 4
    bits = tl.where(word < 2, tl.where(word == 0, a, b), tl.where(word == 2, c, d))
    return tl.where(uniform(bits) < dropout, 0.0, weight * (1.0 / (1.0 - dropout)))


@triton.jit
def add_bias(score, bias, edge, inside, ACC: tl.constexpr):
    """Scores [EDGES] with the edges' biases, if there are any."""
    if bias is not None:
        score += tl.load(bias + edge, mask=inside, other=0.0).to(ACC)
    return score


@triton.jit(do_not_specialize=["seed", "scale", "dropout"])
def _forward_kernel(
    query, key, value, rowptr, col, graph, query_ptr, key_ptr, bias, out, lse,
    heads, d, dv, scale, dropout, seed: tl.int64,
    D: tl.constexpr, DV: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
    DROPS: tl.constexpr,
):  # fmt: skip
    vertex = tl.program_id(0).to(tl.int64)
    head = vertex % heads
    start, stop = tl.load(rowptr + vertex), tl.load(rowptr + vertex + 1)
    q = load_row(query, vertex, d, d, D, ACC) * scale  # [D]
    if DROPS:
        g = tl.load(graph + vertex // heads)
        local = (vertex - tl.load(query_ptr + g) * heads).to(tl.int32)
        low = tl.load(key_ptr + g)
    highest = tl.full((), float("-inf"), ACC)
    total = tl.zeros((), ACC)
    acc = tl.zeros((DV,), ACC)
    for first in range(start, stop, EDGES):  # blocks of the vertex's edges
        edge = first + tl.arange(0, EDGES)  # [EDGES]
        inside = edge < stop
        neighbour = neighbours(col, edge, inside, heads, head)
        k = gather(key, neighbour, inside, d, d, D, ACC)  # [EDGES, D]
        score = add_bias(tl.sum(q[None, :] * k, 1), bias, edge, inside, ACC)
        score = tl.where(inside, score, float("-inf"))
        raised = tl.maximum(highest, tl.max(score, 0))  # a NaN is lost here, and kept by the sums
        base = tl.where(raised == float("-inf"), 0.0, raised)
        weight = tl.exp(score - base)
        decay = tl.exp(highest - base)
        total = total * decay + tl.sum(weight, 0)
        if DROPS:
            key_in_graph = (neighbour // heads - low).to(tl.int32)
            weight = keep(weight, key_in_graph, local, g.to(tl.int32), seed, dropout)
        v = gather(value, neighbour, inside, dv, dv, DV, ACC)  # [EDGES, DV]
        acc = acc * decay + tl.sum(weight[:, None] * v, 0)
        highest = raised
    total = tl.where(total == 0, 1.0, total)
    store_row(out, vertex, dv, dv, acc / total, DV)
    tl.store(lse + vertex, highest + tl.log(total))


class Launch(NamedTuple):
    """What every pass of the attention is launched with."""

    scale: float
    geometry: tuple[Tensor, Tensor, Tensor]  # graph of each query node [n], query_ptr, key_ptr
    meta: dict[str, Any]


def plan(csr: CSR, d: int, dv: int, dtype: torch.dtype, options: Options) -> Launch:
    """Block sizes: 1024 gathered numbers for each warp, 16 edges at least."""
    D, DV = pad(d), pad(dv)
    edges = max(16, 1024 // max(D, DV))
    graph = csr.query_ptr
    if options.dropout > 0:
        nodes = torch.arange((csr.rowptr.numel() - 1) // csr.heads, device=csr.rowptr.device)
        graph = torch.bucketize(nodes, csr.query_ptr[1:], right=True)
    meta = {
        "D": D,
        "DV": DV,
        "EDGES": edges,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
        "DROPS": options.dropout > 0,
        "num_warps": max(1, edges * max(D, DV) // 1024),
    }
    return Launch(options.scale, (graph, csr.query_ptr, csr.key_ptr), meta)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are taken in."""
    return torch.promote_types(dtype, torch.float32)


def scaled(query: Tensor, scale: float) -> tuple[Tensor, float]:
    """Triton takes a Python float for a float32: float64 queries are scaled beforehand."""
    return (query * scale, 1.0) if query.dtype == torch.float64 else (query, scale)


def forward(
    query: Tensor, key: Tensor, value: Tensor, csr: CSR, bias: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """See :func:`sbmgraph.kernels.attention.operator.attention`."""
    (rows, d), dv = query.shape, value.size(1)
    out = query.new_empty(rows, dv)
    lse = query.new_empty(rows, dtype=accumulator(query.dtype))
    launch_ = plan(csr, d, dv, query.dtype, options)
    queries, scale = scaled(query, options.scale)
    launch(
        _forward_kernel, (rows,), query,
        queries, key, value, csr.rowptr, csr.col, *launch_.geometry, bias, out, lse,
        csr.heads, d, dv, scale, options.dropout, options.seed, **launch_.meta,
    )  # fmt: skip
    return out, lse
