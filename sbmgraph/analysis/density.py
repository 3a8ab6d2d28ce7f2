"""Density: what a head expects, what it sampled, and how both vary over samples and inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from sbmgraph.checks import check_choice, check_positive_int, check_range, describe
from sbmgraph.analysis.blocks import dead_blocks, effective_blocks, membership_entropy
from sbmgraph.analysis.select import check_sbm, factors, to_numpy
from sbmgraph.analysis.statistics import graph_statistics
from sbmgraph.graph import SampledGraph
from sbmgraph.ops.sample import sample
from sbmgraph.sbm import SBM

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("layer", "sample", "head", "graph")


class LayerSample(Protocol):
    """What the analysis reads of a recorded layer call; see :func:`sbmgraph.record`."""

    @property
    def name(self) -> str:
        """Qualified name of the layer."""

    @property
    def sbm(self) -> SBM:
        """Its block models."""

    @property
    def graph(self) -> SampledGraph:
        """The graphs it sampled."""

    @property
    def exploration(self) -> float:
        """The probability added to every edge."""


def density_table(runs: Iterable[LayerSample]) -> pd.DataFrame:
    """Density by layer, sample, head and graph, expected beside sampled.

    Columns: ``layer``; ``sample`` (0, 1, … over the layer's calls); ``head``; ``graph``;
    ``num_queries`` and ``num_keys`` of the graph; ``learned``, the expected density without
    exploration; ``expected``, with it, which ``sampled`` fluctuates about under the Bernoulli law
    (under the Poisson law merged duplicates bring it below); ``sampled``; ``exploration``.

    Args:
        runs (iterable of LayerSample): What :func:`sbmgraph.record` recorded.

    Raises:
        ValueError: If ``runs`` holds something else, or nothing.
    """
    import pandas as pd

    seen: Counter[str] = Counter()
    parts = []
    for run in check_runs(runs):
        shape = (run.sbm.num_graphs, run.sbm.heads)
        graph, head = (index.ravel() for index in np.indices(shape))
        learned = to_numpy(run.sbm.expected_density()).astype(np.float64)
        parts.append(
            pd.DataFrame(
                {
                    "layer": run.name,
                    "sample": seen[run.name],
                    "head": head,
                    "graph": graph,
                    "num_queries": to_numpy(run.sbm.query_ptr.diff())[graph],
                    "num_keys": to_numpy(run.sbm.key_ptr.diff())[graph],
                    "learned": learned.ravel(),
                    "expected": to_numpy(run.sbm.expected_density(run.exploration)).ravel(),
                    "sampled": to_numpy(run.graph.density()).ravel(),
                    "exploration": float(run.exploration),
                }
            )
        )
        seen[run.name] += 1
    return pd.concat(parts, ignore_index=True)


def membership_table(runs: Iterable[LayerSample], threshold: float = 0.01) -> pd.DataFrame:
    """How a head uses its blocks, by layer, sample, head and graph.

    Columns: ``layer``, ``sample``, ``head``, ``graph``, ``num_clusters``, ``effective_blocks`` (see
    :func:`effective_blocks`), ``dead_blocks`` (their number), ``query_entropy`` and ``key_entropy``
    (mean over the tokens, nats).

    Args:
        runs (iterable of LayerSample): What :func:`sbmgraph.record` recorded.
        threshold (float, optional): See :func:`dead_blocks`. (default: :obj:`0.01`)

    Raises:
        ValueError: If ``runs`` holds something else, or nothing, or ``threshold`` is out of range.
    """
    import pandas as pd

    seen: Counter[str] = Counter()
    rows = []
    for run in check_runs(runs):
        for graph, head in np.ndindex(run.sbm.num_graphs, run.sbm.heads):
            entropy = [_mean(side) for side in membership_entropy(run.sbm, head, graph)]
            rows.append(
                {
                    "layer": run.name,
                    "sample": seen[run.name],
                    "head": head,
                    "graph": graph,
                    "num_clusters": run.sbm.num_clusters,
                    "effective_blocks": effective_blocks(run.sbm, head, graph),
                    "dead_blocks": dead_blocks(run.sbm, head, graph, threshold).size,
                    "query_entropy": entropy[0],
                    "key_entropy": entropy[1],
                }
            )
        seen[run.name] += 1
    return pd.DataFrame(rows)


def summarize(table: pd.DataFrame, over: str | Sequence[str] = "graph") -> pd.DataFrame:
    """Mean, standard deviation (unbiased), minimum and maximum of every number in ``table`` over
    samples, graphs, heads or layers.

    Args:
        table (DataFrame): :func:`density_table`, :func:`membership_table` or a like one.
        over (str or sequence of str, optional): The keys to summarise over, among those of
            ``"layer"``, ``"sample"``, ``"head"``, ``"graph"`` that ``table`` has.
            (default: :obj:`"graph"`)

    Returns:
        One row for each value of the other keys; columns have two levels, the number and
        ``count``, ``mean``, ``std``, ``min`` or ``max``.

    Raises:
        ValueError: If ``over`` is not a key of ``table``.
    """
    over = [over] if isinstance(over, str) else list(over)
    keys = [key for key in KEYS if key in table.columns]
    for key in over:
        check_choice("over", key, keys)
    by = [key for key in keys if key not in over]
    numbers = [c for c in table.columns if c not in keys and table[c].dtype.kind in "iuf"]
    groups = table.groupby(by or np.zeros(len(table), dtype=np.int64), sort=False)
    return groups[numbers].agg(["count", "mean", "std", "min", "max"])


def variance_components(table: pd.DataFrame, value: str = "sampled") -> pd.DataFrame:
    """Splits the variance of a number by layer and head into the part over samples of the same
    input and the part over inputs.

    Needs every graph sampled equally often. With S samples of G inputs, ``over_samples`` is the
    mean over inputs of the (unbiased) variance within an input, ``over_inputs`` the variance of the
    inputs' means less what sampling alone brings to them, ``over_samples / S``, and not below 0:
    the estimates of a one-way analysis of variance. NaN where S or G is 1.

    Args:
        table (DataFrame): :func:`density_table` or a like one.
        value (str, optional): The column. (default: :obj:`"sampled"`)

    Returns:
        Indexed by layer and head; columns ``mean``, ``over_samples``, ``over_inputs``.

    Raises:
        ValueError: If a column is missing or graphs were sampled unequally often.
    """
    import pandas as pd

    check_choice("value", value, list(table.columns))
    by_input = table.groupby(["layer", "head", "graph"], sort=False)[value]
    count = by_input.count()
    if count.nunique() > 1:
        raise ValueError(
            "'table' must hold as many samples of every graph, got between "
            f"{count.min()} and {count.max()}"
        )
    num_samples = int(count.iloc[0])
    keys = ["layer", "head"]
    within = by_input.var().groupby(keys, sort=False).mean()
    means = by_input.mean().groupby(keys, sort=False)
    between = (means.var() - within / num_samples).clip(lower=0)
    return pd.DataFrame({"mean": means.mean(), "over_samples": within, "over_inputs": between})


def sampling_variance(
    sbm: SBM,
    num_samples: int = 16,
    law: str = "bernoulli",
    exploration: float = 0.0,
    generator: torch.Generator | None = None,
) -> pd.DataFrame:
    """How much the sampled graphs vary: draws ``num_samples`` from the same block models.

    Args:
        sbm (SBM): The block models.
        num_samples (int, optional): The number of draws. (default: :obj:`16`)
        law (str, optional): See :func:`sbmgraph.sample`. (default: :obj:`"bernoulli"`)
        exploration (float, optional): See :func:`sbmgraph.sample`. (default: :obj:`0.0`)
        generator (torch.Generator, optional): See :func:`sbmgraph.sample`.

    Returns:
        :func:`graph_statistics` of every draw, under a further key ``sample``;
        ``summarize(…, over="sample")`` gives means and standard deviations.

    Raises:
        ValueError: If an argument is out of range.
    """
    import pandas as pd

    check_sbm(sbm)
    check_positive_int("num_samples", num_samples)
    parts = []
    for number in range(num_samples):
        sampled = sample(sbm, law, exploration=exploration, generator=generator)
        part = graph_statistics(sampled, sbm)
        part.insert(0, "sample", number)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def density_std(sbm: SBM, exploration: float = 0.0) -> np.ndarray:
    r"""The standard deviation of the sampled density under the Bernoulli law, in closed form.

    With :math:`q_{ij} = p_{ij} + \delta \le 1` the number of edges has variance :math:`\sum_{ij}
    q_{ij} (1 - q_{ij})`, and :math:`\sum_{ij} p_{ij}^2 = \langle \mathbf{W}^{\top} \mathbf{W},
    \mathbf{Z}^{\top} \mathbf{Z} \rangle` with :math:`\mathbf{W} = \mathbf{Y} \mathbf{B}`:
    :math:`\mathcal{O}((n + m) K^2)`.

    Returns:
        float64 array of shape :obj:`[num_graphs, H]`; 0 for a graph without possible edges.

    Raises:
        ValueError: If ``exploration`` is out of range.
    """
    check_sbm(sbm)
    check_range("exploration", exploration, 0.0, 1.0)
    out = np.zeros((sbm.num_graphs, sbm.heads))
    for graph, head in np.ndindex(*out.shape):
        query, key, affinity = factors(sbm, head, graph)
        pairs = len(query) * len(key)
        rate = query @ affinity
        first = float(rate.sum(axis=0) @ key.sum(axis=0))
        second = float(np.sum((rate.T @ rate) * (key.T @ key)))
        mean = first + exploration * pairs
        square = second + 2 * exploration * first + exploration**2 * pairs
        out[graph, head] = np.sqrt(max(mean - square, 0.0)) / max(pairs, 1)
    return out


def check_runs(runs: Iterable[LayerSample]) -> list[LayerSample]:
    """``runs`` must hold recorded layer calls, at least one."""
    runs = list(runs)
    for run in runs:
        sbm, graph = getattr(run, "sbm", None), getattr(run, "graph", None)
        if not isinstance(sbm, SBM) or not isinstance(graph, SampledGraph):
            raise ValueError(f"'runs' must hold recorded layer calls, got {describe(run)}")
    if not runs:
        raise ValueError("'runs' must hold at least one recorded layer call, got none")
    return runs


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
