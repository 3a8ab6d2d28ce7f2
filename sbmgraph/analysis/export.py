"""Sampled graphs for other tools: networkx, GraphML, GEXF, GraphViz, PyG and tables.

Whatever the format, a node knows its ``kind`` (key or query), its ``index`` inside the graph, and,
where given, its ``token`` and strongest ``block``; an edge runs from key to query and knows, where
given, its probability ``prob`` and its attention ``weight``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.blocks import assign_blocks
from sbmgraph.analysis.mass import edge_probabilities
from sbmgraph.analysis.select import (
    biadjacency_matrix,
    check_pair,
    check_sampled,
    factors,
    to_list,
)
from sbmgraph.analysis.strength import block_strength
from sbmgraph.checks import check_choice
from sbmgraph.files import replacing
from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    from torch_geometric.data import Data, HeteroData


@accepts_old_names
def to_pandas_edgelist(
    graph: SampledGraph,
    sbm: SBM | None = None,
    weights: Tensor | None = None,
    head: int | None = None,
    graph_index: int | None = None,
) -> pd.DataFrame:
    """The edges as a table, one row each.

    Columns: ``graph``, ``head``, ``key``, ``query`` (numbered inside the graph); with ``weights``
    ``weight``; with ``sbm`` ``prob``, ``key_block`` and ``query_block``.

    Args:
        graph (SampledGraph): The sampled graphs.
        sbm (SBM, optional): Their block models. (default: :obj:`None`)
        weights (Tensor, optional): A value for every edge, of shape :obj:`[E]`.
            (default: :obj:`None`)
        head (int, optional): One head only. (default: all)
        graph_index (int, optional): One graph of the batch only. (default: all)

    Raises:
        ValueError: If the head or the graph does not exist, or an argument does not fit
            ``graph``.
    """
    import pandas as pd

    check_sampled(graph)
    heads = range(graph.heads) if head is None else [head]
    graphs = range(graph.num_graphs) if graph_index is None else [graph_index]
    parts = [_edge_columns(graph, sbm, weights, h, g) for g in graphs for h in heads]
    return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)


@accepts_old_names
def to_networkx(
    graph: SampledGraph,
    sbm: SBM | None = None,
    weights: Tensor | None = None,
    head: int = 0,
    graph_index: int = 0,
    tokens: Sequence[Any] | None = None,
) -> nx.DiGraph:
    """One head on one graph as a bipartite graph, its nodes named ``"key_0"``, …, ``"query_0"``, …,
    as files need it.

    The graph's own attributes are ``head``, ``graph_index``, ``num_queries``, ``num_keys`` and
    ``density``, the head's: edges over query–key pairs. :func:`networkx.density` divides by all
    ordered pairs of nodes instead, among them those of two queries. With ``sbm`` there are
    ``expected_density`` and ``block_strength`` too.

    Args:
        graph (SampledGraph): The sampled graphs.
        sbm (SBM, optional): Their block models. (default: :obj:`None`)
        weights (Tensor, optional): A value for every edge, of shape :obj:`[E]`.
            (default: :obj:`None`)
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        tokens (sequence, optional): What stands at each position, queries and keys alike.
            (default: :obj:`None`)

    Raises:
        ValueError: If the head or the graph does not exist, or an argument does not fit
            ``graph``.
    """
    import networkx as nx

    columns = _edge_columns(graph, sbm, weights, head, graph_index)
    num_queries, num_keys = biadjacency_matrix(graph, head, graph_index).shape
    blocks = (None, None) if sbm is None else assign_blocks(sbm, head, graph_index)
    out = nx.DiGraph(
        head=int(head), graph_index=int(graph_index), num_queries=num_queries, num_keys=num_keys,
        density=len(columns["key"]) / max(num_queries * num_keys, 1),
    )  # fmt: skip
    if sbm is not None:
        out.graph["expected_density"] = float(sbm.expected_density()[graph_index, head].detach())
        out.graph["block_strength"] = float(block_strength(sbm)[graph_index, head])
    sides = (("key", 0, num_keys, blocks[1]), ("query", 1, num_queries, blocks[0]))
    for kind, side, size, block in sides:
        expected = f"'tokens' must hold one token for each {kind}, {size}"
        texts = None if tokens is None else to_list(expected, tokens, size)
        for index in range(size):
            node: dict[str, Any] = {"kind": kind, "index": index, "bipartite": side}
            if texts is not None:
                node["token"] = str(texts[index])
            if block is not None:
                node["block"] = int(block[index])
            out.add_node(f"{kind}_{index}", **node)
    values = {name: columns[name].tolist() for name in ("weight", "prob") if name in columns}
    pairs = zip(columns["key"].tolist(), columns["query"].tolist(), strict=True)
    for edge, (key, query) in enumerate(pairs):
        attributes = {name: column[edge] for name, column in values.items()}
        out.add_edge(f"key_{key}", f"query_{query}", **attributes)
    return out


@accepts_old_names
def to_data(
    graph: SampledGraph,
    sbm: SBM | None = None,
    weights: Tensor | None = None,
    head: int = 0,
    graph_index: int = 0,
) -> Data:
    """One head of self-attention on one graph as a PyG :class:`~torch_geometric.data.Data`: tokens
    are nodes, ``edge_index`` runs from key to query. With ``weights`` it has ``edge_weight``, with
    ``sbm`` ``edge_prob`` [E], ``query_membership`` and ``key_membership`` [n, K], ``query_block``
    and ``key_block`` [n].

    Raises:
        ValueError: If the head or the graph does not exist, an argument does not fit ``graph``,
            or queries and keys are not the same tokens (use :func:`to_hetero_data`).
    """
    from torch_geometric.data import Data

    num_queries, num_keys = biadjacency_matrix(graph, head, graph_index).shape
    if num_queries != num_keys:
        raise ValueError(
            "'graph' must have as many queries as keys to become a Data object, got "
            f"{num_queries} queries and {num_keys} keys: use to_hetero_data"
        )
    columns = _edge_columns(graph, sbm, weights, head, graph_index)
    out = Data(edge_index=_edge_index(columns), num_nodes=num_queries)
    for name, column in (("edge_weight", "weight"), ("edge_prob", "prob")):
        if column in columns:
            out[name] = torch.from_numpy(columns[column])
    if sbm is not None:
        query, key, _ = factors(sbm, head, graph_index)
        out.query_membership, out.key_membership = torch.from_numpy(query), torch.from_numpy(key)
        out.query_block = out.query_membership.argmax(dim=1)
        out.key_block = out.key_membership.argmax(dim=1)
    return out


@accepts_old_names
def to_hetero_data(
    graph: SampledGraph,
    sbm: SBM | None = None,
    weights: Tensor | None = None,
    graph_index: int | None = 0,
) -> HeteroData:
    """All heads as a PyG :class:`~torch_geometric.data.HeteroData`: node types ``"key"`` and
    ``"query"``, for each head an edge type ``("key", "head_<h>", "query")``. With ``weights`` edges
    have ``edge_weight``, with ``sbm`` ``edge_prob``, and nodes ``membership`` [n, H, K].

    Args:
        graph (SampledGraph): The sampled graphs.
        sbm (SBM, optional): Their block models. (default: :obj:`None`)
        weights (Tensor, optional): A value for every edge, of shape :obj:`[E]`.
            (default: :obj:`None`)
        graph_index (int, optional): The graph of the batch; :obj:`None` is the whole batch, whose
            nodes then have their ``batch`` vector. (default: :obj:`0`)

    Raises:
        ValueError: If the graph does not exist or an argument does not fit ``graph``.
    """
    from torch_geometric.data import HeteroData

    check_sampled(graph)
    chosen = range(graph.num_graphs) if graph_index is None else [graph_index]
    shapes = np.array([biadjacency_matrix(graph, 0, g).shape for g in chosen]).reshape(-1, 2)
    offsets = np.cumsum(shapes, axis=0) - shapes
    out = HeteroData()
    for kind, sizes in zip(("query", "key"), shapes.T, strict=True):
        out[kind].num_nodes = int(sizes.sum())
        if graph_index is None:
            out[kind].batch = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
    for head in range(graph.heads):
        parts = [_edge_columns(graph, sbm, weights, head, g) for g in chosen]
        store = out["key", f"head_{head}", "query"]
        shifted = [
            np.stack([part["key"] + key_offset, part["query"] + query_offset])
            for part, (query_offset, key_offset) in zip(parts, offsets, strict=True)
        ]
        store.edge_index = torch.from_numpy(np.concatenate(shifted, axis=1))
        for name, column in (("edge_weight", "weight"), ("edge_prob", "prob")):
            if column in parts[0]:
                store[name] = torch.from_numpy(np.concatenate([part[column] for part in parts]))
    if sbm is not None:
        for kind in ("query", "key"):
            out[kind].membership = torch.from_numpy(
                np.concatenate(
                    [
                        np.stack([getattr(factors(sbm, h, g), kind) for h in range(sbm.heads)], 1)
                        for g in chosen
                    ]
                )
            )
    return out


def write_graph(path: str | os.PathLike[str], graph: nx.DiGraph) -> None:
    """Writes a networkx graph (of :func:`to_networkx` or :func:`block_graph`) in the format that
    the suffix of ``path`` names: ``.graphml``, ``.gexf``, or GraphViz's ``.dot`` and ``.gv``.

    The file is complete or not there.

    Raises:
        ValueError: If the suffix is none of these, or the folder does not exist.
    """
    path = Path(path)
    check_choice("path", path.suffix, WRITERS)
    if not path.parent.is_dir():
        raise ValueError(f"'path' must lie in an existing folder, got {str(path)!r}")
    with replacing(path) as temporary:
        WRITERS[path.suffix](graph, str(temporary))


def _write_graphml(graph: nx.DiGraph, path: str) -> None:
    import networkx as nx

    nx.write_graphml(graph, path)


def _write_gexf(graph: nx.DiGraph, path: str) -> None:
    import networkx as nx

    nx.write_gexf(graph, path)


def _write_dot(graph: nx.DiGraph, path: str) -> None:
    """GraphViz's language; networkx's own writers need a compiled or a deprecated package."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("digraph {\n")
        for name, value in graph.graph.items():
            file.write(f"  {_quote(name)}={_quote(value)};\n")
        for node, attributes in graph.nodes(data=True):
            file.write(f"  {_quote(node)}{_attributes(attributes)};\n")
        for source, target, attributes in graph.edges(data=True):
            file.write(f"  {_quote(source)} -> {_quote(target)}{_attributes(attributes)};\n")
        file.write("}\n")


WRITERS: dict[str, Callable[[nx.DiGraph, str], None]] = {
    ".graphml": _write_graphml,
    ".gexf": _write_gexf,
    ".dot": _write_dot,
    ".gv": _write_dot,
}


def _attributes(attributes: dict[str, Any]) -> str:
    if not attributes:
        return ""
    return " [" + ", ".join(f"{_quote(k)}={_quote(v)}" for k, v in attributes.items()) + "]"


def _quote(value: Any) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def _edge_index(columns: dict[str, Any]) -> Tensor:
    return torch.from_numpy(np.stack([columns["key"], columns["query"]]))


def _edge_columns(
    graph: SampledGraph, sbm: SBM | None, weights: Tensor | None, head: int, graph_index: int
) -> dict[str, Any]:
    matrix = biadjacency_matrix(graph, head, graph_index, weights)
    query = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    key = matrix.indices.astype(np.int64)
    columns: dict[str, Any] = {"graph": graph_index, "head": head, "key": key, "query": query}
    if weights is not None:
        columns["weight"] = matrix.data
    if sbm is not None:
        check_pair(sbm, graph)
        columns["prob"] = np.minimum(
            edge_probabilities(matrix, factors(sbm, head, graph_index)), 1.0
        )
        query_block, key_block = assign_blocks(sbm, head, graph_index)
        columns["key_block"], columns["query_block"] = key_block[key], query_block[query]
    return columns
