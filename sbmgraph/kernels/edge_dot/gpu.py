r"""Inner products on edges and their two gradients on the GPU (Triton); the mathematics is that of
:mod:`sbmgraph.kernels.edge_dot.cpu`, one program for each vertex."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.kernels._triton.launch import launch, pad
from sbmgraph.kernels._triton.rows import gather, load_row, store_row
from sbmgraph.kernels.csr import CSC, CSR
from sbmgraph.kernels.options import Factors
from sbmgraph.kernels.transpose.gpu import transpose

CLUSTERS = 64
"""Channels that a program handles at once, at most."""


@triton.jit(do_not_specialize=["num_keys"])
def _dot_kernel(
    rate, member, rowptr, col, out, heads, num_keys, clusters,
    K: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    node, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    vertex = node * heads + head
    mine = head * tl.num_programs(0) + node
    start, stop = tl.load(rowptr + vertex), tl.load(rowptr + vertex + 1)
    for first in range(start, stop, EDGES):  # blocks of the vertex's edges
        edge = first + tl.arange(0, EDGES)  # [EDGES]
        inside = edge < stop
        neighbour = head * num_keys + tl.load(col + edge, mask=inside, other=0)
        prob = tl.zeros((EDGES,), ACC)
        for block in range(0, clusters, K):  # stretches of the channels
            w = load_row(rate + block, mine, clusters, clusters - block, K, ACC)
            z = gather(member + block, neighbour, inside, clusters, clusters - block, K, ACC)
            prob += tl.sum(w[None, :] * z, 1)
        tl.store(out + edge, prob, mask=inside)


@triton.jit(do_not_specialize=["others"])
def _spmm_kernel(
    ptr, index, perm, weight, dense, out, heads, others, clusters,
    K: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    node, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    block = tl.program_id(2) * K
    vertex = node * heads + head
    start, stop = tl.load(ptr + vertex), tl.load(ptr + vertex + 1)
    acc = tl.zeros((K,), ACC)
    for first in range(start, stop, EDGES):  # blocks of the vertex's edges
        place = first + tl.arange(0, EDGES)  # [EDGES]
        inside = place < stop
        neighbour = head * others + tl.load(index + place, mask=inside, other=0)
        edge = place
        if perm is not None:
            edge = tl.load(perm + place, mask=inside, other=0)
        g = tl.load(weight + edge, mask=inside, other=0.0).to(ACC)
        x = gather(dense + block, neighbour, inside, clusters, clusters - block, K, ACC)
        acc += tl.sum(g[:, None] * x, 0)
    mine = head * tl.num_programs(0) + node
    store_row(out + block, mine, clusters, clusters - block, acc, K)


def _meta(clusters: int, dtype: torch.dtype) -> dict[str, Any]:
    K = min(pad(clusters), CLUSTERS)
    acc = tl.float64 if dtype == torch.float64 else tl.float32
    return {"K": K, "EDGES": 1024 // K, "ACC": acc, "num_warps": 1}


def forward(factors: Factors, csr: CSR) -> Tensor:
    """See :func:`sbmgraph.kernels.edge_dot.operator.edge_dot`."""
    nodes, heads, clusters = factors.rate.shape
    out = factors.rate.new_empty(csr.col.numel())
    meta = _meta(clusters, out.dtype)
    launch(
        _dot_kernel, (nodes, heads), out,
        *(x.transpose(0, 1).contiguous() for x in factors), csr.rowptr, csr.col, out, heads,
        factors.member.size(0), clusters, **meta,
    )  # fmt: skip
    return out


def backward(
    grad: Tensor, factors: Factors, csr: CSR, csc: CSC | None, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """See :func:`sbmgraph.kernels.edge_dot.operator.edge_dot_backward`."""
    rate, member = factors
    drate = dmember = None
    if needs[0]:
        drate = _spmm(csr.rowptr, csr.col, None, grad, member, csr.heads)
    if needs[1]:
        if csc is None:
            csc = CSC(*transpose(csr.rowptr, csr.col, heads=csr.heads, num_keys=member.size(0)))
        dmember = _spmm(*csc, grad, rate, csr.heads)
    return drate, dmember


def _spmm(
    ptr: Tensor, index: Tensor, perm: Tensor | None, weight: Tensor, dense: Tensor, heads: int
) -> Tensor:
    """The product with ``dense`` [others, H, K], which comes head by head in memory."""
    nodes, (others, _, clusters) = (ptr.numel() - 1) // heads, dense.shape
    out = dense.new_empty(heads, nodes, clusters)
    dense = dense.transpose(0, 1).contiguous()
    meta = _meta(clusters, dense.dtype)
    grid = (nodes, heads, triton.cdiv(clusters, meta["K"]))
    launch(
        _spmm_kernel, grid, dense,
        ptr, index, perm, weight, dense, out, heads, others, clusters, **meta,
    )  # fmt: skip
    return out.transpose(0, 1)
