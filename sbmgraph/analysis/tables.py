"""Tables of heads and blocks, one row a head of a graph of a sample; and their summary.

Every table takes the same: what :func:`sbmgraph.record` recorded, one or several layer samples, or
an :class:`~sbmgraph.SBM` by itself. Rows are told apart by ``layer`` (empty for an SBM), ``sample``
(0, 1, … over the layer's calls), ``head`` and ``graph`` (its index in the batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.blocks import membership_entropy
from sbmgraph.analysis.mass import block_mass, block_rows, dead_blocks, effective_blocks
from sbmgraph.analysis.runs import Runs, numbered
from sbmgraph.analysis.select import check_index, to_numpy
from sbmgraph.analysis.strength import block_strength, membership_margin
from sbmgraph.checks import check_choice, check_range, describe
from sbmgraph.sbm import SBM

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("layer", "sample", "head", "graph")


def density_table(runs: Runs) -> pd.DataFrame:
    """Density by layer, sample, head and graph, expected beside sampled.

    Columns: ``layer``, ``sample``, ``head``, ``graph``; ``num_queries`` and ``num_keys`` of the
    graph; ``expected``, the expected density with the exploration that the graph was drawn with,
    about which ``sampled`` fluctuates under the Bernoulli law (under the Poisson law merged
    duplicates bring it below); ``expected_without_exploration``, which the density penalty weighs;
    ``sampled``, NaN for an SBM by itself; ``exploration``; ``block_strength`` (see
    :func:`block_strength`).

    Args:
        runs (Recorder, LayerSample, SBM or iterable of LayerSample): What to list.

    Raises:
        ValueError: If ``runs`` holds something else, or nothing.
    """
    import pandas as pd

    parts = []
    for run in numbered(runs):
        graph_index, head = (i.ravel() for i in np.indices((run.sbm.num_graphs, run.sbm.heads)))
        alone = to_numpy(run.sbm.expected_density()).astype(np.float64)
        sampled = np.nan if run.graph is None else to_numpy(run.graph.density()).ravel()
        parts.append(
            pd.DataFrame(
                {
                    "layer": run.name,
                    "sample": run.number,
                    "head": head,
                    "graph": graph_index,
                    "num_queries": to_numpy(run.sbm.query_ptr.diff())[graph_index],
                    "num_keys": to_numpy(run.sbm.key_ptr.diff())[graph_index],
                    "expected": to_numpy(run.sbm.expected_density(run.exploration)).ravel(),
                    "expected_without_exploration": alone.ravel(),
                    "sampled": sampled,
                    "exploration": run.exploration,
                    "block_strength": block_strength(run.sbm).ravel(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def membership_table(runs: Runs, threshold: float = 0.01) -> pd.DataFrame:
    """How a head uses its blocks, by layer, sample, head and graph.

    Columns: ``layer``, ``sample``, ``head``, ``graph``, ``num_clusters``, ``effective_blocks`` (see
    :func:`effective_blocks`), ``dead_blocks`` (their number), ``query_entropy`` and ``key_entropy``
    (mean over the tokens, nats), ``block_strength``, ``query_margin`` and ``key_margin`` (mean over
    the tokens of :func:`membership_margin`).

    Args:
        runs (Recorder, LayerSample, SBM or iterable of LayerSample): What to list.
        threshold (float, optional): See :func:`dead_blocks`. (default: :obj:`0.01`)

    Raises:
        ValueError: If ``runs`` holds something else, or nothing, or ``threshold`` is out of range.
    """
    import pandas as pd

    check_range("threshold", threshold, 0.0, 1.0)
    rows = []
    for run in numbered(runs):
        strength = block_strength(run.sbm)
        for graph_index, head in np.ndindex(run.sbm.num_graphs, run.sbm.heads):
            entropy = membership_entropy(run.sbm, head, graph_index)
            margin = membership_margin(run.sbm, head, graph_index)
            rows.append(
                {
                    "layer": run.name,
                    "sample": run.number,
                    "head": head,
                    "graph": graph_index,
                    "num_clusters": run.sbm.num_clusters,
                    "effective_blocks": effective_blocks(run.sbm, head, graph_index),
                    "dead_blocks": dead_blocks(run.sbm, head, graph_index, threshold).size,
                    "query_entropy": _mean(entropy[0]),
                    "key_entropy": _mean(entropy[1]),
                    "block_strength": strength[graph_index, head],
                    "query_margin": _mean(margin[0]),
                    "key_margin": _mean(margin[1]),
                }
            )
    return pd.DataFrame(rows)


@accepts_old_names
def block_table(
    runs: Runs,
    head: int | None = 0,
    graph_index: int | None = 0,
    threshold: float = 0.01,
) -> pd.DataFrame:
    """One row per block.

    Columns: ``layer``, ``sample``, ``head``, ``graph``; ``block``, ``num_queries``, ``num_keys``
    (tokens whose strongest block it is), ``query_membership``, ``key_membership`` (sums over the
    tokens), ``share`` of the expected edges, whether it is ``dead`` (see :func:`dead_blocks`), and
    the head's ``block_strength``: next to 0, none of the other columns says who attends to whom.

    Args:
        runs (Recorder, LayerSample, SBM or iterable of LayerSample): What to list.
        head (int, optional): The head; :obj:`None` is all. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch; :obj:`None` is all.
            (default: :obj:`0`)
        threshold (float, optional): See :func:`dead_blocks`. (default: :obj:`0.01`)

    Raises:
        ValueError: If ``runs`` holds something else, or nothing, the head or the graph does not
            exist or ``threshold`` is out of range.
    """
    import pandas as pd

    check_range("threshold", threshold, 0.0, 1.0)
    rows = []
    for run in numbered(runs):
        strength = block_strength(run.sbm)
        for g in _chosen("graph_index", graph_index, run.sbm.num_graphs):
            for h in _chosen("head", head, run.sbm.heads):
                keys = {"layer": run.name, "sample": run.number, "head": h, "graph": g}
                for row in _rows(run.sbm, h, g):
                    dead = row["share"] < threshold / run.sbm.num_clusters
                    rows.append(keys | row | {"dead": dead, "block_strength": strength[g, h]})
    return pd.DataFrame(rows)


def summarize(table: pd.DataFrame | Runs, over: str | Sequence[str] = "graph") -> pd.DataFrame:
    """Mean, standard deviation (unbiased), minimum and maximum of every number in ``table`` over
    samples, graphs, heads or layers.

    Args:
        table (DataFrame, Recorder, LayerSample, SBM or iterable of LayerSample):
            :func:`density_table`, :func:`membership_table` or a like one; of anything else that a
            table takes, its density table.
        over (str or sequence of str, optional): The keys to summarise over, among those of
            ``"layer"``, ``"sample"``, ``"head"``, ``"graph"`` that ``table`` has.
            (default: :obj:`"graph"`)

    Returns:
        One row for each value of the other keys; columns have two levels, the number and
        ``count``, ``mean``, ``std``, ``min`` or ``max``.

    Raises:
        ValueError: If ``table`` is no table and cannot become one, or ``over`` is no key of it.
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        table = density_table(table)
    try:
        over = [over] if isinstance(over, str) else list(over)
    except TypeError:
        raise ValueError(f"'over' must be keys of the table, got {describe(over)}") from None
    keys = [key for key in KEYS if key in table.columns]
    if not keys:
        raise ValueError(
            f"'table' must have a column among {', '.join(map(repr, KEYS))}, "
            f"got {list(table.columns)}"
        )
    for key in over:
        check_choice("over", key, keys)
    by = [key for key in keys if key not in over]
    numbers = [c for c in table.columns if c not in keys and table[c].dtype.kind in "iuf"]
    groups = table.groupby(by or np.zeros(len(table), dtype=np.int64), sort=False)
    return groups[numbers].agg(["count", "mean", "std", "min", "max"])


def check_table(table: object, columns: Sequence[str], name: str = "table") -> None:
    """``table`` must be a DataFrame with ``columns``."""
    found = getattr(table, "columns", None)
    if found is None:
        raise ValueError(
            f"'{name}' must be a DataFrame with columns {', '.join(columns)}, got {describe(table)}"
        )
    missing = [column for column in columns if column not in found]
    if missing:
        raise ValueError(f"'{name}' must be a DataFrame with columns {missing}, got {list(found)}")


def _rows(sbm: SBM, head: int, graph_index: int) -> list[dict]:
    mass = block_mass(sbm, head=head, graph_index=graph_index)
    return block_rows(sbm, head, graph_index, mass)


def _chosen(name: str, value: int | None, size: int) -> list[int]:
    if value is None:
        return list(range(size))
    check_index(name, value, size)
    return [int(value)]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
