"""Both sampling algorithms in plain torch operations: any device, readable, the yardstick.

Every sampler takes ``(sbm, law, exploration, seed)`` and returns ``(rowptr, col)`` of a
:class:`~sbmgraph.SampledGraph`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sbmgraph.kernels.csr import from_sorted as _csr_from_sorted
from sbmgraph.sbm import SBM

TILE = 2**22
"""Entries of the edge-probability matrix that exist at once."""

MAX_BOUND = {"bernoulli": 0.9, "poisson": 1.0}
"""Rows whose largest possible edge probability passes this take the dense algorithm: proposals at
rate ``-log(1 - bound) / bound`` grow without limit as the bound nears 1, and a Poisson mean above 1
must be cut."""


def sample_dense(sbm: SBM, law: str, exploration: float, seed: int) -> tuple[Tensor, Tensor]:
    """Compares every edge probability with a uniform number, a tile of rows at a time."""
    generator = torch.Generator(sbm.device).manual_seed(seed)
    rows = torch.arange(sbm.num_queries * sbm.heads, device=sbm.device)
    edge = _dense_edges(sbm, rows, law, exploration, generator)
    return _csr_from_sorted(edge, rows.numel(), sbm.num_keys)


def sample_fastrg(sbm: SBM, law: str, exploration: float, seed: int) -> tuple[Tensor, Tensor]:
    r"""fastRG by rows (Rohe et al., JMLR 2018; Algorithm 1 of Cho et al., NeurIPS 2022).

    Query :math:`i` makes :math:`\mathrm{Poisson}(c_i (\mathbf{y}_i \mathbf{B})_v s_v)` proposals
    through block :math:`v`, :math:`s_v = \sum_j z_{jv}`, each a key drawn in proportion to
    :math:`z_{jv}`; repeated proposals merge. Under the Poisson law :math:`c_i = 1`. Under the
    Bernoulli law :math:`c_i = -\log(1 - \bar p_i) / \bar p_i` with a bound :math:`\bar p_i` of the
    row's probabilities, and a merged proposal stays with probability
    :math:`p_{ij} / (1 - e^{-c_i p_{ij}}) \le 1`, which leaves exactly :math:`p_{ij}`.
    """
    generator = torch.Generator(sbm.device).manual_seed(seed)
    num_rows = sbm.num_queries * sbm.heads
    bound = _row_bound(sbm, exploration).flatten()
    is_dense = bound > MAX_BOUND[law]
    excess = torch.ones_like(bound)
    if law == "bernoulli":
        safe = bound.clamp(1e-12, MAX_BOUND[law])
        excess = -torch.log1p(-safe) / safe
    excess = excess.masked_fill(is_dense, 0.0)
    edge = torch.unique(_proposals(sbm, excess, exploration, generator))
    if law == "bernoulli" and edge.numel():
        row = edge.div(sbm.num_keys, rounding_mode="floor")
        prob = _prob(sbm, row, edge - row * sbm.num_keys, exploration)
        proposed = -torch.expm1(-excess[row] * prob)
        uniform = torch.rand(edge.shape, generator=generator, device=edge.device, dtype=prob.dtype)
        edge = edge[uniform * proposed < prob]
    rows = is_dense.nonzero().view(-1)
    if rows.numel():
        dense = _dense_edges(sbm, rows, law, exploration, generator)
        edge = torch.cat([edge, dense]).sort().values
    return _csr_from_sorted(edge, num_rows, sbm.num_keys)


def _row_bound(sbm: SBM, exploration: float) -> Tensor:
    """A bound of the edge probabilities of every query vertex, of shape [n, H]."""
    largest = sbm.key_membership.new_zeros(sbm.num_graphs, sbm.heads, sbm.num_clusters)
    if sbm.key_batch is None:
        largest[:] = sbm.key_membership.amax(0) if sbm.num_keys else 0.0
        return torch.einsum("nhk,hk->nh", sbm.rate, largest[0]) + exploration
    index = sbm.key_batch.view(-1, 1, 1).expand_as(sbm.key_membership)
    largest.scatter_reduce_(0, index, sbm.key_membership, "amax")
    return (sbm.rate * largest[sbm.query_batch]).sum(-1) + exploration


def _proposals(sbm: SBM, excess: Tensor, exploration: float, generator: torch.Generator) -> Tensor:
    """Proposed edges ``row * num_keys + key``, with repetitions. Exploration is one more block to
    which every key belongs with membership 1."""
    if sbm.num_keys == 0 or sbm.num_queries == 0:
        return torch.empty(0, dtype=torch.int64, device=sbm.device)
    ones = sbm.key_membership.new_ones(sbm.num_keys, sbm.heads, 1)
    member = torch.cat([sbm.key_membership, ones], dim=-1).double()
    rate = torch.cat(
        [sbm.rate, ones.new_full((sbm.num_queries, sbm.heads, 1), exploration)], -1
    ).double()
    blocks = sbm.num_clusters + 1
    # Cumulative memberships of each (head, block) over all keys: a graph's keys are one stretch.
    cumulative = torch.zeros(
        sbm.heads, blocks, sbm.num_keys + 1, dtype=torch.float64, device=sbm.device
    )
    torch.cumsum(member.permute(1, 2, 0), dim=-1, out=cumulative[..., 1:])
    graph = sbm.query_batch
    if graph is None:
        graph = torch.zeros(sbm.num_queries, dtype=torch.int64, device=sbm.device)
    low, high = cumulative[..., sbm.key_ptr[:-1]], cumulative[..., sbm.key_ptr[1:]]
    mass = (high - low).permute(2, 0, 1)[graph]
    mean = rate * mass * excess.view(-1, sbm.heads, 1)
    count = torch.poisson(mean, generator=generator).long().view(-1)
    source = torch.repeat_interleave(count)
    query, table = (
        source.div(sbm.heads * blocks, rounding_mode="floor"),
        source % (sbm.heads * blocks),
    )
    uniform = torch.rand(
        source.shape, generator=generator, device=source.device, dtype=torch.float64
    )
    low, high = (x.reshape(sbm.heads * blocks, -1)[table, graph[query]] for x in (low, high))
    # One search over all tables laid end to end, each scaled to its own unit interval.
    total = cumulative[..., -1:].clamp(min=1e-300)
    steps = (cumulative[..., 1:] / total).view(-1, sbm.num_keys)
    flat = (steps + torch.arange(steps.size(0), device=source.device).unsqueeze(1)).view(-1)
    target = (low + uniform * (high - low)) / total.view(-1)[table] + table
    key = torch.searchsorted(flat, target, right=True) - table * sbm.num_keys
    key = torch.minimum(
        torch.maximum(key, sbm.key_ptr[graph[query]]), sbm.key_ptr[graph[query] + 1] - 1
    )
    return source.div(blocks, rounding_mode="floor") * sbm.num_keys + key


def _prob(sbm: SBM, row: Tensor, key: Tensor, exploration: float) -> Tensor:
    """Probability of given edges, in chunks of a tile."""
    rate, member = sbm.rate.flatten(0, 1), sbm.key_membership.flatten(0, 1)
    out = torch.empty(row.shape, dtype=rate.dtype, device=row.device)
    step = max(TILE // sbm.num_clusters, 1)
    for start in range(0, row.numel(), step):
        part = slice(start, start + step)
        column = key[part] * sbm.heads + row[part] % sbm.heads
        out[part] = (rate[row[part]] * member[column]).sum(-1)
    return (out + exploration).clamp(max=1)


def _dense_edges(
    sbm: SBM, rows: Tensor, law: str, exploration: float, generator: torch.Generator
) -> Tensor:
    """Sorted edges ``row * num_keys + key`` of given query vertices, by comparing every probability
    with a uniform number."""
    out = [torch.empty(0, dtype=torch.int64, device=sbm.device)]
    query_ptr, key_ptr = sbm.query_ptr.tolist(), sbm.key_ptr.tolist()
    row_ptr = torch.searchsorted(rows, sbm.query_ptr * sbm.heads).tolist()
    for graph in range(len(query_ptr) - 1):
        low, high = key_ptr[graph : graph + 2]
        member = sbm.key_membership[low:high].permute(1, 2, 0)
        mine = rows[row_ptr[graph] : row_ptr[graph + 1]]
        if high == low or mine.numel() == 0:
            continue
        for head in range(sbm.heads):
            chosen = mine[mine % sbm.heads == head]
            for tile in chosen.split(max(TILE // (high - low), 1)):
                prob = sbm.rate[tile.div(sbm.heads, rounding_mode="floor"), head] @ member[head]
                prob = (prob + exploration).clamp(max=1)
                if law == "poisson":
                    prob = -torch.expm1(-prob)
                uniform = torch.rand(
                    prob.shape, generator=generator, device=prob.device, dtype=prob.dtype
                )
                i, j = (uniform < prob).nonzero(as_tuple=True)
                out.append(tile[i] * sbm.num_keys + j + low)
    return torch.cat(out).sort().values
