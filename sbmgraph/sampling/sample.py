"""The public :func:`sample`: checks, the choice of algorithm and device code, the seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import psutil
import torch
from torch import Tensor

from sbmgraph.checks import check_choice, check_range
from sbmgraph.graph import SampledGraph, num_pairs
from sbmgraph.ops.fused import is_available
from sbmgraph.sampling import reference
from sbmgraph.sbm import SBM

LAWS = ("bernoulli", "poisson")
ALGORITHMS = ("auto", "fastrg", "dense")

Sampler = Callable[[SBM, str, float, int], tuple[Tensor, Tensor]]

KERNELS = {"cpu": "sbmgraph.sampling.cpu", "cuda": "sbmgraph.sampling.gpu"}
"""The module that holds the compiled samplers of each device type."""

COSTS = (33.6, 5.41, 1.86, 0.0178)
"""Nanoseconds on one core for an edge and a block of a node (fastRG), for a pair and a block of a
pair (dense): ``python benchmarks/fit_cost.py`` fits them anew."""

BYTES_PER_EDGE = 32
"""Peak memory of an edge over sampling, attention and backward: its key in CSR, the transpose (row
and permutation), two gradient scalars, and slack for the merge."""


@torch.compiler.disable
def sample(
    sbm: SBM,
    law: str = "bernoulli",
    algorithm: str = "auto",
    exploration: float = 0.0,
    generator: torch.Generator | None = None,
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

    Returns:
        SampledGraph: The sampled edges.

    Raises:
        ValueError: If an argument is unknown or out of range, the probabilities are not finite, or
            memory cannot hold the expected edges.
    """
    if not isinstance(sbm, SBM):
        raise ValueError(f"'sbm' must be an SBM, got {type(sbm).__name__}")
    check_choice("law", law, LAWS)
    check_choice("algorithm", algorithm, ALGORITHMS)
    check_range("exploration", exploration, 0.0, 1.0)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"'generator' must be a torch.Generator, got {type(generator).__name__}")
    _ = sbm.rate  # kept with its gradient, for the attention that follows
    with torch.no_grad():
        return _sample(sbm, law, algorithm, exploration, generator)


def _sample(
    sbm: SBM,
    law: str,
    algorithm: str,
    exploration: float,
    generator: torch.Generator | None,
) -> SampledGraph:
    pairs = num_pairs(sbm.query_ptr, sbm.key_ptr).unsqueeze(1)
    edges = sbm.expected_edges(exploration).double()
    # Where probabilities are cut at 1 the expectation is a bound; infinity must not hide behind it.
    bound = torch.where(edges.isfinite(), torch.minimum(edges, pairs), edges)
    expected, possible = torch.stack([bound.sum(), pairs.sum().double() * sbm.heads]).tolist()
    check_expected_edges(expected, possible, sbm.device)
    run = _sampler(sbm, algorithm, expected, possible)
    rowptr, col = run(sbm, law, exploration, draw_seed(generator))
    return SampledGraph(
        rowptr, col, sbm.num_keys, sbm.heads, sbm.query_batch, sbm.key_batch, sbm.num_graphs
    )


def draw_seed(generator: torch.Generator | None) -> int:
    """A 63-bit seed from ``generator``, or from torch's global generator without one."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on ``device``."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused
    return psutil.virtual_memory().available


def check_expected_edges(expected: float, possible: float, device: torch.device) -> None:
    """Raises a :class:`ValueError` if the expected number of edges is not finite or needs more
    memory than there is."""
    if not math.isfinite(expected):
        raise ValueError(
            "'sbm' must have finite edge probabilities, got NaN or infinite ones: look "
            "for non-finite inputs or weights"
        )
    needed, available = expected * BYTES_PER_EDGE, available_memory(device)
    if needed > available:
        raise ValueError(
            f"'sbm' must expect no more edges than memory holds, got {expected:.3g} expected edges "
            f"({expected / max(possible, 1.0):.1%} density) that need about {needed / 2**30:.1f} "
            f"GiB of {available / 2**30:.1f} GiB available on {device}: lower 'init_density' or "
            f"set 'max_density', use smaller batches or fewer heads, or raise the density penalty"
        )


def _sampler(sbm: SBM, algorithm: str, expected: float, possible: float) -> Sampler:
    """The code that runs ``algorithm`` where ``sbm`` lies."""
    if algorithm == "auto":
        algorithm = cheaper_algorithm(sbm, expected, possible)
    module: ModuleType = reference
    if is_available(sbm.device.type):
        module = import_module(KERNELS[sbm.device.type])
    return getattr(module, f"sample_{algorithm}")


def cheaper_algorithm(sbm: SBM, expected: float, possible: float) -> str:
    """fastRG where its modelled cost is the lower one: it pays for edges and for blocks of nodes,
    the dense algorithm for pairs and for pairs times blocks."""
    edge, block, pair, pair_block = COSTS
    nodes = (sbm.num_queries + sbm.num_keys) * sbm.heads
    fastrg = edge * expected + block * nodes * sbm.num_clusters
    dense = pair * possible + pair_block * possible * sbm.num_clusters
    return "fastrg" if fastrg < dense else "dense"
