r"""How much block structure there is: is a head's probability matrix more than rank one?

A picture sorted by block shows colours whether or not blocks mean anything. Where the singular
values of :math:`\mathbf{Y} \mathbf{B} \mathbf{Z}^{\top}` beyond the first vanish, the matrix is an
outer product: how active a query is, times how popular a key is. Who attends to whom is then not in
the model, and sorting by block sorts by activity.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sbmgraph.analysis._renamed import accepts_old_names
from sbmgraph.analysis.blocks import ASSIGNMENTS, SIDES, assign_blocks, memberships
from sbmgraph.analysis.runs import Runs, layer_samples
from sbmgraph.analysis.select import as_weights, check_sbm, to_list
from sbmgraph.checks import check_choice
from sbmgraph.sbm import SBM

if TYPE_CHECKING:
    from sbmgraph.record import LayerSample

RANK_ONE = 0.05
"""Below this strength a head's probabilities count as of rank one. Heads that learned activity ×
popularity lie near 0.001, a planted block model at 0.35."""

CLEAR = 0.2
"""From this strength on a head's blocks count as clear; between the two they are weak."""


@torch.no_grad()
def block_strength(sbm: SBM) -> np.ndarray:
    r"""The strength of block structure of every head on every graph: :math:`\sigma_2 / \sigma_1` of
    the probability matrix :math:`\mathbf{Y} \mathbf{B} \mathbf{Z}^{\top}`.

    0 is a matrix of rank one, 1 two directions of equal weight. No n×m matrix is formed: with the
    QR decompositions :math:`\mathbf{Y} = \mathbf{Q}_Y \mathbf{R}_Y` and :math:`\mathbf{Z} =
    \mathbf{Q}_Z \mathbf{R}_Z` the singular values are those of :math:`\mathbf{R}_Y \mathbf{B}
    \mathbf{R}_Z^{\top}`, in float64 and :math:`\mathcal{O}((n + m) K^2 + K^3)`.

    Args:
        sbm (SBM): The block models.

    Returns:
        float64 array of shape :obj:`[num_graphs, H]`; 0 for a graph without pairs or without edges
        in expectation.

    Examples:
        Two blocks that attend to themselves alone, and a head that tells no token from another:

        >>> import torch
        >>> from sbmgraph import SBM
        >>> from sbmgraph.analysis import block_strength, describe_blocks
        >>> member = torch.eye(2)[[0, 0, 1, 1]].unsqueeze(1)
        >>> blocks = SBM(member, member, 0.5 * torch.eye(2).unsqueeze(0))
        >>> block_strength(blocks).round(2).tolist()
        [[1.0]]
        >>> alike = SBM(torch.ones(4, 1, 1), torch.ones(4, 1, 1), torch.full((1, 1, 1), 0.5))
        >>> describe_blocks(alike)[:27]
        'No block structure: rank on'

    Raises:
        ValueError: If ``sbm`` is none.
    """
    check_sbm(sbm)
    out = np.zeros((sbm.num_graphs, sbm.heads))
    query_ptr, key_ptr = sbm.query_ptr.tolist(), sbm.key_ptr.tolist()
    affinity = sbm.affinity.double()
    for graph_index in range(sbm.num_graphs):
        query = _triangle(sbm.query_membership[slice(*query_ptr[graph_index : graph_index + 2])])
        key = _triangle(sbm.key_membership[slice(*key_ptr[graph_index : graph_index + 2])])
        core = query @ affinity @ key.transpose(1, 2)
        if min(core.shape[1:]) < 2:
            continue
        value = torch.linalg.svdvals(core)[:, :2].cpu().numpy()
        np.divide(value[:, 1], value[:, 0], out=out[graph_index], where=value[:, 0] > 0)
    return out


def _triangle(membership: Tensor) -> Tensor:
    """The triangular factor of each head's memberships, [n, H, K] → [H, min(n, K), K]."""
    by_head = membership.transpose(0, 1).double()
    # A head's QR of its few rows is not smaller than they are, and LAPACK refuses none at all.
    if by_head.size(1) <= by_head.size(2):
        return by_head
    return torch.linalg.qr(by_head, mode="r").R


