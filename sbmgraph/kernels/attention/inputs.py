"""What the backward passes of attention over edges read, whatever the device."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sbmgraph.kernels.csr import CSC, CSR
from sbmgraph.kernels.options import Factors


class Inputs(NamedTuple):
    """The tensors of the forward pass.

    Attributes:
        query: Of shape :obj:`[n * H, d]`.
        key: Of shape :obj:`[m * H, d]`.
        value: Of shape :obj:`[m * H, dv]`.
        csr: The edges.
        csc: Their transpose, if the caller has it.
        bias: Added to the scores, of shape :obj:`[E]`.
        factors: What takes the straight-through gradient.
        sampled: Which edges pass it one, boolean of shape :obj:`[E]`; all if :obj:`None`.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    csr: CSR
    csc: CSC | None = None
    bias: Tensor | None = None
    factors: Factors | None = None
    sampled: Tensor | None = None


class Needs(NamedTuple):
    """Whose gradients are wanted, in the order in which a backward pass returns them."""

    query: bool
    key: bool
    value: bool
    bias: bool
    rate: bool
    member: bool
