r"""Edge attention on the GPU: one program for each vertex walks over its edges (Triton).

Forward and the gradients of the query side walk a query vertex's edges in CSR, the gradients of
the key side a key vertex's edges in CSC. Scores and weights are computed anew in every pass, from
``lse``, the log-sum-exp of each query vertex's scores: no :obj:`[edges, channels]` tensor exists.
No two programs write the same place, so results do not depend on scheduling.

A vertex is a (node, head) pair, numbered ``node * heads + head``. Sums are taken in float32, or in
float64 for float64 inputs. All tensors must be contiguous.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.ops.triton_common import launch, pad, random_bits, uniform

NEEDS_CSC = True

MIN_PARTS, MAX_PARTS = 32, 128
"""Parts of the queries whose edges are transposed at once; their counters must not outnumber the
edges, and each part is one program's work."""

CLUSTERS = 64
"""Blocks of the model that a program of the edge probabilities handles at once, at most."""


@triton.jit
def _gather(base, vertex, inside, pitch, width, WIDTH: tl.constexpr, ACC: tl.constexpr):
    """The first ``width`` channels of rows ``vertex`` that lie ``pitch`` apart; zeros where not
    ``inside``."""
    channel = tl.arange(0, WIDTH)
    mask = inside[:, None] & (channel < width)[None, :]
    return tl.load(base + vertex[:, None] * pitch + channel[None, :], mask=mask, other=0.0).to(ACC)


@triton.jit
def _row(base, vertex, pitch, width, WIDTH: tl.constexpr, ACC: tl.constexpr):
    """The first ``width`` channels of row ``vertex``."""
    channel = tl.arange(0, WIDTH)
    return tl.load(base + vertex * pitch + channel, mask=channel < width, other=0.0).to(ACC)


@triton.jit
def _store_row(base, vertex, pitch, width, value, WIDTH: tl.constexpr):
    channel = tl.arange(0, WIDTH)
    tl.store(base + vertex * pitch + channel, value, mask=channel < width)


@triton.jit
def _neighbours(index, place, inside, heads, head):
    """Vertices of one head at the other ends of the edges ``place``."""
    return tl.load(index + place, mask=inside, other=0).to(tl.int64) * heads + head


@triton.jit
def _drop(weight, edge, seed, DROPOUT: tl.constexpr):
    """Dropout of ``weight``, decided by the seed and the edge's position in CSR."""
    low, high = edge.to(tl.int32), (edge >> 32).to(tl.int32)
    bits, _, _, _ = random_bits(seed, 0, high, low, 0)
    return tl.where(uniform(bits) < DROPOUT, 0.0, weight * (1.0 / (1.0 - DROPOUT)))


@triton.jit
def _add_bias(score, bias, edge, inside, ACC: tl.constexpr):
    if bias is not None:
        score += tl.load(bias + edge, mask=inside, other=0.0).to(ACC)
    return score


