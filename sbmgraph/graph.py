"""Sampled graphs: which keys every query of every head attends to.

All heads of all graphs of a batch form one disjoint union. A *vertex* is a (node, head) pair,
numbered ``node * heads + head``, so that ``x.view(num_nodes * heads, channels)`` lists the features
of all vertices without a transpose. A :class:`SampledGraph` holds the union in CSR by query vertex.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sbmgraph.checks import check_batch, check_positive_int, check_tensor, describe

if TYPE_CHECKING:
    import networkx as nx
    from torch_geometric.data import HeteroData

    from sbmgraph.sbm import SBM

MAX_NODES = 2**31 - 1


class CSC(NamedTuple):
    """The transpose of a :class:`SampledGraph`: its edges grouped by key vertex.

    Attributes:
        colptr: Where the edges of each key vertex start, int64 of shape :obj:`[m * H + 1]`.
        row: Query node of every edge, int32 of shape :obj:`[E]`, ascending for each key vertex.
        perm: Position of every edge in the CSR order, int64 of shape :obj:`[E]`.
    """

    colptr: Tensor
    row: Tensor
    perm: Tensor


def batch_to_ptr(
    batch: Tensor | None, num_nodes: int, num_graphs: int, device: torch.device
) -> Tensor:
    """Node offsets of each graph, int64 of shape :obj:`[num_graphs + 1]`."""
    if batch is None:
        return torch.tensor([0, num_nodes], device=device)
    boundaries = torch.arange(num_graphs + 1, device=device)
    return torch.searchsorted(batch, boundaries)


def count_graphs(*batches: Tensor | None) -> int:
    """The number of graphs that sorted ``batches`` speak of; 1 where none is given."""
    given = [batch for batch in batches if batch is not None]
    if not given:
        return 1
    return max((int(batch[-1]) + 1 if batch.numel() else 0) for batch in given)


class SampledGraph:
    r"""A bipartite graph from keys to queries for each attention head, in CSR by query vertex.

    Direction follows PyG's ``source_to_target`` flow: row 0 of :attr:`edge_index` is the key
    (source), row 1 the query (target). Edges are sorted by (query, head, key) and are distinct.

    This constructor trusts its arguments; :meth:`from_edge_index` checks them.

    Args:
        rowptr (Tensor): Where the edges of each query vertex start, int64 of shape
            :obj:`[n * H + 1]`.
        col (Tensor): Key node of every edge, int32 of shape :obj:`[E]`.
        num_keys (int): The number :math:`m` of key nodes.
        heads (int): The number :math:`H` of heads.
        query_batch (Tensor, optional): Graph of each query node, int64 of shape :obj:`[n]`.
        key_batch (Tensor, optional): Graph of each key node, int64 of shape :obj:`[m]`.
        num_graphs (int, optional): The number of graphs in the batch; counted if not given.
    """

    def __init__(
        self,
        rowptr: Tensor,
        col: Tensor,
        num_keys: int,
        heads: int = 1,
        query_batch: Tensor | None = None,
        key_batch: Tensor | None = None,
        num_graphs: int | None = None,
    ) -> None:
        self.rowptr = rowptr
        self.col = col
        self.num_keys = num_keys
        self.heads = heads
        self.query_batch = query_batch
        self.key_batch = key_batch
        self.num_graphs = count_graphs(query_batch, key_batch) if num_graphs is None else num_graphs
        self._csc: CSC | None = None

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        num_queries: int | None = None,
        num_keys: int | None = None,
        heads: int = 1,
        head: Tensor | None = None,
        query_batch: Tensor | None = None,
        key_batch: Tensor | None = None,
    ) -> SampledGraph:
        r"""Builds a graph from any hand-made pattern of edges; duplicates are merged.

        Args:
            edge_index (Tensor): Key (row 0) and query (row 1) of every edge, int64 of shape
                :obj:`[2, E]`.
            num_queries (int, optional): The number of query nodes. (default: the length of
                :obj:`query_batch`, or the largest query plus one)
            num_keys (int, optional): The number of key nodes. (default: likewise)
            heads (int, optional): The number of heads. (default: :obj:`1`)
            head (Tensor, optional): Head of every edge, int64 of shape :obj:`[E]`; without it
                every head gets every edge. (default: :obj:`None`)
            query_batch (Tensor, optional): Graph of each query node, sorted.
            key_batch (Tensor, optional): Graph of each key node, sorted.

        Raises:
            ValueError: If a shape, a type or an index is wrong, or an edge joins two graphs.
        """
        check_tensor("edge_index", edge_index, 2, "[2, num_edges]")
        check_positive_int("heads", heads)
        if edge_index.size(0) != 2 or edge_index.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                "'edge_index' must be an integer tensor of shape [2, num_edges], "
                f"got {describe(edge_index)}"
            )
        key, query = edge_index.long()
        num_keys = _num_nodes("num_keys", num_keys, key_batch, key)
        num_queries = _num_nodes("num_queries", num_queries, query_batch, query)
        if (query_batch is None) != (key_batch is None):
            raise ValueError(
                "'query_batch' and 'key_batch' must be given together, got one of them"
            )
        for name, batch, size in (
            ("query_batch", query_batch, num_queries),
            ("key_batch", key_batch, num_keys),
        ):
            if batch is not None:
                check_batch(name, batch, size, edge_index.device)
        if query_batch is not None and key_batch is not None:
            crossing = query_batch[query] != key_batch[key]
            if bool(crossing.any()):
                edge = int(crossing.nonzero()[0])
                raise ValueError(
                    f"'edge_index' must not join nodes of different graphs, got key "
                    f"{int(key[edge])} -> query {int(query[edge])}"
                )
        if head is None:
            head = torch.arange(heads, device=key.device).repeat_interleave(key.numel())
            key, query = key.repeat(heads), query.repeat(heads)
        elif not isinstance(head, Tensor) or head.shape != key.shape or head.is_floating_point():
            raise ValueError(
                f"'head' must be an integer vector with one head for each of "
                f"{key.numel()} edges, got {describe(head)}"
            )
        elif head.numel() and not (int(head.min()) >= 0 and int(head.max()) < heads):
            raise ValueError(
                f"'head' must lie in [0, {heads}), got values from {int(head.min())} "
                f"to {int(head.max())}"
            )
        edge = torch.unique((query * heads + head) * num_keys + key) if key.numel() else key
        rowptr, col = _csr_from_sorted(edge, num_queries * heads, num_keys)
        return cls(rowptr, col, num_keys, heads, query_batch, key_batch)

    # Sizes ########################################################################################

    @property
    def num_edges(self) -> int:
        """The number of edges over all heads."""
        return self.col.numel()

    @property
    def num_queries(self) -> int:
        """The number of query nodes."""
        return (self.rowptr.numel() - 1) // self.heads

    @property
    def device(self) -> torch.device:
        """Where the graph lies."""
        return self.col.device

    @property
    def query_ptr(self) -> Tensor:
        """Query node offsets of each graph, int64 of shape :obj:`[num_graphs + 1]`."""
        return batch_to_ptr(self.query_batch, self.num_queries, self.num_graphs, self.device)

    @property
    def key_ptr(self) -> Tensor:
        """Key node offsets of each graph, int64 of shape :obj:`[num_graphs + 1]`."""
        return batch_to_ptr(self.key_batch, self.num_keys, self.num_graphs, self.device)

    # Edges ########################################################################################

    @property
    def row(self) -> Tensor:
        """Query vertex of every edge, int64 of shape :obj:`[E]`."""
        vertices = torch.arange(self.rowptr.numel() - 1, device=self.device)
        return torch.repeat_interleave(vertices, self.rowptr.diff(), output_size=self.num_edges)

    @property
    def edge_index(self) -> Tensor:
        """Key (row 0) and query (row 1) of every edge, int64 of shape :obj:`[2, E]`."""
        return torch.stack([self.col.long(), self.row.div(self.heads, rounding_mode="floor")])

    @property
    def head(self) -> Tensor:
        """Head of every edge, int64 of shape :obj:`[E]`."""
        return self.row % self.heads

    @property
    def vertex_index(self) -> Tensor:
        """Key vertex (row 0) and query vertex (row 1) of every edge, int64 of shape :obj:`[2, E]`:
        the disjoint union of all heads and graphs as one ``edge_index``."""
        row = self.row
        return torch.stack([self.col.long() * self.heads + row % self.heads, row])

    def csc(self) -> CSC:
        """The edges grouped by key vertex; computed once and kept."""
        if self._csc is None:
            from sbmgraph.ops.transpose import transpose

            self._csc = CSC(*transpose(self.rowptr, self.col, self.heads, self.num_keys))
        return self._csc

    def density(self) -> Tensor:
        """The fraction of possible edges that are present, float64 of shape
        :obj:`[num_graphs, H]`; 0 for a graph without possible edges."""
        degree = self.rowptr.diff().view(-1, self.heads)
        edges = sum_by_graph(degree, self.query_batch, self.num_graphs)
        return edges / num_pairs(self.query_ptr, self.key_ptr).clamp(min=1).unsqueeze(1).double()

    def union(self, other: SampledGraph) -> tuple[SampledGraph, Tensor, Tensor]:
        """The graph with the edges of both, and where each came from.

        Args:
            other (SampledGraph): A graph over the same nodes, heads and batch.

        Returns:
            The union, and for each of its edges the position of the edge in ``self`` and in
            ``other`` (int64 of shape :obj:`[E]`, -1 where it is not in it).

        Raises:
            ValueError: If the graphs differ in their numbers of queries, keys or heads.
        """
        mine = (self.num_queries, self.num_keys, self.heads)
        theirs = (other.num_queries, other.num_keys, other.heads)
        if mine != theirs:
            raise ValueError(
                f"'other' must have (num_queries, num_keys, heads) = {mine}, got {theirs}"
            )
        ids = [graph.row * graph.num_keys + graph.col for graph in (self, other)]
        edge, inverse = torch.unique(torch.cat(ids), return_inverse=True)
        rowptr, col = _csr_from_sorted(edge, self.rowptr.numel() - 1, self.num_keys)
        origins = []
        for part in inverse.split([self.num_edges, other.num_edges]):
            origin = torch.full_like(edge, -1)
            origin[part] = torch.arange(part.numel(), device=edge.device)
            origins.append(origin)
        merged = SampledGraph(
            rowptr,
            col,
            self.num_keys,
            self.heads,
            self.query_batch,
            self.key_batch,
            self.num_graphs,
        )
        return merged, origins[0], origins[1]

    # Conversion ###################################################################################

    def to(self, device: torch.device | str) -> SampledGraph:
        """The same graph on ``device``."""
        batches = [None if b is None else b.to(device) for b in (self.query_batch, self.key_batch)]
        return SampledGraph(
            self.rowptr.to(device),
            self.col.to(device),
            self.num_keys,
            self.heads,
            batches[0],
            batches[1],
            self.num_graphs,
        )

    def edges_of(self, head: int = 0, graph: int = 0) -> Tensor:
        """The edges of one head on one graph, key (row 0) and query (row 1) numbered from 0 inside
        the graph, int64 of shape :obj:`[2, E]`.

        Raises:
            ValueError: If the head or the graph does not exist.
        """
        for name, value, size in (("head", head, self.heads), ("graph", graph, self.num_graphs)):
            if not isinstance(value, int) or not 0 <= value < size:
                raise ValueError(f"'{name}' must be an integer in [0, {size}), got {value!r}")
        first, last = self.query_ptr[graph : graph + 2].tolist()
        start, stop = self.rowptr[[first * self.heads, last * self.heads]].tolist()
        degree = self.rowptr[first * self.heads : last * self.heads + 1].diff()
        vertex = torch.repeat_interleave(degree)
        chosen = vertex % self.heads == head
        key = self.col[start:stop][chosen].long() - self.key_ptr[graph]
        return torch.stack([key, vertex[chosen] // self.heads])

    def to_networkx(self, head: int = 0, graph: int = 0, sbm: SBM | None = None) -> nx.DiGraph:
        """One head's graph on one input as a bipartite :class:`networkx.DiGraph`.

        Nodes are ``("key", j)`` with ``bipartite=0`` and ``("query", i)`` with ``bipartite=1``,
        edges run from key to query. With ``sbm``, every node's strongest block is its attribute
        ``block`` and every edge's probability its attribute ``prob``.

        Raises:
            ValueError: If the head or the graph does not exist.
        """
        import networkx as nx

        edges = self.edges_of(head, graph)
        query_low, query_high = self.query_ptr[graph : graph + 2].tolist()
        key_low, key_high = self.key_ptr[graph : graph + 2].tolist()
        out = nx.DiGraph(head=head, graph=graph)
        out.add_nodes_from((("key", j) for j in range(key_high - key_low)), bipartite=0)
        out.add_nodes_from((("query", i) for i in range(query_high - query_low)), bipartite=1)
        key, query = edges.tolist()
        out.add_edges_from((("key", j), ("query", i)) for j, i in zip(key, query, strict=True))
        if sbm is None:
            return out
        memberships = (
            ("key", sbm.key_membership[key_low:key_high, head]),
            ("query", sbm.query_membership[query_low:query_high, head]),
        )
        for kind, membership in memberships:
            for node, block in enumerate(membership.argmax(dim=-1).tolist()):
                out.nodes[kind, node]["block"] = block
        rate = sbm.rate[query_low:query_high, head].detach()[edges[1]]
        prob = (rate * sbm.key_membership[key_low:key_high, head].detach()[edges[0]]).sum(-1)
        for j, i, p in zip(key, query, prob.clamp(max=1).tolist(), strict=True):
            out.edges[("key", j), ("query", i)]["prob"] = p
        return out

    def to_hetero_data(self) -> HeteroData:
        """The graph as :class:`~torch_geometric.data.HeteroData`: node types ``"key"`` and
        ``"query"``, and for each head an edge type ``("key", "head_<h>", "query")``."""
        from torch_geometric.data import HeteroData

        data = HeteroData()
        data["key"].num_nodes = self.num_keys
        data["query"].num_nodes = self.num_queries
        if self.key_batch is not None and self.query_batch is not None:
            data["key"].batch = self.key_batch
            data["query"].batch = self.query_batch
        edge_index, head = self.edge_index, self.head
        for h in range(self.heads):
            data["key", f"head_{h}", "query"].edge_index = edge_index[:, head == h]
        return data

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_edges={self.num_edges}, num_queries={self.num_queries}, "
            f"num_keys={self.num_keys}, heads={self.heads}, num_graphs={self.num_graphs})"
        )


def num_pairs(query_ptr: Tensor, key_ptr: Tensor) -> Tensor:
    """The number of possible edges of each graph, int64 of shape :obj:`[num_graphs]`."""
    return query_ptr.diff() * key_ptr.diff()


def sum_by_graph(value: Tensor, batch: Tensor | None, num_graphs: int) -> Tensor:
    """Sums rows of ``value`` [n, ...] over the nodes of each graph → [num_graphs, ...]."""
    if batch is None or num_graphs == 1:
        return value.sum(dim=0, keepdim=True)
    out = value.new_zeros(num_graphs, *value.shape[1:])
    return out.index_add(0, batch, value)


def _csr_from_sorted(edge: Tensor, num_rows: int, num_keys: int) -> tuple[Tensor, Tensor]:
    """CSR of edges given as sorted numbers ``row * num_keys + key``."""
    row = edge.div(max(num_keys, 1), rounding_mode="floor")
    rowptr = torch.searchsorted(row, torch.arange(num_rows + 1, device=edge.device))
    return rowptr, (edge - row * num_keys).int()


def _num_nodes(name: str, given: int | None, batch: Tensor | None, index: Tensor) -> int:
    needed = int(index.max()) + 1 if index.numel() else 0
    if given is None:
        given = batch.numel() if isinstance(batch, Tensor) else needed
    check_positive_int(name, given, minimum=0)
    if given > MAX_NODES:
        raise ValueError(
            f"'{name}' must be at most {MAX_NODES} (keys are stored as int32), got {given}"
        )
    if needed > given or (index.numel() and int(index.min()) < 0):
        raise ValueError(
            f"'edge_index' must hold nodes in [0, {given}) ('{name}'), got values from "
            f"{int(index.min())} to {needed - 1}"
        )
    return given
