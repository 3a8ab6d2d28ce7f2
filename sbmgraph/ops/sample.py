"""The public :func:`sample`: checks, the choice of algorithm and device code, the seed."""

from __future__ import annotations

import numpy as np
import torch

from sbmgraph.checks import check_choice, check_positive_int, check_range, describe
from sbmgraph.graph import LAYOUTS, SampledGraph
from sbmgraph.kernels import dense, fastrg
from sbmgraph.kernels.csr import CSR
from sbmgraph.kernels.model import EdgeModel
from sbmgraph.kernels.random import RESOLUTION
from sbmgraph.kernels.tile import operator as tile
from sbmgraph.ops import memory
from sbmgraph.ops.cost import Size, cheapest
from sbmgraph.sbm import SBM

LAWS = ("bernoulli", "poisson")
ALGORITHMS = ("auto", "fastrg", "dense")

LOST = 1e-3
"""The share of the expected edges that the dense algorithm may lose or gain because probabilities
are compared with random numbers of 31 bits."""


@torch.compiler.disable
def sample(
    sbm: SBM,
    law: str = "bernoulli",
    algorithm: str = "auto",
    exploration: float = 0.0,
    generator: torch.Generator | None = None,
    layout: str = "auto",
    channels: int = 32,
    dtype: torch.dtype | None = None,
) -> SampledGraph:
    r"""Samples a graph for every head and every graph of a batch.

    Args:
        sbm (SBM): The edge probabilities :math:`p_{ij}`.
        law (str, optional): With :obj:`"bernoulli"` edges are independent and present with
            probability :math:`\min(1, p_{ij} + \delta)`; with :obj:`"poisson"` (Algorithm 1 of the
            paper: fastRG with duplicates merged) with :math:`1 - e^{-\min(1, p_{ij} + \delta)}`.
            (default: :obj:`"bernoulli"`)
        algorithm (str, optional): :obj:`"fastrg"` (Rohe et al., JMLR 2018) works in
            :math:`\mathcal{O}((n + m) K + \text{edges})`, :obj:`"dense"` in :math:`\mathcal{O}(n m
            K)` work but only a tile of memory; :obj:`"auto"` picks by the expected edges. The law
            is the same. (default: :obj:`"auto"`)
        exploration (float, optional): The probability :math:`\delta` added to every edge
            (Section 3.3). (default: :obj:`0.0`)
        generator (torch.Generator, optional): Source of the seed; with one, torch's global
            generator is left untouched. The same seed gives the same graph on any number of
            threads. (default: :obj:`None`)
        layout (str, optional): How the graph holds its edges: :obj:`"csr"` lists them,
            :obj:`"bits"` is one bit a pair, :obj:`"auto"` the one that makes a layer's step
            cheaper (:mod:`sbmgraph.ops.cost`) and fits into memory. (default: :obj:`"auto"`)
        channels (int, optional): Channels of a head of the attention that follows, for that model
            of cost. (default: :obj:`32`)
        dtype (torch.dtype, optional): What that attention is computed in, likewise. (default: the
            model's)

    Returns:
        SampledGraph: The sampled edges.

    Examples:
        >>> import torch
        >>> from sbmgraph import SBM, sample
        >>> member = torch.ones(1000, 1, 1)
        >>> sbm = SBM(member, member, torch.tensor([[[0.01]]]))
        >>> graph = sample(sbm, generator=torch.Generator().manual_seed(0))
        >>> bool(abs(graph.num_edges - 10_000) < 5 * (10_000 * 0.99) ** 0.5)
        True
        >>> again = sample(sbm, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(graph.edge_index, again.edge_index)
        True

    Raises:
        ValueError: If an argument is unknown or out of range, the probabilities are not finite,
            too small for the dense algorithm's random numbers, or memory cannot hold the expected
            edges.
    """
    if not isinstance(sbm, SBM):
        raise ValueError(f"'sbm' must be an SBM, got {describe(sbm)}")
    check_choice("law", law, LAWS)
    check_choice("algorithm", algorithm, ALGORITHMS)
    check_range("exploration", exploration, 0.0, 1.0)
    check_choice("layout", layout, ("auto", *LAYOUTS))
    check_positive_int("channels", channels)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"'dtype' must be a torch.dtype, got {dtype!r}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"'generator' must be a torch.Generator, got {describe(generator)}")
    with torch.no_grad():
        size = size_of(sbm, exploration, channels)
        algorithm, layout = choose(sbm, size, algorithm, layout, dtype or sbm.affinity.dtype)
        memory.check_memory(layout, size.edges, size.pairs, sbm.device)
        return _draw(sbm, law, algorithm, layout, exploration, draw_seed(generator))


def size_of(sbm: SBM, exploration: float, channels: int) -> Size:
    """The work that a model is expected to be. The host waits for the device, here and, for one
    graph, nowhere else."""
    queries, keys = sbm.nodes.sizes
    pairs = (queries * keys)[:, None].astype(np.float64)
    edges = sbm.expected_edges().cpu().numpy().astype(np.float64) + exploration * pairs
    # Where probabilities are cut at 1 the expectation is a bound; infinity must not hide behind it.
    bound = np.where(np.isfinite(edges), np.minimum(edges, pairs), edges)
    nodes = (sbm.num_queries + sbm.num_keys) * sbm.heads
    return Size(
        float(bound.sum()), float(pairs.sum()) * sbm.heads, nodes, sbm.num_clusters, channels
    )


def choose(
    sbm: SBM, size: Size, algorithm: str, layout: str, dtype: torch.dtype
) -> tuple[str, str]:
    """The algorithm and the layout that run."""
    if size.pairs * RESOLUTION > LOST * size.edges > 0:
        if algorithm == "dense":
            raise ValueError(
                "'algorithm' must be 'fastrg' or 'auto' where edges are expected for fewer than "
                f"{RESOLUTION / LOST:.2g} of all pairs (the dense algorithm's random numbers have "
                f"31 bits), got 'dense' for {size.edges:.3g} of {size.pairs:.3g}"
            )
        algorithm = "fastrg"
    tiles = sbm.affinity.dtype == torch.float32 and tile.is_available(sbm.device.type)
    chosen = cheapest(size, sbm.device.type, algorithm, layout, tiles, dtype)
    if layout == "auto":
        other = "csr" if chosen[1] == "bits" else "bits"
        needed, less = (memory.bytes_needed(form, *size[:2]) for form in (chosen[1], other))
        if needed > memory.SMALL and needed > memory.available_memory(sbm.device) >= less:
            return cheapest(size, sbm.device.type, algorithm, other, tiles, dtype)
    return chosen


def _draw(
    sbm: SBM, law: str, algorithm: str, layout: str, exploration: float, seed: int
) -> SampledGraph:
    nodes = sbm.nodes
    model = EdgeModel(
        sbm.rate.detach(),
        sbm.key_membership.detach(),
        nodes.query_ptr,
        nodes.key_ptr,
        nodes.words,
    )
    if algorithm == "dense":
        graph = SampledGraph(nodes, dense.sample(model, law, exploration, seed))
    else:
        rowptr, col = fastrg.sample(model, law, exploration, seed)
        csr = CSR(rowptr, col, nodes.query_ptr, nodes.key_ptr, nodes.heads)
        graph = SampledGraph(nodes, csr)
    if graph.layout == layout:
        return graph
    return SampledGraph(nodes, graph.csr if layout == "csr" else graph.bits)


def draw_seed(generator: torch.Generator | None) -> int:
    """A 63-bit seed from ``generator``, or from torch's global generator without one."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))