@accepts_old_names
def membership_margin(
    sbm: SBM, head: int = 0, graph_index: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    r"""By how much each query's [n] and each key's [m] strongest block leads over its second:
    :math:`(y_{(1)} - y_{(2)}) / y_{(1)}`.

    0 is a tie, where "the strongest block" is chance; 1 is a token of one block (and any token of a
    model with one block that belongs to it at all). 0 for a token of no block.

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    query, key = memberships(sbm, head, graph_index)
    return _margin(query), _margin(key)


def _margin(membership: np.ndarray) -> np.ndarray:
    first = membership.max(axis=1)
    second = np.zeros_like(first)
    if membership.shape[1] > 1:
        second = np.partition(membership, -2, axis=1)[:, -2]
    return np.divide(first - second, first, out=np.zeros_like(first), where=first > 0)


@accepts_old_names
def block_agreement(
    sbm: SBM,
    classes: Any,
    head: int = 0,
    graph_index: int = 0,
    side: str = "query",
    by: str = "membership",
) -> float:
    """How far the tokens' blocks agree with known classes: the adjusted mutual information, 1 where
    blocks and classes are the same partition, about 0 where they have nothing to do with each other
    (:func:`sklearn.metrics.adjusted_mutual_info_score`).

    Args:
        sbm (SBM): The block models.
        classes (sequence): The known class of each token of the graph, of any type that compares.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)
        side (str, optional): Blocks as :obj:`"query"` or as :obj:`"key"`. (default: :obj:`"query"`)
        by (str, optional): See :func:`assign_blocks`. (default: :obj:`"membership"`)

    Raises:
        ValueError: If the head or the graph does not exist, or an argument does not fit.
        ImportError: If scikit-learn is not installed.
    """
    check_choice("side", side, SIDES)
    check_choice("by", by, ASSIGNMENTS)
    blocks = assign_blocks(sbm, head, graph_index, by)[SIDES.index(side)]
    expected = f"'classes' must hold one class for each {side} of the graph, {len(blocks)}"
    labels = to_list(expected, classes, len(blocks))
    try:
        from sklearn.metrics import adjusted_mutual_info_score
    except ImportError as error:
        raise ImportError(
            "block_agreement needs scikit-learn: pip install 'sbmgraph[viz]'"
        ) from error
    number = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return float(adjusted_mutual_info_score([number[label] for label in labels], blocks))


def strengths(runs: Runs) -> dict[str, np.ndarray]:
    """The block strength of each head of each layer, mean over graphs with pairs and over samples;
    what training logs beside densities.

    Args:
        runs (Recorder, LayerSample, SBM or iterable of LayerSample): What
            :func:`sbmgraph.record` recorded, or a model by itself.

    Returns:
        By the layer's name an array of shape :obj:`[H]`; NaN where no graph has a pair.

    Raises:
        ValueError: If ``runs`` holds something else, or nothing.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for run in layer_samples(runs):
        pairs = (run.sbm.query_ptr.diff() * run.sbm.key_ptr.diff()).cpu().numpy() > 0
        parts.setdefault(run.name, []).append(block_strength(run.sbm)[pairs])
    out = {}
    for name, values in parts.items():
        stacked = np.concatenate(values)
        missing = np.full(stacked.shape[1], np.nan)
        out[name] = stacked.mean(axis=0) if len(stacked) else missing
    return out


def describe_strength(strength: float) -> str:
    """A strength in a few words, for a title: its value and whether there are blocks at all.

    Raises:
        ValueError: If ``strength`` is no number in [0, 1].
    """
    value = float(as_weights("strength", strength))
    if value > 1 + 1e-9:
        raise ValueError(f"'strength' must be a number in [0, 1], got {strength!r}")
    word = (
        "no block structure" if value < RANK_ONE else "weak blocks" if value < CLEAR else "blocks"
    )
    return f"{word}, strength {value:.2g}"


def describe_blocks(sbm: SBM | LayerSample, head: int = 0, graph_index: int = 0) -> str:
    """What a head's blocks amount to on one graph, in a plain sentence for a caption.

    Says "no block structure" where :func:`block_strength` is below :data:`RANK_ONE`, and how
    clearly tokens belong to one block (the mean of :func:`membership_margin`) otherwise.

    Args:
        sbm (SBM or LayerSample): The block models, or a layer's sample of them.
        head (int, optional): The head. (default: :obj:`0`)
        graph_index (int, optional): The graph of the batch. (default: :obj:`0`)

    Raises:
        ValueError: If the head or the graph does not exist.
    """
    model = layer_samples(sbm)[0].sbm
    margins = np.concatenate(membership_margin(model, head, graph_index))
    return strength_sentence(float(block_strength(model)[graph_index, head]), margins)


def strength_sentence(strength: float, margins: Iterable[float] = ()) -> str:
    """The sentence of :func:`describe_blocks` from its numbers."""
    margins = np.asarray(list(margins), dtype=np.float64)
    share = f"σ₂/σ₁ = {strength:.2g}"
    if not margins.size:
        return "No block structure: there are no tokens."
    if strength < RANK_ONE:
        return (
            f"No block structure: rank one ({share}), this head learned query activity × key "
            "popularity; sorting by block shows activity only."
        )
    degree = "Clear" if strength >= CLEAR else "Weak"
    return (
        f"{degree} block structure ({share}); a token's strongest block leads its second by "
        f"{100 * margins.mean():.0f} % on average."
    )
