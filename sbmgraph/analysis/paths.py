"""What tokens can see through several layers, and the conditions of the universality theorem."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from sbmgraph.analysis._kernels import count_bits, spread_bits
from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.select import biadjacency_matrix, check_order, check_square
from sbmgraph.checks import check_flag, check_positive_int, describe
from sbmgraph.graph import SampledGraph

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from sbmgraph.record import LayerSample

CHUNK = 4096
"""Sources whose spread is followed at a time, as bits: n · 512 bytes of memory."""


@accepts_old_names
def reach(
    layers: Sequence[SampledGraph | LayerSample],
    head: int | None = None,
    graph_index: int = 0,
    num_layers: int | None = None,
    residual: bool = True,
) -> np.ndarray:
    """How many tokens each token can see after 0, 1, 2, … layers.

    A token sees what its neighbours in the last layer saw one layer earlier, and, through the
    residual connection, what it saw itself. With the same graph in every layer this counts the
    tokens within that many steps of shortest paths.

    Args:
        layers (sequence of SampledGraph or LayerSample): One sampled graph of self-attention for
            each layer, first layer first; or one by itself.
        head (int, optional): The head; :obj:`None` is the union of all heads, which a layer with
            an output projection sees. (default: :obj:`None`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        num_layers (int, optional): How many layers to follow; beyond the last one they start
            again with the first. (default: the number of ``layers``)
        residual (bool, optional): Whether a token also keeps what it saw. (default: :obj:`True`)

    Returns:
        int64 array of shape :obj:`[num_layers + 1, n]`; the first row is ones.

    Raises:
        ValueError: If a head or graph does not exist, the layers differ in tokens, or queries and
            keys are not the same tokens.
    """
    matrices = _matrices(layers, head, graph_index)
    if num_layers is None:
        num_layers = len(matrices)
    check_positive_int("num_layers", num_layers, minimum=0)
    check_flag("residual", residual)
    size = matrices[0].shape[0]
    out = np.zeros((num_layers + 1, size), dtype=np.int64)
    for first in range(0, size, CHUNK):
        bits = _sources(size, first)
        out[0] += count_bits(bits)
        for layer in range(num_layers):
            bits = _step(matrices[layer % len(matrices)], bits, residual)
            out[layer + 1] += count_bits(bits)
    return out


class Universality(NamedTuple):
    """What :func:`check_universality` found. The conditions hold if ``self_edges``, ``chain`` (or
    ``hamiltonian_path``) are true and ``layers_to_all`` is a number.

    Attributes:
        self_edges: Whether every token attends to itself in every layer.
        missing_self_edges: Number of (layer, token) pairs that lack it.
        chain: Whether the chain order[0] → order[1] → … lies in the union of the layers.
        missing_links: Number of links that the chain lacks.
        hamiltonian_path: Whether the union has a path through all tokens: :obj:`True` where the
            chain or a degree condition proves one, :obj:`False` where none can exist, :obj:`None`
            where neither is known.
        layers_to_all: After how many layers every token sees every token, :obj:`None` if that
            takes more than were followed.
    """

    self_edges: bool
    missing_self_edges: int
    chain: bool
    missing_links: int
    hamiltonian_path: bool | None
    layers_to_all: int | None

    @property
    def holds(self) -> bool | None:
        """Whether all conditions hold; :obj:`None` if only the path through all tokens is open."""
        if not self.self_edges or self.layers_to_all is None:
            return False
        return self.hamiltonian_path


@accepts_old_names
def check_universality(
    layers: Sequence[SampledGraph | LayerSample],
    head: int | None = None,
    graph_index: int = 0,
    order: Sequence[int] | None = None,
    max_layers: int = 64,
) -> Universality:
    r"""Checks sampled graphs against the conditions under which sparse Transformers approximate
    every continuous sequence function.

    The universality proof of Cho et al. (NeurIPS 2022) rests on Assumption 1 of Yun et al., *O(n)
    Connections are Expressive Enough* (NeurIPS 2020), on the attention patterns :math:`A^1, \ldots,
    A^p` that the layers cycle through:

    1. every token attends to itself in every pattern;
    2. the union of the patterns has a Hamiltonian path: an order :math:`\gamma` of the tokens with
       :math:`\gamma(i) \in \bigcup_l A^l_{\gamma(i+1)}` for all :math:`i`;
    3. after a finite number of layers every token is reached by every token.

    Conditions 1 and 3 are checked exactly (3 up to ``max_layers``). To decide 2 is NP-hard. The
    chain along ``order`` proves it; so does every token having in- and out-degrees, without its
    self edge, that add up to n − 1 or more (Ghouila-Houri's theorem after adding a token joined to
    all). It is refuted where some pair of tokens cannot reach each other either way. The rest stays
    open.

    The theorem speaks of the expected output over all graphs a model can sample; exploration gives
    every edge a chance. A single sample that meets the conditions shows a pattern of positive
    probability, one that fails them refutes nothing.

    Args:
        layers (sequence of SampledGraph or LayerSample): One sampled graph of self-attention for
            each layer, first layer first; or one by itself.
        head (int, optional): The head; :obj:`None` is the union of all heads. (default:
            :obj:`None`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        order (sequence of int, optional): The order of the chain, a permutation of the tokens.
            (default: the natural order)
        max_layers (int, optional): How many layers to follow. (default: :obj:`64`)

    Raises:
        ValueError: If a head or graph does not exist, the layers differ in tokens, queries and
            keys are not the same tokens, or ``order`` is no permutation.
    """
    matrices = _matrices(layers, head, graph_index)
    check_positive_int("max_layers", max_layers)
    size = matrices[0].shape[0]
    chain = np.arange(size) if order is None else check_order("order", order, size)
    missing_self = sum(int((matrix.diagonal() == 0).sum()) for matrix in matrices)
    union = sum(matrix.astype(np.int32) for matrix in matrices[1:]) + matrices[0].astype(np.int32)
    links = np.asarray(union[chain[1:], chain[:-1]]).ravel() if size > 1 else np.ones(0)
    missing_links = int((links == 0).sum())
    return Universality(
        self_edges=missing_self == 0,
        missing_self_edges=missing_self,
        chain=missing_links == 0,
        missing_links=missing_links,
        hamiltonian_path=True if missing_links == 0 else _hamiltonian_path(union),
        layers_to_all=_layers_to_all(matrices, max_layers),
    )


def _hamiltonian_path(union: csr_array) -> bool | None:
    """Cheap proofs and refutations of a Hamiltonian path."""
    from scipy.sparse import csgraph

    size = union.shape[0]
    loops = (union.diagonal() > 0).astype(np.int64)
    entries = np.bincount(union.indices, minlength=size) + np.diff(union.indptr)
    if int((entries - 2 * loops).min()) >= size - 1:
        return True
    number, component = csgraph.connected_components(union, directed=True, connection="strong")
    return None if _is_semiconnected(union, number, component) else False


def _is_semiconnected(union: csr_array, number: int, component: np.ndarray) -> bool:
    """Whether of every two tokens one reaches the other: the strong components must form one chain,
    each with an edge to the next in topological order."""
    import networkx as nx

    row, col = union.nonzero()
    condensed = nx.DiGraph()
    condensed.add_nodes_from(range(number))
    pairs = np.unique(component[col].astype(np.int64) * number + component[row])
    pairs = np.stack([pairs // number, pairs % number], axis=1)
    condensed.add_edges_from(pairs[pairs[:, 0] != pairs[:, 1]].tolist())
    chain = list(nx.topological_sort(condensed))
    return all(condensed.has_edge(a, b) for a, b in pairwise(chain))


def _layers_to_all(matrices: list[csr_array], max_layers: int) -> int | None:
    """The least number of layers after which every token sees every token."""
    size = matrices[0].shape[0]
    slowest = 0
    for first in range(0, size, CHUNK):
        bits, sources = _sources(size, first), min(CHUNK, size - first)
        for layer in range(max_layers):
            bits = _step(matrices[layer % len(matrices)], bits, residual=False)
            if bool((count_bits(bits) == sources).all()):
                slowest = max(slowest, layer + 1)
                break
        else:
            return None
    return slowest


def _matrices(
    layers: Sequence[SampledGraph | LayerSample], head: int | None, graph_index: int
) -> list[csr_array]:
    if isinstance(layers, SampledGraph) or hasattr(layers, "graph"):
        layers = [layers]  # type: ignore[list-item]
    if isinstance(layers, str | dict | Tensor) or not isinstance(layers, Iterable):
        raise ValueError(
            f"'layers' must be sampled graphs or recorded layer samples, got {describe(layers)}"
        )
    graphs = [getattr(item, "graph", item) for item in layers]
    if not graphs:
        raise ValueError("'layers' must hold at least one sampled graph, got none")
    matrices = [biadjacency_matrix(graph, head, graph_index) for graph in graphs]  # type: ignore[arg-type]
    for matrix in matrices:
        check_square(matrix)
        if matrix.shape != matrices[0].shape:
            raise ValueError(
                f"'layers' must have the same tokens, got {matrices[0].shape[0]} and "
                f"{matrix.shape[0]}"
            )
    return matrices


def _sources(size: int, first: int) -> np.ndarray:
    """Every token sees itself, as bits of the sources from ``first`` on: uint64 of shape
    [size, words]."""
    number = min(CHUNK, size - first)
    bits = np.zeros((size, (number + 63) // 64), dtype=np.uint64)
    source = np.arange(number)
    bits[first + source, source // 64] = np.uint64(1) << (source % 64).astype(np.uint64)
    return bits


def _step(matrix: csr_array, bits: np.ndarray, residual: bool) -> np.ndarray:
    out = bits.copy() if residual else np.zeros_like(bits)
    spread_bits(matrix.indptr, matrix.indices, bits, out)
    return out
