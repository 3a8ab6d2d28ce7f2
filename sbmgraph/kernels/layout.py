"""How the factors of edge probabilities lie in memory."""

from __future__ import annotations

from torch import Tensor


def head_by_head(like: Tensor) -> Tensor:
    """An uninitialised tensor :obj:`[nodes, H, K]` whose memory lists one head after the other: how
    memberships and rates come out of their matrix products, and what the kernels gather from."""
    nodes, heads, clusters = like.shape
    return like.new_empty(heads, nodes, clusters).transpose(0, 1)
