"""Who attends to whom by known classes of tokens, and which blocks say so.

Sums of memberships over the tokens of a class are all that is needed, no pair is formed: the edges
expected from class a to class b are :math:`\\mathbf{y}_a \\mathbf{B} \\mathbf{z}_b^{\\top}` with
:math:`\\mathbf{y}_a = \\sum_{i \\in a} \\mathbf{y}_i`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils import scatter

from sbmgraph.analysis.runs import Runs, numbered
from sbmgraph.analysis.select import to_list, to_numpy
from sbmgraph.analysis.strength import RANK_ONE, block_strength

if TYPE_CHECKING:
    import pandas as pd

    from sbmgraph.sbm import SBM

RARE = 0.02
"""Class pairs and blocks with a smaller share are not named in a sentence."""


class _Sums(NamedTuple):
    """Memberships by class, of one layer's model; A classes, K blocks."""

    query: np.ndarray  # [G, A, H, K]
    key: np.ndarray  # [G, A, H, K]
    affinity: np.ndarray  # [H, K, K]
    pairs: np.ndarray  # [A, A]

    @property
    def edges(self) -> np.ndarray:
        """Expected edges of every head from class to class, [H, A, A]."""
        return np.einsum("gahk,hkl,gbhl->hab", self.query, self.affinity, self.key, optimize=True)

    def block_shares(self, head: int) -> tuple[np.ndarray, np.ndarray]:
        """What pairs of blocks have of a head's expected edges and of its pairs, [K, K] each."""
        query, key = self.query.sum(1)[:, head], self.key.sum(1)[:, head]
        pairs = np.einsum("gk,gl->kl", query, key)
        edges = pairs * self.affinity[head]
        return edges / edges.sum(), pairs / pairs.sum()


