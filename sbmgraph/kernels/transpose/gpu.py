"""The transpose of a CSR on the GPU (Triton)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbmgraph.kernels._triton.launch import launch
from sbmgraph.kernels._triton.rows import neighbours
from sbmgraph.kernels.transpose.reference import transpose as _by_sorting

MIN_PARTS, MAX_PARTS = 32, 128
"""Parts of the queries whose edges are transposed at once; their counters must not outnumber the
edges, and each part is one program's work."""

MAX_ENTRIES = 2**22
"""Entries of the table of counters, 8 bytes each."""


@triton.jit(do_not_specialize=["num_queries", "nodes", "parts"])
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
    for node in range(first, tl.minimum(first + nodes, num_queries)):  # query nodes of the part
        start = tl.load(rowptr + node * heads + head)
        stop = tl.load(rowptr + node * heads + head + 1)
        for base in range(start, stop, EDGES):  # blocks of the row's edges
            edge = base + tl.arange(0, EDGES)  # [EDGES]
            inside = edge < stop
            entry = neighbours(col, edge, inside, heads, head) * parts + part
            place = tl.atomic_add(table + entry, 1, mask=inside, sem="relaxed")
            if PLACE:
                tl.store(row + place, node, mask=inside)
                tl.store(perm + place, edge, mask=inside)
        if PLACE:
            tl.debug_barrier()


def transpose(
    rowptr: Tensor, col: Tensor, *, heads: int, num_keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`sbmgraph.kernels.transpose.operator.transpose`.

    A counting sort in two passes over parts of the queries, or a radix sort where few parts would
    be left because key vertices have few edges or are very many.
    """
    parts = min(MAX_PARTS, min(col.numel(), MAX_ENTRIES) // max(num_keys * heads, 1))
    if parts < MIN_PARTS:
        return _by_sorting(rowptr, col, heads=heads, num_keys=num_keys)
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
