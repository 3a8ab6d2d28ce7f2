"""Which nodes may pair: the sizes, heads and batch vectors that models and graphs share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary
from torch_geometric.utils import scatter

from sbmgraph.checks import batch_facts, check_batch, check_positive_int
from sbmgraph.kernels.words import Words, words_of

MAX_NODES = 2**31 - 1
"""Keys are stored as int32."""

MAX_GRAPHS = 2**31 - 1

T = TypeVar("T")


def kept(compute: Callable[[Any], T]) -> property:
    """A property that is computed once. Tensors are made outside of inference mode, so that they
    serve whatever mode the next caller is in."""
    name = f"_kept_{compute.__name__}"

    @wraps(compute)
    def read(self: Any) -> T:
        if name not in self.__dict__:
            with torch.inference_mode(False), torch.no_grad():
                self.__dict__[name] = compute(self)
        return self.__dict__[name]

    return property(read)


class Nodes:
    r"""The queries and keys of a batch of graphs, and the heads that pair them.

    A query and a key may pair in each head if they belong to the same graph. A *vertex* is a (node,
    head) pair, numbered ``node * heads + head``.

    This constructor trusts its arguments; :meth:`checked` checks them.

    Args:
        num_queries (int): The number :math:`n` of query nodes.
        num_keys (int): The number :math:`m` of key nodes.
        heads (int): The number :math:`H` of heads.
        query_batch (Tensor, optional): Graph of each query, sorted int64 of shape :obj:`[n]`.
            (default: one graph)
        key_batch (Tensor, optional): Graph of each key, sorted int64 of shape :obj:`[m]`.
        num_graphs (int, optional): The number of graphs; counted if not given.
        device (torch.device, optional): Where the batch vectors lie. (default: that of
            :obj:`query_batch`, or the CPU)
    """

    def __init__(
        self,
        num_queries: int,
        num_keys: int,
        heads: int,
        query_batch: Tensor | None = None,
        key_batch: Tensor | None = None,
        num_graphs: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.num_queries = num_queries
        self.num_keys = num_keys
        self.heads = heads
        self.query_batch = query_batch
        self.key_batch = key_batch
        if device is None:
            device = torch.device("cpu") if query_batch is None else query_batch.device
        self.device = device
        self._num_graphs = num_graphs

    @classmethod
    def checked(
        cls,
        num_queries: int,
        num_keys: int,
        heads: int,
        query_batch: Tensor | None,
        key_batch: Tensor | None,
        device: torch.device,
    ) -> Nodes:
        """The constructor with checks.

        Raises:
            ValueError: If a size is out of range, one batch vector is given without the other, or
                one is not a sorted vector of graph numbers.
        """
        check_positive_int("heads", heads)
        for name, size in (("num_queries", num_queries), ("num_keys", num_keys)):
            check_positive_int(name, size, minimum=0)
            if size > MAX_NODES:
                raise ValueError(
                    f"'{name}' must be at most {MAX_NODES} (keys are stored as int32), got {size}"
                )
        if (query_batch is None) != (key_batch is None):
            raise ValueError(
                "'query_batch' and 'key_batch' must be given together, got one of them"
            )
        if query_batch is not None and key_batch is not None:
            check_batch("query_batch", query_batch, num_queries, device)
            check_batch("key_batch", key_batch, num_keys, device)
        return cls(num_queries, num_keys, heads, query_batch, key_batch, device=device)

    @property
    def num_graphs(self) -> int:
        """The number :math:`G` of graphs in the batch."""
        if self._num_graphs is None:
            self._num_graphs = count_graphs(self.query_batch, self.key_batch)
        return self._num_graphs

    @property
    def num_vertices(self) -> int:
        """The number :math:`n H` of query vertices."""
        return self.num_queries * self.heads

    @kept
    def query_ptr(self) -> Tensor:
        """Query node offsets of each graph, int64 of shape :obj:`[G + 1]`."""
        return _offsets(self.query_batch, self.num_queries, self.num_graphs, self.device)

    @kept
    def key_ptr(self) -> Tensor:
        """Key node offsets of each graph, int64 of shape :obj:`[G + 1]`."""
        if self.key_batch is self.query_batch and self.num_keys == self.num_queries:
            return self.query_ptr
        return _offsets(self.key_batch, self.num_keys, self.num_graphs, self.device)

    @kept
    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of queries and of keys of each graph, int64 of shape :obj:`[G]`, in the
        host's memory."""
        if self.query_batch is None:
            return np.array([self.num_queries]), np.array([self.num_keys])
        queries = _sizes(self.query_ptr)
        if self.key_ptr is self.query_ptr:
            return queries, queries
        return queries, _sizes(self.key_ptr)

    @kept
    def words(self) -> Words:
        """Where the bits of a graph over these nodes lie."""
        queries, keys = self.sizes
        return words_of(queries, keys, self.heads, self.device)

    @kept
    def num_pairs(self) -> Tensor:
        """The number of possible edges of a head on each graph, int64 of shape :obj:`[G]`."""
        return self.query_ptr.diff() * self.key_ptr.diff()

    def sum_queries(self, value: Tensor) -> Tensor:
        """Sums :obj:`[n, ...]` over the queries of each graph → :obj:`[G, ...]`."""
        return sum_by_graph(value, self.query_batch, self.num_graphs)

    def sum_keys(self, value: Tensor) -> Tensor:
        """Sums :obj:`[m, ...]` over the keys of each graph → :obj:`[G, ...]`."""
        return sum_by_graph(value, self.key_batch, self.num_graphs)

    def check_same(self, name: str, other: Nodes) -> None:
        """Raises a :class:`ValueError` if the argument ``name`` has other nodes or heads."""
        mine = (self.num_queries, self.num_keys, self.heads)
        theirs = (other.num_queries, other.num_keys, other.heads)
        if mine != theirs:
            raise ValueError(
                f"'{name}' must have (num_queries, num_keys, heads) = {mine}, got {theirs}"
            )

    def to(self, device: torch.device | str) -> Nodes:
        """The same nodes on ``device``."""
        device = torch.empty(0, dtype=torch.int64, device=device).device  # with its index
        query_batch, key_batch = (
            None if batch is None else batch.to(device)
            for batch in (self.query_batch, self.key_batch)
        )
        return Nodes(
            self.num_queries,
            self.num_keys,
            self.heads,
            query_batch,
            key_batch,
            self.num_graphs,
            device,
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_queries={self.num_queries}, num_keys={self.num_keys}, "
            f"heads={self.heads}, num_graphs={self.num_graphs})"
        )