@triton.jit(do_not_specialize=["seed"])
def _forward_kernel(
    query, key, value, rowptr, col, bias, out, lse, heads, d, dv, scale, seed,
    D: tl.constexpr, DV: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    vertex = tl.program_id(0).to(tl.int64)
    head = vertex % heads
    start, stop = tl.load(rowptr + vertex), tl.load(rowptr + vertex + 1)
    q = _row(query, vertex, d, d, D, ACC) * scale
    highest = tl.full((), float("-inf"), ACC)
    total = tl.zeros((), ACC)
    acc = tl.zeros((DV,), ACC)
    for first in range(start, stop, EDGES):
        edge = first + tl.arange(0, EDGES)
        inside = edge < stop
        neighbour = _neighbours(col, edge, inside, heads, head)
        score = tl.sum(q[None, :] * _gather(key, neighbour, inside, d, d, D, ACC), 1)
        score = _add_bias(score, bias, edge, inside, ACC)
        score = tl.where(inside, score, float("-inf"))
        raised = tl.maximum(highest, tl.max(score, 0))
        base = tl.where(raised == float("-inf"), 0.0, raised)
        weight = tl.exp(score - base)
        decay = tl.exp(highest - base)
        total = total * decay + tl.sum(weight, 0)
        if DROPOUT > 0:
            weight = _drop(weight, edge, seed, DROPOUT)
        v = _gather(value, neighbour, inside, dv, dv, DV, ACC)
        acc = acc * decay + tl.sum(weight[:, None] * v, 0)
        highest = raised
    total = tl.where(total == 0, 1.0, total)
    _store_row(out, vertex, dv, dv, acc / total, DV)
    tl.store(lse + vertex, highest + tl.log(total))


@triton.jit
def _softmax_grad(score, lse, product, delta, edge, inside, seed, DROPOUT: tl.constexpr):
    """Weights after dropout, and the gradient of the scores, ``weight * (product - delta)``."""
    weight = tl.where(inside & (score != float("-inf")), tl.exp(score - lse), 0.0)
    dropped = weight
    if DROPOUT > 0:
        dropped = _drop(weight, edge, seed, DROPOUT)
    return dropped, dropped * product - weight * delta


@triton.jit(do_not_specialize=["seed"])
def _backward_query_kernel(
    grad, query, key, value, lse, delta, rowptr, col, bias, dquery, dbias, dgate,
    heads, d, dv, scale, seed,
    D: tl.constexpr, DV: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
    DROPOUT: tl.constexpr, LOGIT: tl.constexpr,
):  # fmt: skip
    vertex = tl.program_id(0).to(tl.int64)
    head = vertex % heads
    start, stop = tl.load(rowptr + vertex), tl.load(rowptr + vertex + 1)
    q = _row(query, vertex, d, d, D, ACC) * scale
    g = _row(grad, vertex, dv, dv, DV, ACC)
    row_lse, row_delta = tl.load(lse + vertex), tl.load(delta + vertex)
    acc = tl.zeros((D,), ACC)
    for first in range(start, stop, EDGES):
        edge = first + tl.arange(0, EDGES)
        inside = edge < stop
        neighbour = _neighbours(col, edge, inside, heads, head)
        k = _gather(key, neighbour, inside, d, d, D, ACC)
        score = tl.sum(q[None, :] * k, 1)
        score = _add_bias(score, bias, edge, inside, ACC)
        product = tl.sum(g[None, :] * _gather(value, neighbour, inside, dv, dv, DV, ACC), 1)
        _, ds = _softmax_grad(score, row_lse, product, row_delta, edge, inside, seed, DROPOUT)
        if dbias is not None:
            tl.store(dbias + edge, ds, mask=inside)
        if dgate is not None:
            if LOGIT:
                ds_score = tl.where(score == float("-inf"), 0.0, ds * score)
                tl.store(dgate + edge, ds_score, mask=inside)
            else:
                tl.store(dgate + edge, tl.minimum(tl.maximum(ds, -1.0), 1.0), mask=inside)
        acc += tl.sum(ds[:, None] * k, 0)
    if dquery is not None:
        _store_row(dquery, vertex, d, d, acc * scale, D)


@triton.jit(do_not_specialize=["seed"])
def _backward_key_kernel(
    grad, query, key, value, lse, delta, colptr, row, perm, bias, dkey, dvalue,
    heads, d, dv, scale, seed,
    D: tl.constexpr, DV: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    vertex = tl.program_id(0).to(tl.int64)
    head = vertex % heads
    start, stop = tl.load(colptr + vertex), tl.load(colptr + vertex + 1)
    k = _row(key, vertex, d, d, D, ACC) * scale
    v = _row(value, vertex, dv, dv, DV, ACC)
    key_acc = tl.zeros((D,), ACC)
    value_acc = tl.zeros((DV,), ACC)
    for first in range(start, stop, EDGES):
        place = first + tl.arange(0, EDGES)
        inside = place < stop
        neighbour = _neighbours(row, place, inside, heads, head)
        edge = place
        if bias is not None or DROPOUT > 0:
            edge = tl.load(perm + place, mask=inside, other=0)
        q = _gather(query, neighbour, inside, d, d, D, ACC)
        score = tl.sum(q * k[None, :], 1)
        score = _add_bias(score, bias, edge, inside, ACC)
        g = _gather(grad, neighbour, inside, dv, dv, DV, ACC)
        weight, ds = _softmax_grad(
            score,
            tl.load(lse + neighbour, mask=inside, other=0.0),
            tl.sum(g * v[None, :], 1),
            tl.load(delta + neighbour, mask=inside, other=0.0),
            edge,
            inside,
            seed,
            DROPOUT,
        )
        key_acc += tl.sum(ds[:, None] * q, 0)
        value_acc += tl.sum(weight[:, None] * g, 0)
    if dkey is not None:
        _store_row(dkey, vertex, d, d, key_acc * scale, D)
    if dvalue is not None:
        _store_row(dvalue, vertex, dv, dv, value_acc, DV)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _scaled(query: Tensor, scale: float) -> tuple[Tensor, float]:
    """Triton takes a Python float for a float32: float64 queries are scaled beforehand."""
    return (query * scale, 1.0) if query.dtype == torch.float64 else (query, scale)


def _meta(d: int, dv: int, dtype: torch.dtype) -> dict[str, Any]:
    """Block sizes: 1024 gathered numbers for each warp, 16 edges at least."""
    D, DV = pad(d), pad(dv)
    edges = max(16, 1024 // max(D, DV))
    return {
        "D": D,
        "DV": DV,
        "EDGES": edges,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
        "num_warps": max(1, edges * max(D, DV) // 1024),
    }


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rowptr: Tensor,
    col: Tensor,
    heads: int,
    bias: Tensor | None,
    scale: float,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    r"""Attention of every query vertex over its edges.

    Args:
        query: Queries of shape :obj:`[n * H, d]`.
        key: Keys of shape :obj:`[m * H, d]`.
        value: Values of shape :obj:`[m * H, dv]`.
        rowptr: Row offsets, int64 of shape :obj:`[n * H + 1]`.
        col: Key node of every edge, int32 of shape :obj:`[E]`.
        heads: The number :math:`H` of heads.
        bias: Added to the scores, of shape :obj:`[E]`.
        scale: Factor of the scores.
        dropout: Dropout probability of the weights.
        seed: Seed of the dropout.

    Returns:
        The output, of shape :obj:`[n * H, dv]` in the dtype of ``query``, and the log-sum-exp of
        each vertex's scores, of shape :obj:`[n * H]`, :math:`-\infty` where it has no edge.
    """
    rows, d = query.shape
    out = query.new_empty(rows, value.size(1))
    lse = query.new_empty(rows, dtype=_accumulator(query.dtype))
    query, scale = _scaled(query, scale)
    launch(
        _forward_kernel, (rows,), query,
        query, key, value, rowptr, col, bias, out, lse, heads, d, value.size(1), scale, seed,
        DROPOUT=dropout, **_meta(d, value.size(1), query.dtype),
    )  # fmt: skip
    return out, lse


def attention_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    rowptr: Tensor,
    col: Tensor,
    heads: int,
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    bias: Tensor | None,
    rate: Tensor | None,
    member: Tensor | None,
    learned: Tensor | None,
    scale: float,
    dropout: float,
    seed: int,
    estimator: str,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of :func:`attention_forward` and, through the straight-through gate, of the edge
    probabilities' factors.

    Args:
        grad_out: Gradient of the output.
        query, key, value, rowptr, col, heads, bias, scale, dropout, seed: As in the forward pass.
        out, lse: Results of the forward pass.
        colptr, row, perm: The transpose, as in :class:`~sbmgraph.graph.CSC`.
        rate, member: Factors of the edge probabilities, of shape :obj:`[n, H, K]` and
            :obj:`[m, H, K]`.
        learned: Which edges pass them a gradient, boolean of shape :obj:`[E]`.
        estimator: :obj:`"logit"` or :obj:`"mask"`, see :func:`~sbmgraph.ops.edge_attention`.
        needs: Which of query, key, value, bias, rate and member take a gradient.

    Returns:
        The six gradients, :obj:`None` where not needed. That of the bias has shape :obj:`[E]`.
    """
    d, dv = query.size(1), value.size(1)
    if colptr is None and (needs[1] or needs[2] or needs[5]):
        colptr, row, perm = transpose(rowptr, col, heads, key.size(0) // heads)
    dquery, dkey, dvalue = (
        torch.empty_like(x) if need else None
        for x, need in zip((query, key, value), needs[:3], strict=True)
    )
    dbias, dgate = (
        lse.new_empty(col.numel()) if need else None for need in (needs[3], needs[4] or needs[5])
    )
    delta = (out.to(lse.dtype) * grad_out.to(lse.dtype)).sum(-1)
    scaled, factor = _scaled(query, scale)
    meta = _meta(d, dv, query.dtype)
    if dquery is not None or dbias is not None or dgate is not None:
        launch(
            _backward_query_kernel, (query.size(0),), query,
            grad_out, scaled, key, value, lse, delta, rowptr, col, bias, dquery, dbias, dgate,
            heads, d, dv, factor, seed,
            DROPOUT=dropout, LOGIT=estimator == "logit", **meta,
        )  # fmt: skip
        if dquery is not None and factor != scale:
            dquery *= scale
    if dkey is not None or dvalue is not None:
        launch(
            _backward_key_kernel, (key.size(0),), query,
            grad_out, scaled, key, value, lse, delta, colptr, row, perm, bias, dkey, dvalue,
            heads, d, dv, factor, seed,
            DROPOUT=dropout, **meta,
        )  # fmt: skip
    if dbias is not None and bias is not None:
        dbias = dbias.to(bias.dtype)
    drate = dmember = None
    if dgate is not None and rate is not None and member is not None:
        if learned is not None:
            dgate *= learned
        drate, dmember = edge_prob_backward(
            dgate, rate, member, rowptr, col, heads, colptr, row, perm, needs[4:]
        )
    return dquery, dkey, dvalue, dbias, drate, dmember


# Edge probabilities ###############################################################################


@triton.jit
def _edge_prob_kernel(
    rate, member, rowptr, col, out, heads, num_keys, clusters,
    K: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    node, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    vertex = node * heads + head
    mine = head * tl.num_programs(0) + node
    start, stop = tl.load(rowptr + vertex), tl.load(rowptr + vertex + 1)
    for first in range(start, stop, EDGES):
        edge = first + tl.arange(0, EDGES)
        inside = edge < stop
        neighbour = head * num_keys + tl.load(col + edge, mask=inside, other=0)
        prob = tl.zeros((EDGES,), ACC)
        for block in range(0, clusters, K):
            w = _row(rate + block, mine, clusters, clusters - block, K, ACC)
            z = _gather(member + block, neighbour, inside, clusters, clusters - block, K, ACC)
            prob += tl.sum(w[None, :] * z, 1)
        tl.store(out + edge, prob, mask=inside)


@triton.jit
def _spmm_kernel(
    ptr, index, perm, weight, dense, out, heads, others, clusters,
    K: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    node, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    block = tl.program_id(2) * K
    vertex = node * heads + head
    start, stop = tl.load(ptr + vertex), tl.load(ptr + vertex + 1)
    acc = tl.zeros((K,), ACC)
    for first in range(start, stop, EDGES):
        place = first + tl.arange(0, EDGES)
        inside = place < stop
        neighbour = head * others + tl.load(index + place, mask=inside, other=0)
        edge = place
        if perm is not None:
            edge = tl.load(perm + place, mask=inside, other=0)
        g = tl.load(weight + edge, mask=inside, other=0.0).to(ACC)
        x = _gather(dense + block, neighbour, inside, clusters, clusters - block, K, ACC)
        acc += tl.sum(g[:, None] * x, 0)
    mine = head * tl.num_programs(0) + node
    _store_row(out + block, mine, clusters, clusters - block, acc, K)


def _cluster_meta(clusters: int, dtype: torch.dtype) -> dict[str, Any]:
    K = min(pad(clusters), CLUSTERS)
    acc = tl.float64 if dtype == torch.float64 else tl.float32
    return {"K": K, "EDGES": 1024 // K, "ACC": acc, "num_warps": 1}


def edge_prob_forward(
    rate: Tensor, member: Tensor, rowptr: Tensor, col: Tensor, heads: int
) -> Tensor:
    """The inner product of every edge's rate and membership.

    Args:
        rate: Of shape :obj:`[n, H, K]`.
        member: Of shape :obj:`[m, H, K]`.
        rowptr, col, heads: The graph, as in :func:`attention_forward`.

    Returns:
        Tensor of shape :obj:`[E]`.
    """
    nodes, _, clusters = rate.shape
    out = rate.new_empty(col.numel())
    meta = _cluster_meta(clusters, rate.dtype)
    factors = [x.transpose(0, 1).contiguous() for x in (rate, member)]
    launch(
        _edge_prob_kernel, (nodes, heads), rate,
        *factors, rowptr, col, out, heads, member.size(0), clusters, **meta,
    )  # fmt: skip
    return out


def edge_prob_backward(
    grad: Tensor,
    rate: Tensor,
    member: Tensor,
    rowptr: Tensor,
    col: Tensor,
    heads: int,
    colptr: Tensor | None,
    row: Tensor | None,
    perm: Tensor | None,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`edge_prob_forward` by ``rate`` and by ``member``: the product of the
    sparse matrix ``grad`` with ``member``, and of its transpose with ``rate``."""
    drate = dmember = None
    if needs[0]:
        drate = _spmm(rowptr, col, None, grad, member, heads)
    if needs[1]:
        if colptr is None or row is None:
            colptr, row, perm = transpose(rowptr, col, heads, member.size(0))
        dmember = _spmm(colptr, row, perm, grad, rate, heads)
    return drate, dmember


def _spmm(
    ptr: Tensor, index: Tensor, perm: Tensor | None, weight: Tensor, dense: Tensor, heads: int
) -> Tensor:
    """The product with ``dense`` [others, H, K], which comes head by head in memory."""
    nodes, (others, _, clusters) = (ptr.numel() - 1) // heads, dense.shape
    out = dense.new_empty(heads, nodes, clusters)
    dense = dense.transpose(0, 1).contiguous()
    meta = _cluster_meta(clusters, dense.dtype)
    grid = (nodes, heads, triton.cdiv(clusters, meta["K"]))
    launch(
        _spmm_kernel, grid, dense,
        ptr, index, perm, weight, dense, out, heads, others, clusters, **meta,
    )  # fmt: skip
    return out.transpose(0, 1)


# Transpose ########################################################################################


@triton.jit
def _transpose_kernel(
    rowptr, col, table, row, perm, heads, num_queries, nodes, parts,
    EDGES: tl.constexpr, PLACE: tl.constexpr,
):  # fmt: skip
    """Counts the edges of one head and one part of the query nodes by key vertex, or places them.

    ``table`` holds a number for each (key vertex, part). Rows are placed one after another, and no
    key occurs twice in a row: edges keep their order.
    """
    part, head = tl.program_id(0), tl.program_id(1)
    first = part.to(tl.int64) * nodes
    for node in range(first, tl.minimum(first + nodes, num_queries)):
        start = tl.load(rowptr + node * heads + head)
        stop = tl.load(rowptr + node * heads + head + 1)
        for base in range(start, stop, EDGES):
            edge = base + tl.arange(0, EDGES)
            inside = edge < stop
            entry = _neighbours(col, edge, inside, heads, head) * parts + part
            place = tl.atomic_add(table + entry, 1, mask=inside, sem="relaxed")
            if PLACE:
                tl.store(row + place, node, mask=inside)
                tl.store(perm + place, edge, mask=inside)
        if PLACE:
            tl.debug_barrier()


def transpose(
    rowptr: Tensor, col: Tensor, heads: int, num_keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The transpose of a CSR; see :func:`sbmgraph.ops.transpose.transpose`.

    A counting sort in two passes over parts of the queries, or where key vertices have few edges,
    which would leave few parts, a radix sort.
    """
    parts = min(MAX_PARTS, col.numel() // max(num_keys * heads, 1))
    if parts < MIN_PARTS:
        return _transpose_by_sorting(rowptr, col, heads, num_keys)
    num_queries = (rowptr.numel() - 1) // heads
    nodes = triton.cdiv(num_queries, parts)
    table = torch.zeros(num_keys * heads * parts + 1, dtype=torch.int64, device=col.device)
    row, perm = torch.empty_like(col), torch.empty_like(col, dtype=torch.int64)

    def run(place: bool) -> None:
        # The first entry stays 0: what is counted one further becomes where each part starts.
        launch(
            _transpose_kernel, (parts, heads), col,
            rowptr, col, table if place else table[1:], row, perm, heads, num_queries, nodes, parts,
            EDGES=256, PLACE=place, num_warps=2,
        )  # fmt: skip

    run(place=False)
    table = torch.cumsum(table, 0)
    colptr = table[::parts].clone()
    run(place=True)
    return colptr, row, perm


def _transpose_by_sorting(
    rowptr: Tensor, col: Tensor, heads: int, num_keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.arange(rowptr.numel() - 1, device=col.device)
    row = torch.repeat_interleave(rows, rowptr.diff(), output_size=col.numel())
    column = col.long() * heads + row % heads
    if num_keys * heads < 2**31:
        column = column.int()
    column, perm = torch.sort(column, stable=True)
    boundaries = torch.arange(num_keys * heads + 1, device=col.device, dtype=column.dtype)
    colptr = torch.searchsorted(column, boundaries)
    return colptr, row[perm].div(heads, rounding_mode="floor").int(), perm
