"""Query vertices in order of graph, head and node, and the pieces that threads work on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from sbmgraph.kernels._numba.threads import CHUNKS_PER_THREAD
from sbmgraph.kernels.model import EdgeModel, graph_of_nodes


def by_group(model: EdgeModel) -> np.ndarray:
    """All query vertices ``node * heads + head``, in order of graph, head, node."""
    vertices = np.arange(model.num_queries * model.heads)
    if model.num_graphs == 1:
        return vertices.reshape(-1, model.heads).T.ravel()
    return np.argsort(group_of(model, vertices), kind="stable")


def group_of(model: EdgeModel, vertices: np.ndarray) -> np.ndarray:
    """``graph * heads + head`` of query vertices."""
    graph = graph_of_nodes(model.query_ptr, model.num_queries).numpy()
    return graph[vertices // model.heads] * model.heads + vertices % model.heads


def cut(model: EdgeModel, vertices: np.ndarray, height: int) -> np.ndarray:
    """Cuts query vertices, in order of graph, head, node, into pieces of at most ``height`` of one
    graph and head: [pieces, 4] of graph, head, first and last place in ``vertices``."""
    group = group_of(model, vertices)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(starts, append=vertices.size)
    pieces = -(-sizes // height)
    which = np.repeat(np.arange(starts.size), pieces)
    number = np.arange(which.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = starts[which] + number * height
    last = np.minimum(first + height, (starts + sizes)[which])
    graph, head = np.divmod(group[starts][which], model.heads)
    return np.stack([graph, head, first, last], axis=1)


def ranges(total: int, least: int) -> list[tuple[int, int]]:
    """Equal ranges, several a thread, of at least ``least`` items where there are so many."""
    threads = torch.get_num_threads()
    chunks = min(threads * CHUNKS_PER_THREAD, max(total // max(least, 1), 1))
    chunks = 1 if threads == 1 else chunks
    edges = [total * i // chunks for i in range(chunks + 1)]
    return [(a, b) for a, b in pairwise(edges) if a < b]