_OFFSETS = WeakIdKeyDictionary()
_SIZES = WeakIdKeyDictionary()


def _offsets(batch: Tensor | None, num_nodes: int, num_graphs: int, device: torch.device) -> Tensor:
    """Where the nodes of each graph start; kept with a batch vector until it changes."""
    if batch is None:
        if num_nodes == 0:
            return torch.zeros(2, dtype=torch.int64, device=device)
        return torch.arange(0, 2 * num_nodes, num_nodes, dtype=torch.int64, device=device)
    keeps = type(batch) is Tensor and not batch.is_inference()
    key = (num_graphs, batch._version if keeps else None)
    if keeps and batch in _OFFSETS and _OFFSETS[batch][0] == key:
        return _OFFSETS[batch][1]
    boundaries = torch.arange(num_graphs + 1, dtype=torch.int64, device=device)
    ptr = torch.searchsorted(batch, boundaries)
    if keeps:
        _OFFSETS[batch] = (key, ptr)
    return ptr


def _sizes(ptr: Tensor) -> np.ndarray:
    """The differences of offsets, kept with them."""
    if ptr not in _SIZES:
        _SIZES[ptr] = np.diff(ptr.cpu().numpy())
    return _SIZES[ptr]


def count_graphs(*batches: Tensor | None) -> int:
    """The number of graphs that sorted ``batches`` speak of; 1 where none is given."""
    given = [batch for batch in batches if batch is not None]
    if not given:
        return 1
    return max((batch_facts(batch)[2] + 1 if batch.numel() else 0) for batch in given)


def sum_by_graph(value: Tensor, batch: Tensor | None, num_graphs: int) -> Tensor:
    """Sums rows of ``value`` [n, ...] over the nodes of each graph → [num_graphs, ...], in float32
    at least."""
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    if batch is None or num_graphs == 1:
        return value.sum(dim=0, keepdim=True)
    return scatter(value, batch, dim=0, dim_size=num_graphs, reduce="sum")
