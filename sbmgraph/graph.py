"""Sampled graphs: which keys every query of every head attends to.

All heads of all graphs of a batch form one disjoint union of vertices, (node, head) pairs numbered
``node * heads + head``. A :class:`SampledGraph` holds its edges in one of two layouts, as lists
(CSR by query vertex) or as one bit a pair, and makes the other when someone asks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sbmgraph.checks import check_positive_int, check_tensor, describe
from sbmgraph.kernels import bits as bitmaps
from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.csr import CSC, CSR, from_sorted
from sbmgraph.kernels.transpose.operator import transpose
from sbmgraph.nodes import MAX_NODES, Nodes, kept

LAYOUTS = ("csr", "bits")


class SampledGraph:
    r"""A bipartite graph from keys to queries for each attention head.

    Direction follows PyG's ``source_to_target`` flow: row 0 of :attr:`edge_index` is the key
    (source), row 1 the query (target). Edges are sorted by (query, head, key) and are distinct.

    The edges are held as they come: as a list, 4 bytes an edge and 8 a vertex, or as one bit for
    each pair of a query and a key of the same graph, which is the smaller above 1/32 = 3 % density.
    What needs a list (:attr:`rowptr`, :attr:`col`, :attr:`edge_index`, …) makes and keeps it;
    :attr:`num_edges`, :meth:`density` and :attr:`degree` of bits need none.

    This constructor trusts its arguments; :meth:`from_edge_index` and :meth:`from_csr` make graphs
    from edges.

    Examples:
        A hand-made pattern: each of four tokens attends to itself and to the one before it.

        >>> import torch
        >>> from sbmgraph import SampledGraph
        >>> key, query = torch.tensor([[0, 0, 1, 1, 2, 2, 3], [0, 1, 1, 2, 2, 3, 3]])
        >>> edges = torch.stack([key, query])
        >>> graph = SampledGraph.from_edge_index(edges, num_queries=4, num_keys=4)
        >>> graph
        SampledGraph(num_edges=7, num_queries=4, num_keys=4, heads=1, num_graphs=1)
        >>> graph.density()
        tensor([[0.4375]], dtype=torch.float64)
        >>> graph.layout
        'csr'

    Args:
        nodes (Nodes): The nodes and heads.
        edges (CSR or Bits): The edges.
    """

    def __init__(self, nodes: Nodes, edges: CSR | Bits) -> None:
        self.nodes = nodes
        self._csr = edges if isinstance(edges, CSR) else None
        self._bits = edges if isinstance(edges, Bits) else None
        self.layout = "bits" if self._csr is None else "csr"

    @classmethod
    def from_csr(
        cls,
        rowptr: Tensor,
        col: Tensor,
        num_keys: int,
        heads: int = 1,
        query_batch: Tensor | None = None,
        key_batch: Tensor | None = None,
        num_graphs: int | None = None,
    ) -> SampledGraph:
        """A graph of edges in CSR by query vertex, ascending in key and distinct; unchecked.

        Args:
            rowptr (Tensor): Where the edges of each query vertex start, int64 of shape
                :obj:`[n * H + 1]`.
            col (Tensor): Key node of every edge, int32 of shape :obj:`[E]`.
            num_keys (int): The number :math:`m` of key nodes.
            heads (int): The number :math:`H` of heads.
            query_batch (Tensor, optional): Graph of each query node, sorted int64 of shape
                :obj:`[n]`.
            key_batch (Tensor, optional): Graph of each key node, likewise of shape :obj:`[m]`.
            num_graphs (int, optional): The number of graphs in the batch; counted if not given.
        """
        num_queries = (rowptr.numel() - 1) // heads
        nodes = Nodes(num_queries, num_keys, heads, query_batch, key_batch, num_graphs, col.device)
        return cls(nodes, CSR(rowptr, col, nodes.query_ptr, nodes.key_ptr, heads))

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
        if edge_index.is_meta:
            raise ValueError(f"'edge_index' must have values, got {describe(edge_index)}")
        key, query = edge_index.long()
        nodes = Nodes.checked(
            _num_nodes("num_queries", num_queries, query_batch, query),
            _num_nodes("num_keys", num_keys, key_batch, key),
            heads,
            query_batch,
            key_batch,
            edge_index.device,
        )
        if query_batch is not None and key_batch is not None:
            crossing = query_batch[query] != key_batch[key]
            if bool(crossing.any()):
                edge = int(crossing.nonzero()[0])
                raise ValueError(
                    f"'edge_index' must not join nodes of different graphs, got key "
                    f"{int(key[edge])} -> query {int(query[edge])}"
                )
        if head is None:
            numbers = torch.arange(heads, dtype=torch.int64, device=key.device)
            head = numbers.repeat_interleave(key.numel())
            key, query = key.repeat(heads), query.repeat(heads)
        elif (
            not isinstance(head, Tensor)
            or head.shape != key.shape
            or head.dtype not in (torch.int64, torch.int32)
        ):
            raise ValueError(
                f"'head' must be an integer vector with one head for each of "
                f"{key.numel()} edges, got {describe(head)}"
            )
        elif head.numel() and not (int(head.min()) >= 0 and int(head.max()) < heads):
            raise ValueError(
                f"'head' must lie in [0, {heads}), got values from {int(head.min())} "
                f"to {int(head.max())}"
            )
        edge = torch.unique((query * heads + head) * nodes.num_keys + key) if key.numel() else key
        rowptr, col = from_sorted(edge, nodes.num_vertices, nodes.num_keys)
        return cls(nodes, CSR(rowptr, col, nodes.query_ptr, nodes.key_ptr, heads))

    # Sizes ########################################################################################

    @kept
    def num_edges(self) -> int:
        """The number of edges over all heads."""
        return int(self.degree.sum()) if self._csr is None else self._csr.col.numel()

    @property
    def num_queries(self) -> int:
        """The number of query nodes."""
        return self.nodes.num_queries

    @property
    def num_keys(self) -> int:
        """The number of key nodes."""
        return self.nodes.num_keys

    @property
    def heads(self) -> int:
        """The number of heads."""
        return self.nodes.heads

    @property
    def num_graphs(self) -> int:
        """The number of graphs in the batch."""
        return self.nodes.num_graphs

    @property
    def query_batch(self) -> Tensor | None:
        """Graph of each query node, int64 of shape :obj:`[n]`; :obj:`None` for one graph."""
        return self.nodes.query_batch

    @property
    def key_batch(self) -> Tensor | None:
        """Graph of each key node, likewise."""
        return self.nodes.key_batch

    @property
    def query_ptr(self) -> Tensor:
        """Query node offsets of each graph, int64 of shape :obj:`[num_graphs + 1]`."""
        return self.nodes.query_ptr

    @property
    def key_ptr(self) -> Tensor:
        """Key node offsets of each graph, int64 of shape :obj:`[num_graphs + 1]`."""
        return self.nodes.key_ptr

    @property
    def device(self) -> torch.device:
        """Where the graph lies."""
        return self.nodes.device

    @kept
    def degree(self) -> Tensor:
        """The number of edges of each query vertex, int64 of shape :obj:`[n * H]`."""
        if self._csr is not None:
            return self._csr.rowptr.diff()
        assert self._bits is not None
        return bitmaps.degrees(self._bits, rows=self.nodes.num_vertices)

    def density(self) -> Tensor:
        """The fraction of possible edges that are present, float64 of shape
        :obj:`[num_graphs, H]`; 0 for a graph without possible edges."""
        edges = self.nodes.sum_queries(self.degree.view(-1, self.heads))
        return edges / self.nodes.num_pairs.clamp(min=1).unsqueeze(1).double()

    # Layouts ######################################################################################

    @property
    def csr(self) -> CSR:
        """The edges as a list by query vertex; computed once and kept."""
        if self._csr is None:
            assert self._bits is not None
            with torch.inference_mode(False), torch.no_grad():
                rowptr, col = bitmaps.bits_to_csr(self._bits, rows=self.nodes.num_vertices)
            self._csr = CSR(rowptr, col, self.query_ptr, self.key_ptr, self.heads)
        return self._csr

    @property
    def bits(self) -> Bits:
        """The edges as one bit a pair; computed once and kept."""
        if self._bits is None:
            with torch.inference_mode(False), torch.no_grad():
                self._bits = bitmaps.csr_to_bits(*self.csr[:4], heads=self.heads)
        return self._bits

    @kept
    def _csc(self) -> CSC:
        return CSC(*transpose(self.rowptr, self.col, heads=self.heads, num_keys=self.num_keys))

    def csc(self) -> CSC:
        """The edges grouped by key vertex; computed once and kept."""
        return self._csc

    # Edges ########################################################################################

    @property
    def rowptr(self) -> Tensor:
        """Where the edges of each query vertex start, int64 of shape :obj:`[n * H + 1]`."""
        return self.csr.rowptr

    @property
    def col(self) -> Tensor:
        """Key node of every edge, int32 of shape :obj:`[E]`."""
        return self.csr.col

    @property
    def row(self) -> Tensor:
        """Query vertex of every edge, int64 of shape :obj:`[E]`."""
        return self.csr.row

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
        """Key vertex (row 0) and query vertex (row 1) of every edge, int64 of shape :obj:`[2, E]`,
        the disjoint union of all heads and graphs as one ``edge_index``."""
        return self.csr.vertex_index

    def edges_of(self, head: int = 0, graph_index: int = 0) -> Tensor:
        """The edges of one head on one graph, key (row 0) and query (row 1) numbered from 0 inside
        the graph, int64 of shape :obj:`[2, E]`.

        Raises:
            ValueError: If the head or the graph does not exist.
        """
        self.check_place(head, graph_index)
        first, last = self.query_ptr[graph_index : graph_index + 2].tolist()
        start, stop = self.rowptr[[first * self.heads, last * self.heads]].tolist()
        degree = self.rowptr[first * self.heads : last * self.heads + 1].diff()
        vertex = torch.repeat_interleave(degree)
        chosen = vertex % self.heads == head
        key = self.col[start:stop][chosen].long() - self.key_ptr[graph_index]
        return torch.stack([key, vertex[chosen] // self.heads])

    def check_place(self, head: Any, graph_index: Any) -> None:
        """Raises a :class:`ValueError` if the head or the graph does not exist."""
        for name, value, size in (
            ("head", head, self.heads),
            ("graph_index", graph_index, self.num_graphs),
        ):
            if not isinstance(value, int) or not 0 <= value < size:
                raise ValueError(f"'{name}' must be an integer in [0, {size}), got {value!r}")

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
        self.nodes.check_same("other", other.nodes)
        ids = [graph.row * graph.num_keys + graph.col for graph in (self, other)]
        edge, inverse = torch.unique(torch.cat(ids), return_inverse=True)
        origins = []
        for part in inverse.split([self.num_edges, other.num_edges]):
            origin = torch.full_like(edge, -1)
            origin[part] = torch.arange(part.numel(), dtype=torch.int64, device=edge.device)
            origins.append(origin)
        rowptr, col = from_sorted(edge, self.nodes.num_vertices, self.num_keys)
        csr = CSR(rowptr, col, self.query_ptr, self.key_ptr, self.heads)
        return SampledGraph(self.nodes, csr), origins[0], origins[1]

    def to(self, device: torch.device | str) -> SampledGraph:
        """The same graph on ``device``, in the layout that it was made in."""
        nodes = self.nodes.to(device)
        edges = self._csr if self.layout == "csr" else self._bits
        assert edges is not None
        moved = (x.to(device) if isinstance(x, Tensor) else x for x in edges)
        return SampledGraph(nodes, type(edges)._make(moved))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_edges={self.num_edges}, num_queries={self.num_queries}, "
            f"num_keys={self.num_keys}, heads={self.heads}, num_graphs={self.num_graphs})"
        )


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
