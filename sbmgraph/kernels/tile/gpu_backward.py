r"""Gradients of tile attention on the GPU (Triton), in two sweeps over the tiles.

The query side holds a block of queries and goes through the keys: :math:`\partial L / \partial
\mathbf{Q}` and, by the straight-through gate :math:`\mathbf{G}`, :math:`\partial L / \partial
\mathbf{W} = \mathbf{G} \mathbf{Z}`. The key side holds a block of keys and goes through the
queries: the gradients of :math:`\mathbf{K}` and :math:`\mathbf{V}`, and :math:`\partial L /
\partial \mathbf{Z} = \mathbf{G}^{\top} \mathbf{W}`. Its tiles lie [queries, keys] too, and its
products take the left operand transposed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.kernels._triton.launch import launch, pad
from sbmgraph.kernels._triton.tiles import (
    dot,
    find,
    load_rows,
    load_words,
    num_tiles,
    select,
    store_rows,
)
from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Factors, Options
from sbmgraph.kernels.tile import gpu_sizes
from sbmgraph.kernels.tile.gpu_dropout import kept_words

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _tile_grads(
    q, k, grad, v, row_lse, row_delta, edge, stays, scale, keep_scale,
    LOGIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights after dropout, dL/dscore and the gate's gradient of a tile [queries, keys].

    ``LOGIT``'s gate still wants the factor ``scale``. Weights are selected after the exponential:
    off the edges a score may overflow, and a row without edges has no log-sum-exp.
    """
    zero = tl.zeros((q.shape[0], k.shape[0]), tl.float32)
    score = dot(q, tl.trans(k), zero, PRECISION)
    product = dot(grad, tl.trans(v), zero, PRECISION)
    weight = tl.exp2(score * (scale * LOG2E) - (row_lse * LOG2E)[:, None])
    weight = select(weight, edge, 0.0)
    if stays is None:
        dropped = weight
        ds = weight * (product - row_delta[:, None])
    else:
        dropped = select(weight, stays, 0.0) * keep_scale
        ds = dropped * product - weight * row_delta[:, None]
    if LOGIT:
        gate = ds * score
    else:
        gate = tl.clamp(ds, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
    return dropped, ds, gate


@triton.jit(do_not_specialize=["num_graphs", "num_queries", "num_keys"])
def _query_kernel(
    grad, query, key, value, member, words, kept, lse, delta, dquery, drate,
    query_ptr, key_ptr, word_ptr,
    num_graphs, num_queries: tl.int64, num_keys: tl.int64, heads, scale, keep_scale,
    d: tl.constexpr, dv: tl.constexpr, clusters: tl.constexpr, first_cluster: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, K: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, LOGIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    g, first_query, start, count = find(query_ptr, num_graphs, tile, QUERIES)
    if start >= count:
        return
    first_key = tl.load(key_ptr + g)
    size = (tl.load(key_ptr + g + 1) - first_key).to(tl.int32)
    node = first_query + start
    mine = start + tl.arange(0, QUERIES) < count
    pitch = (size + 31) // 32
    row_words = tl.load(word_ptr + g) + (start * heads + head) * pitch
    vertex, row = node * heads + head, tl.arange(0, QUERIES) * heads
    q = load_rows(query + vertex * d, mine, heads * d, d, D)  # [QUERIES, D]
    do = load_rows(grad + vertex * dv, mine, heads * dv, dv, DV)  # [QUERIES, DV]
    row_lse = tl.load(lse + vertex + row, mask=mine, other=0.0)
    row_delta = tl.load(delta + vertex + row, mask=mine, other=0.0)
    dq = tl.zeros((QUERIES, D), tl.float32)
    dw = tl.zeros((QUERIES, K), tl.float32)
    for first in range(0, size, KEYS):  # tiles of the graph's keys
        inside = first + tl.arange(0, KEYS) < size
        neighbour = (first_key + first) * heads + head
        k = load_rows(key + neighbour * d, inside, heads * d, d, D)  # [KEYS, D]
        v = load_rows(value + neighbour * dv, inside, heads * dv, dv, DV)  # [KEYS, DV]
        # [QUERIES, KEYS / 32]
        edge = load_words(words + row_words, first, mine, heads * pitch, pitch, KEYS)
        stays = None
        if kept is not None:
            stays = load_words(kept + row_words, first, mine, heads * pitch, pitch, KEYS)
        _, ds, gate = _tile_grads(
            q, k, do, v, row_lse, row_delta, edge, stays, scale, keep_scale, LOGIT, PRECISION
        )
        if dquery is not None:
            dq = dot(ds.to(k.dtype), k, dq, PRECISION)
        if drate is not None:
            z_first = member + (head * num_keys + first_key + first) * clusters + first_cluster
            z = load_rows(z_first, inside, clusters, clusters - first_cluster, K)  # [KEYS, K]
            dw = dot(gate.to(z.dtype), z, dw, PRECISION)
    if dquery is not None:
        store_rows(dquery + vertex * d, mine, heads * d, d, dq * scale, D)
    if drate is not None:
        if LOGIT:
            dw *= scale
        w_first = drate + (head * num_queries + node) * clusters + first_cluster
        store_rows(w_first, mine, clusters, clusters - first_cluster, dw, K)


@triton.jit(do_not_specialize=["num_graphs", "num_queries", "num_keys"])
def _key_kernel(
    grad, query, key, value, rate, words, kept, lse, delta, dkey, dvalue, dmember,
    query_ptr, key_ptr, word_ptr,
    num_graphs, num_queries: tl.int64, num_keys: tl.int64, heads, scale, keep_scale,
    d: tl.constexpr, dv: tl.constexpr, clusters: tl.constexpr, first_cluster: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, K: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, LOGIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    g, first_key, first, size = find(key_ptr, num_graphs, tile, KEYS)
    if first >= size:
        return
    first, size = first.to(tl.int32), size.to(tl.int32)
    first_query = tl.load(query_ptr + g)
    count = (tl.load(query_ptr + g + 1) - first_query).to(tl.int32)
    inside = first + tl.arange(0, KEYS) < size
    pitch = (size + 31) // 32
    head_words = tl.load(word_ptr + g) + head * pitch
    neighbour, row = (first_key + first) * heads + head, tl.arange(0, QUERIES) * heads
    k = load_rows(key + neighbour * d, inside, heads * d, d, D)  # [KEYS, D]
    v = load_rows(value + neighbour * dv, inside, heads * dv, dv, DV)  # [KEYS, DV]
    dk = tl.zeros((KEYS, D), tl.float32)
    dvalues = tl.zeros((KEYS, DV), tl.float32)
    dz = tl.zeros((KEYS, K), tl.float32)
    for start in range(0, count, QUERIES):  # tiles of the graph's queries
        mine = start + tl.arange(0, QUERIES) < count
        node = first_query + start
        vertex = node * heads + head
        q = load_rows(query + vertex * d, mine, heads * d, d, D)  # [QUERIES, D]
        do = load_rows(grad + vertex * dv, mine, heads * dv, dv, DV)  # [QUERIES, DV]
        row_lse = tl.load(lse + vertex + row, mask=mine, other=0.0)
        row_delta = tl.load(delta + vertex + row, mask=mine, other=0.0)
        row_words = head_words + (node - first_query) * heads * pitch
        # [QUERIES, KEYS / 32]
        edge = load_words(words + row_words, first, mine, heads * pitch, pitch, KEYS)
        stays = None
        if kept is not None:
            stays = load_words(kept + row_words, first, mine, heads * pitch, pitch, KEYS)
        dropped, ds, gate = _tile_grads(
            q, k, do, v, row_lse, row_delta, edge, stays, scale, keep_scale, LOGIT, PRECISION
        )
        if dvalue is not None:
            dvalues = dot(tl.trans(dropped.to(do.dtype)), do, dvalues, PRECISION)
        if dkey is not None:
            dk = dot(tl.trans(ds.to(q.dtype)), q, dk, PRECISION)
        if dmember is not None:
            w_first = rate + (head * num_queries + node) * clusters + first_cluster
            w = load_rows(w_first, mine, clusters, clusters - first_cluster, K)  # [QUERIES, K]
            dz = dot(tl.trans(gate.to(w.dtype)), w, dz, PRECISION)
    if dkey is not None:
        store_rows(dkey + neighbour * d, inside, heads * d, d, dk * scale, D)
    if dvalue is not None:
        store_rows(dvalue + neighbour * dv, inside, heads * dv, dv, dvalues, DV)
    if dmember is not None:
        if LOGIT:
            dz *= scale
        z_first = dmember + (head * num_keys + first_key + first) * clusters + first_cluster
        store_rows(z_first, inside, clusters, clusters - first_cluster, dz, K)


def backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    factors: Factors | None,
    bits: Bits,
    out: Tensor,
    lse: Tensor,
    options: Options,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients, see :func:`sbmgraph.kernels.tile.reference.backward`."""
    sweeps = _Sweeps(grad_out, query, key, value, bits, out, lse, options)
    dquery, dkey, dvalue = (
        torch.empty_like(x, memory_format=torch.contiguous_format) if need else None
        for x, need in zip((query, key, value), needs[:3], strict=True)
    )
    drate = dmember = rate = member = None
    if factors is not None and needs[3]:
        drate, member = _by_head(factors.rate), _head_by_head(factors.member, query.dtype)
    if factors is not None and needs[4]:
        dmember, rate = _by_head(factors.member), _head_by_head(factors.rate, query.dtype)
    sweeps.by_query(dquery, drate, member)
    sweeps.by_key(dkey, dvalue, dmember, rate)
    return dquery, dkey, dvalue, *(x if x is None else x.transpose(0, 1) for x in (drate, dmember))


def _by_head(like: Tensor) -> Tensor:
    """An uninitialised gradient [H, nodes, K] of a factor [nodes, H, K]."""
    nodes, heads, clusters = like.shape
    return torch.empty(heads, nodes, clusters, dtype=like.dtype, device=like.device)


def _head_by_head(factor: Tensor, dtype: torch.dtype) -> Tensor:
    """A factor [nodes, H, K] as [H, nodes, K], in what the gate's products are taken in: bfloat16
    for half-precision inputs, as gates can exceed the range of float16."""
    dtype = torch.float32 if dtype == torch.float32 else torch.bfloat16
    return factor.detach().transpose(0, 1).to(dtype).contiguous()


class _Sweeps:
    """The two sweeps of one backward pass."""

    def __init__(
        self,
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bits: Bits,
        out: Tensor,
        lse: Tensor,
        options: Options,
    ) -> None:
        self.inputs = (grad_out, query, key, value)
        self.bits, self.lse, self.options = bits, lse, options
        self.delta = (out.float() * grad_out.float()).sum(-1)
        self.kept = kept_words(bits, query.size(0), options)

    def by_query(self, dquery: Tensor | None, drate: Tensor | None, member: Tensor | None) -> None:
        """The gradients of a query's side; ``member`` is what the gate is multiplied by."""
        self._run(_query_kernel, (dquery,), drate, member)

    def by_key(
        self,
        dkey: Tensor | None,
        dvalue: Tensor | None,
        dmember: Tensor | None,
        rate: Tensor | None,
    ) -> None:
        """The gradients of a key's side; ``rate`` is what the gate is multiplied by."""
        self._run(_key_kernel, (dkey, dvalue), dmember, rate)

    def _run(
        self,
        kernel: Any,
        grads: tuple[Tensor | None, ...],
        dfactor: Tensor | None,
        factor: Tensor | None,
    ) -> None:
        """One sweep, and one more for each further ``CLUSTERS`` clusters."""
        if dfactor is None and all(grad is None for grad in grads):
            return
        _, query, key, value = self.inputs
        heads, d, dv = query.size(1), query.size(2), value.size(2)
        bits, options, dtype = self.bits, self.options, query.dtype
        graphs = bits.query_ptr.numel() - 1
        clusters = 0 if dfactor is None else dfactor.size(2)
        D, DV, most = pad(d), pad(dv), gpu_sizes.CLUSTERS
        for first in range(0, max(clusters, 1), most):
            K = pad(min(clusters - first, most))
            if kernel is _query_kernel:
                sizes = gpu_sizes.query_sizes(dtype, D, DV, K)
                tiles = num_tiles(query.size(0), graphs, sizes.queries)
            else:
                sizes = gpu_sizes.key_sizes(dtype, D, DV, K)
                tiles = num_tiles(key.size(0), graphs, sizes.keys)
            launch(
                kernel, (tiles, heads), query,
                *self.inputs, factor, bits.words, self.kept, self.lse, self.delta, *grads, dfactor,
                bits.query_ptr, bits.key_ptr, bits.word_ptr, graphs, query.size(0), key.size(0),
                heads, options.scale, 1 / (1 - options.dropout),
                d=d, dv=dv, clusters=clusters, first_cluster=first, D=D, DV=DV, K=K,
                QUERIES=sizes.queries, KEYS=sizes.keys, LOGIT=options.estimator == "logit",
                PRECISION=gpu_sizes.precision(dtype),
                num_warps=sizes.warps, num_stages=sizes.stages,
            )  # fmt: skip
            grads = (None,) * len(grads)
