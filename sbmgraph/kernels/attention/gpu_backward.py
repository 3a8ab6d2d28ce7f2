r"""Gradients of attention over edges on the GPU (Triton); the mathematics is that of
:mod:`sbmgraph.kernels.attention.cpu_backward`.

Those of queries, biases and the gate walk a query vertex's edges in CSR, those of keys and values a
key vertex's edges in CSC, each vertex in one program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.kernels._triton.launch import launch
from sbmgraph.kernels._triton.rows import gather, load_row, neighbours, store_row
from sbmgraph.kernels.attention.gpu import add_bias, keep, plan, scaled
from sbmgraph.kernels.attention.inputs import Inputs, Needs
from sbmgraph.kernels.csr import CSC
from sbmgraph.kernels.edge_dot import gpu as edge_dot
from sbmgraph.kernels.options import Options
from sbmgraph.kernels.transpose.gpu import transpose


@triton.jit
def _weights(score, lse, inside):
    """Attention weights [EDGES] of scores and the log-sum-exp of their query vertices."""
    return tl.where(inside & (score != float("-inf")), tl.exp(score - lse), 0.0)


@triton.jit(do_not_specialize=["seed", "scale", "dropout"])
def _query_kernel(
    grad, query, key, value, lse, delta, rowptr, col, graph, query_ptr, key_ptr, bias, dquery,
    dbias, dgate, heads, d, dv, scale, dropout, seed: tl.int64,
    D: tl.constexpr, DV: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
    DROPS: tl.constexpr, LOGIT: tl.constexpr,
):  # fmt: skip
    vertex = tl.program_id(0).to(tl.int64)
    head = vertex % heads
    start, stop = tl.load(rowptr + vertex), tl.load(rowptr + vertex + 1)
    q = load_row(query, vertex, d, d, D, ACC) * scale  # [D]
    out_grad = load_row(grad, vertex, dv, dv, DV, ACC)  # [DV]
    row_lse, row_delta = tl.load(lse + vertex), tl.load(delta + vertex)
    if DROPS:
        g = tl.load(graph + vertex // heads)
        local = (vertex - tl.load(query_ptr + g) * heads).to(tl.int32)
        low = tl.load(key_ptr + g)
    acc = tl.zeros((D,), ACC)
    for first in range(start, stop, EDGES):  # blocks of the vertex's edges
        edge = first + tl.arange(0, EDGES)  # [EDGES]
        inside = edge < stop
        neighbour = neighbours(col, edge, inside, heads, head)
        k = gather(key, neighbour, inside, d, d, D, ACC)  # [EDGES, D]
        score = add_bias(tl.sum(q[None, :] * k, 1), bias, edge, inside, ACC)
        v = gather(value, neighbour, inside, dv, dv, DV, ACC)  # [EDGES, DV]
        product = tl.sum(out_grad[None, :] * v, 1)
        weight = _weights(score, row_lse, inside)
        kept = weight
        if DROPS:
            key_in_graph = (neighbour // heads - low).to(tl.int32)
            kept = keep(weight, key_in_graph, local, g.to(tl.int32), seed, dropout)
        ds = kept * product - weight * row_delta
        if dbias is not None:
            tl.store(dbias + edge, ds, mask=inside)
        if dgate is not None:
            if LOGIT:
                gate = tl.where(score == float("-inf"), 0.0, ds * score)
                tl.store(dgate + edge, gate, mask=inside)
            else:
                gate = tl.where(ds != ds, ds, tl.minimum(tl.maximum(ds, -1.0), 1.0))
                tl.store(dgate + edge, gate, mask=inside)
        acc += tl.sum(ds[:, None] * k, 0)
    if dquery is not None:
        store_row(dquery, vertex, d, d, acc * scale, D)


@triton.jit(do_not_specialize=["seed", "scale", "dropout"])
def _key_kernel(
    grad, query, key, value, lse, delta, colptr, row, perm, graph, query_ptr, key_ptr, bias, dkey,
    dvalue, heads, d, dv, scale, dropout, seed: tl.int64,
    D: tl.constexpr, DV: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
    DROPS: tl.constexpr,
):  # fmt: skip
    vertex = tl.program_id(0).to(tl.int64)
    head = vertex % heads
    start, stop = tl.load(colptr + vertex), tl.load(colptr + vertex + 1)
    k = load_row(key, vertex, d, d, D, ACC) * scale  # [D]
    v = load_row(value, vertex, dv, dv, DV, ACC)  # [DV]
    key_acc = tl.zeros((D,), ACC)
    value_acc = tl.zeros((DV,), ACC)
    if DROPS:  # the queries at the other ends are all of the key's graph
        some = tl.load(row + start, mask=start < stop, other=0)
        g = tl.load(graph + some, mask=start < stop, other=0)
        first_vertex = tl.load(query_ptr + g) * heads
        key_in_graph = (vertex // heads - tl.load(key_ptr + g)).to(tl.int32)
    for first in range(start, stop, EDGES):  # blocks of the vertex's edges
        place = first + tl.arange(0, EDGES)  # [EDGES]
        inside = place < stop
        neighbour = neighbours(row, place, inside, heads, head)
        edge = place
        if bias is not None:
            edge = tl.load(perm + place, mask=inside, other=0)
        q = gather(query, neighbour, inside, d, d, D, ACC)  # [EDGES, D]
        score = add_bias(tl.sum(q * k[None, :], 1), bias, edge, inside, ACC)
        out_grad = gather(grad, neighbour, inside, dv, dv, DV, ACC)  # [EDGES, DV]
        weight = _weights(score, tl.load(lse + neighbour, mask=inside, other=0.0), inside)
        kept = weight
        if DROPS:
            local = (neighbour - first_vertex).to(tl.int32)
            kept = keep(weight, key_in_graph, local, g.to(tl.int32), seed, dropout)
        product = tl.sum(out_grad * v[None, :], 1)
        ds = kept * product - weight * tl.load(delta + neighbour, mask=inside, other=0.0)
        key_acc += tl.sum(ds[:, None] * q, 0)
        value_acc += tl.sum(kept[:, None] * out_grad, 0)
    if dkey is not None:
        store_row(dkey, vertex, d, d, key_acc * scale, D)
    if dvalue is not None:
        store_row(dvalue, vertex, dv, dv, value_acc, DV)


def backward(
    grad_out: Tensor,
    inputs: Inputs,
    results: tuple[Tensor, Tensor],
    options: Options,
    needs: Needs,
) -> tuple[Tensor | None, ...]:
    """As :func:`sbmgraph.kernels.attention.cpu_backward.backward`."""
    query, key, value, csr, csc, bias, factors, sampled = inputs
    out, lse = results
    d, dv = query.size(1), value.size(1)
    if csc is None and (needs.key or needs.value or needs.member):
        num_keys = key.size(0) // csr.heads
        csc = CSC(*transpose(csr.rowptr, csr.col, heads=csr.heads, num_keys=num_keys))
    dquery, dkey, dvalue = (
        torch.empty_like(x) if need else None
        for x, need in zip((query, key, value), needs[:3], strict=True)
    )
    dbias, dgate = (
        lse.new_empty(csr.col.numel()) if need else None
        for need in (needs.bias, needs.rate or needs.member)
    )
    delta = (out.to(lse.dtype) * grad_out.to(lse.dtype)).sum(-1)
    queries, scale = scaled(query, options.scale)
    launch_ = plan(csr, d, dv, query.dtype, options)
    numbers = (csr.heads, d, dv, scale, options.dropout, options.seed)
    shared = (grad_out, queries, key, value, lse, delta)
    if dquery is not None or dbias is not None or dgate is not None:
        launch(
            _query_kernel, (query.size(0),), query,
            *shared, csr.rowptr, csr.col, *launch_.geometry, bias, dquery, dbias, dgate, *numbers,
            LOGIT=options.estimator == "logit", **launch_.meta,
        )  # fmt: skip
        if dquery is not None and scale != options.scale:
            dquery *= options.scale
    if csc is not None and (dkey is not None or dvalue is not None):
        launch(
            _key_kernel, (key.size(0),), query,
            *shared, *csc, *launch_.geometry, bias, dkey, dvalue, *numbers, **launch_.meta,
        )  # fmt: skip
    if dbias is not None and bias is not None:
        dbias = dbias.to(bias.dtype)
    drate = dmember = None
    if dgate is not None and factors is not None:
        if sampled is not None:
            dgate *= sampled
        drate, dmember = edge_dot.backward(dgate, factors, csr, csc, (needs.rate, needs.member))
    return dquery, dkey, dvalue, dbias, drate, dmember
