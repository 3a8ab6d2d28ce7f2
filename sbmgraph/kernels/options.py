"""What the kernels of attention share besides their tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Factors(NamedTuple):
    """The factors of the edge probabilities :math:`p_{ij} = \\mathbf{w}_i \\cdot \\mathbf{z}_j`,
    which take the straight-through gradient.

    Attributes:
        rate: :math:`\\mathbf{W} = \\mathbf{Y}\\mathbf{B}`, of shape :obj:`[n, H, K]`.
        member: :math:`\\mathbf{Z}`, of shape :obj:`[m, H, K]`.
    """

    rate: Tensor
    member: Tensor


class Options(NamedTuple):
    """How scores become weights.

    Attributes:
        scale: Factor of the scores.
        dropout: Probability that a weight is dropped.
        seed: Key of the dropout's random numbers, see :mod:`sbmgraph.kernels.random`.
        estimator: ``"logit"`` or ``"mask"``, see :func:`sbmgraph.ops.edge_attention`.
        kept: Words of the edges that dropout leaves, where they were drawn beforehand.
    """

    scale: float
    dropout: float
    seed: int
    estimator: str
    kept: Tensor | None = None