def class_mixing(runs: Runs, classes: Sequence[Any]) -> pd.DataFrame:
    """How densely tokens of one class attend to tokens of another, by layer and head.

    Columns: ``layer``, ``sample``, ``head``; ``query_class`` and ``key_class``; ``pairs``, of a
    query and a key of the same graph; ``edges``, the expected number of them that are sampled;
    ``density``, edges over pairs (NaN without pairs); ``lift``, that over the head's density.

    Args:
        runs (Recorder, LayerSample, SBM or iterable of LayerSample): Self-attention over one batch.
        classes (sequence): The class of each of the batch's tokens, of any type that compares.

    Raises:
        ValueError: If ``runs`` holds something else, or nothing; if queries are not keys, or
            ``classes`` are not one for each.

    Examples:
        >>> import torch
        >>> from sbmgraph import SBM
        >>> member = torch.eye(2)[[0, 0, 1, 1]].unsqueeze(1)
        >>> table = class_mixing(SBM(member, member, 0.5 * torch.eye(2).unsqueeze(0)), "aabb")
        >>> table[["query_class", "key_class", "pairs", "density"]].values.tolist()
        [['a', 'a', 4, 0.5], ['a', 'b', 4, 0.0], ['b', 'a', 4, 0.0], ['b', 'b', 4, 0.5]]
    """
    import pandas as pd

    rows = []
    for run in numbered(runs):
        names, sums = _sums(run.sbm, classes)
        for head, edges in enumerate(sums.edges):
            density = edges.sum() / max(sums.pairs.sum(), 1)
            for (a, b), pairs in np.ndenumerate(sums.pairs):
                share = edges[a, b] / pairs if pairs else np.nan
                rows.append(
                    {
                        "layer": run.name, "sample": run.number, "head": head,
                        "query_class": names[a], "key_class": names[b], "pairs": int(pairs),
                        "edges": edges[a, b], "density": share,
                        "lift": share / density if density > 0 else np.nan,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def describe_mixing(runs: Runs, classes: Sequence[Any]) -> str:
    """What the clearest head attends to, in one plain sentence for a person.

    The clearest is the head whose expected edges tell the classes apart most (the Kullback-Leibler
    divergence of edges from pairs, both by class of query and key). Where it has blocks (see
    :data:`~sbmgraph.analysis.strength.RANK_ONE`), the sentence names the pair of blocks with most
    edges beyond their share of pairs, and the commonest class of each side; else the classes of
    keys that all queries attend to most and least.

    Args:
        runs (Recorder, LayerSample, SBM or iterable of LayerSample): Self-attention over one batch.
        classes (sequence): The class of each of the batch's tokens.

    Raises:
        ValueError: As for :func:`class_mixing`.
    """
    best: tuple[float, Any, int, list[Any], _Sums] | None = None
    for run in numbered(runs):
        names, sums = _sums(run.sbm, classes)
        for head, edges in enumerate(sums.edges):
            clear = _divergence(edges, sums.pairs)
            if best is None or clear > best[0]:
                best = clear, run, head, names, sums
    assert best is not None  # numbered() refuses nothing at all
    _, run, head, names, sums = best
    edges, pairs = sums.edges[head], sums.pairs
    start = f"{run.name}, head {head} (density {edges.sum() / max(pairs.sum(), 1):.0%})"
    strength = block_strength(run.sbm)[:, head].mean()
    if strength < RANK_ONE:
        share = np.divide(edges.sum(0), pairs.sum(0), out=np.zeros(len(names)), where=pairs.any(0))
        common = [b for b in range(len(names)) if pairs[:, b].sum() >= RARE * pairs.sum()]
        if not common:
            return f"{start}: there are no tokens."
        most, least = max(common, key=lambda b: share[b]), min(common, key=lambda b: share[b])
        return (
            f"{start}: every query attends to {share[most]:.0%} of the keys that are "
            f"{names[most]} and to {share[least]:.0%} of those that are {names[least]}; no block "
            f"structure beyond that (σ₂/σ₁ = {strength:.2g})."
        )
    by_block, pairs_by_block = sums.block_shares(head)
    from_block, to_block = divmod(int((by_block - pairs_by_block).argmax()), len(by_block))
    ends = []
    for side, block in ((sums.query, from_block), (sums.key, to_block)):
        held = side.sum(0)[:, head, block]  # [A]
        ends.append((names[held.argmax()], held.max() / held.sum()))
    (query, query_share), (key, key_share) = ends
    return (
        f"{start}: block {from_block} ({query_share:.0%} of its queries are {query}) attends to "
        f"block {to_block} ({key_share:.0%} of its keys are {key}): "
        f"{by_block[from_block, to_block]:.0%} of the edges, "
        f"{pairs_by_block[from_block, to_block]:.0%} of the pairs (σ₂/σ₁ = {strength:.2g})."
    )


def _sums(sbm: SBM, classes: Sequence[Any]) -> tuple[list[Any], _Sums]:
    if not torch.equal(sbm.query_ptr, sbm.key_ptr):
        raise ValueError(
            "'runs' must be self-attention, with one vertex for a token's query and key, got "
            f"{sbm.num_queries} queries and {sbm.num_keys} keys"
        )
    count = sbm.num_queries
    labels = to_list(f"'classes' must hold one class for each token, {count}", classes, count)
    number = {label: i for i, label in enumerate(sorted(set(labels)))}
    own = torch.tensor([number[label] for label in labels], dtype=torch.int64)
    sizes = sbm.query_ptr.diff().cpu()
    graph = torch.arange(sizes.numel()).repeat_interleave(sizes)
    cell, shape = graph * len(number) + own, (sizes.numel(), len(number))

    def by_class(values: Tensor) -> np.ndarray:
        total = scatter(values.detach().double().cpu(), cell, dim_size=shape[0] * shape[1])
        return to_numpy(total.view(*shape, *values.shape[1:]))

    tokens = by_class(torch.ones(count))
    affinity = to_numpy(sbm.affinity.double())
    return list(number), _Sums(
        by_class(sbm.query_membership), by_class(sbm.key_membership), affinity, tokens.T @ tokens
    )


def _divergence(edges: np.ndarray, pairs: np.ndarray) -> float:
    """KL divergence of edges from pairs, both as distributions; 0 where there are none."""
    from scipy.special import rel_entr

    if edges.sum() <= 0:
        return 0.0
    return float(rel_entr(edges / edges.sum(), pairs / pairs.sum()).sum())
