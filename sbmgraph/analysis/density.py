"""How density varies: over samples of the same input, and over inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sbmgraph.analysis.select import check_sbm, factors
from sbmgraph.analysis.statistics import graph_statistics
from sbmgraph.analysis.tables import check_table
from sbmgraph.checks import check_choice, check_positive_int, check_range
from sbmgraph.ops.sample import sample
from sbmgraph.sbm import SBM

if TYPE_CHECKING:
    import pandas as pd


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

    check_table(table, ("layer", "head", "graph"))
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
        graph = sample(sbm, law, exploration=exploration, generator=generator)
        part = graph_statistics(graph, sbm)
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
    for graph_index, head in np.ndindex(*out.shape):
        query, key, affinity = factors(sbm, head, graph_index)
        pairs = len(query) * len(key)
        rate = query @ affinity
        first = float(rate.sum(axis=0) @ key.sum(axis=0))
        second = float(np.sum((rate.T @ rate) * (key.T @ key)))
        mean = first + exploration * pairs
        square = second + 2 * exploration * first + exploration**2 * pairs
        out[graph_index, head] = np.sqrt(max(mean - square, 0.0)) / max(pairs, 1)
    return out
