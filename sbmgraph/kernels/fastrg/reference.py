r"""fastRG in plain torch: any device, readable, the yardstick.

A query vertex's proposals are the arrivals of a Poisson process on the axis of
:class:`~sbmgraph.kernels.fastrg.plan.Plan`. Draw :math:`t` owns the four numbers :math:`(a, b, c,
d)` of a Philox counter: the waiting time is :math:`-\log(1 - v)`, :math:`v = (a + d / 2^{31}) /
2^{31}`, and :math:`b` chooses the key within the block. Repeated proposals merge, and thinning
decides by a number of the pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sbmgraph.kernels import random
from sbmgraph.kernels.bits import Bits, word_pointers
from sbmgraph.kernels.bits import reference as bits
from sbmgraph.kernels.dense import reference as dense
from sbmgraph.kernels.fastrg.plan import Plan, plan
from sbmgraph.kernels.model import EdgeModel

TILE = 2**22
"""Draws, or factors of probabilities, that exist at once."""


def sample(model: EdgeModel, law: str, exploration: float, seed: int) -> tuple[Tensor, Tensor]:
    """Samples edges in time proportional to their number.

    Args:
        model (EdgeModel): The edge probabilities.
        law (str): ``"bernoulli"`` or ``"poisson"``.
        exploration (float): :math:`\\delta`, added to every probability.
        seed (int): The key of the random numbers, in [0, 2⁶³).

    Returns:
        ``rowptr`` int64 of shape :obj:`[n * H + 1]` and ``col`` int32 of shape :obj:`[E]`: edges by
        query vertex, their key nodes ascending.
    """
    rows = model.num_queries * model.heads
    edge = torch.zeros(0, dtype=torch.int64, device=model.device)
    if rows and model.num_keys:
        plan_ = plan(model, law, exploration)
        edge = torch.unique(_proposals(model, plan_, seed))
        if law == "bernoulli":
            edge = _thinned(model, plan_, exploration, seed, edge)
        if bool(plan_.is_dense.any()):
            found = _dense_edges(model, plan_.is_dense, law, exploration, seed)
            edge = torch.cat([edge, found]).sort().values
    row = edge.div(max(model.num_keys, 1), rounding_mode="floor")
    every = torch.arange(rows + 1, dtype=torch.int64, device=model.device)
    return torch.searchsorted(row, every), (edge - row * model.num_keys).int()


def waiting_times(first: Tensor, last: Tensor) -> Tensor:
    """Exponential waiting times, float64, of two 31-bit integers each."""
    share = (first.double() + last.double() * random.RESOLUTION) * random.RESOLUTION
    return -torch.log1p(-share)


def _proposals(model: EdgeModel, plan_: Plan, seed: int) -> Tensor:
    """Proposed edges ``row * num_keys + key``, with repetitions."""
    edges = [torch.zeros(0, dtype=torch.int64, device=model.device)]
    table = _sorted_table(model, plan_.table)
    # NaN, the end of a row that has no probabilities, is above nothing.
    going = (plan_.axis[:, -1] > 0).nonzero().view(-1)
    for rows in going.split(TILE // 64):
        time, draw, count = plan_.axis.new_zeros(rows.numel()), 0, 4
        while rows.numel():
            number = torch.arange(draw, draw + count, dtype=torch.int64, device=rows.device)
            numbers = _draws(model, plan_, rows, number, seed)
            arrival = time.unsqueeze(1) + waiting_times(numbers[0], numbers[3]).cumsum(1)
            axis = plan_.axis[rows]
            edges.append(_edges(model, plan_, table, rows, arrival, numbers[1]))
            time = arrival[:, -1]
            going_on = time < axis[:, -1]
            rows, time, draw, count = rows[going_on], time[going_on], draw + count, 64
    return torch.cat(edges)


def _draws(model: EdgeModel, plan_: Plan, rows: Tensor, number: Tensor, seed: int) -> random.Words:
    graph = plan_.graph[rows // model.heads]
    vertex = rows - model.query_ptr[graph] * model.heads
    return random.random_bits(
        seed, vertex.unsqueeze(1), graph.unsqueeze(1), number, random.PROPOSAL
    )


def _sorted_table(model: EdgeModel, table: Tensor) -> Tensor:
    """All cumulative tables of a graph's keys as one ascending vector: block by block, graph by
    graph, each 2³¹ above the one before."""
    tables = torch.arange(
        model.heads * model.num_clusters, dtype=torch.int64, device=table.device
    ).view(model.heads, model.num_clusters, 1)
    graph = torch.searchsorted(
        model.key_ptr,
        torch.arange(model.num_keys, dtype=torch.int64, device=table.device),
        right=True,
    )
    return (table.long() + ((tables * model.num_graphs + graph - 1) << 31)).flatten()


def _edges(
    model: EdgeModel, plan_: Plan, table: Tensor, rows: Tensor, arrival: Tensor, number: Tensor
) -> Tensor:
    """The edges of arrivals [rows, draws] before their row's end; ``number`` chooses the key."""
    axis = plan_.axis[rows]
    at, draw = (arrival < axis[:, -1:]).nonzero(as_tuple=True)
    block = torch.searchsorted(axis, arrival, right=True)[at, draw]
    row, number = rows[at], number[at, draw]
    graph = plan_.graph[row // model.heads]
    low = model.key_ptr[graph]
    size = model.key_ptr[graph + 1] - low
    explores = block == model.num_clusters
    column = (row % model.heads) * model.num_clusters + block.clamp(max=model.num_clusters - 1)
    target = number + ((column * model.num_graphs + graph) << 31)
    key = torch.searchsorted(table, target, right=True) - column * model.num_keys - low
    key = torch.where(explores, (number * size) >> 31, torch.minimum(key, size - 1))
    return row * model.num_keys + low + key


def _thinned(model: EdgeModel, plan_: Plan, exploration: float, seed: int, edge: Tensor) -> Tensor:
    """The edges that stay under the Bernoulli law."""
    row = edge.div(model.num_keys, rounding_mode="floor")
    key = edge - row * model.num_keys
    graph = plan_.graph[row // model.heads]
    vertex = row - model.query_ptr[graph] * model.heads
    number = random.edge_bits(seed, vertex, graph, key - model.key_ptr[graph], random.THINNING)
    prob = _probabilities(model, row, key, exploration)
    proposed = -torch.expm1(-plan_.excess[row] * prob)
    return edge[random.uniform(number) * proposed < prob]


def _probabilities(model: EdgeModel, row: Tensor, key: Tensor, exploration: float) -> Tensor:
    """Probabilities of given edges, float64."""
    rate, member = (x.detach().flatten(0, 1) for x in (model.rate, model.member))
    out = torch.empty(row.shape, dtype=torch.float64, device=row.device)
    step = max(TILE // model.num_clusters, 1)
    for start in range(0, row.numel(), step):
        part = slice(start, start + step)
        column = key[part] * model.heads + row[part] % model.heads
        out[part] = (rate[row[part]] * member[column]).sum(-1)
    return (out + exploration).clamp(max=1)


def _dense_edges(
    model: EdgeModel, is_dense: Tensor, law: str, exploration: float, seed: int
) -> Tensor:
    """Edges ``row * num_keys + key`` of the query vertices that take the dense algorithm."""
    nodes = is_dense.view(-1, model.heads).any(1).nonzero().view(-1)
    ptr = torch.searchsorted(nodes, model.query_ptr)
    words = torch.cat(dense.sample_nodes(model, nodes, law, exploration, seed))
    word_ptr = word_pointers(ptr, model.key_ptr, model.heads)
    some = Bits(words, word_ptr, ptr, model.key_ptr, model.heads)
    rowptr, col = bits.to_csr(some, rows=nodes.numel() * model.heads)
    place = torch.repeat_interleave(rowptr.diff(), output_size=col.numel())
    row = nodes[place // model.heads] * model.heads + place % model.heads
    return (row * model.num_keys + col)[is_dense[row]]
