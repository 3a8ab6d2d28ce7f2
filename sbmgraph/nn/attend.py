"""Attention of groups of heads, each over edges of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sbmgraph.nn.edges import Attended
from sbmgraph.nn.options import SBMOptions
from sbmgraph.nn.transforms import edge_attention_plain, in_transform
from sbmgraph.ops import edge_attention


def attend_groups(
    inputs: tuple[Tensor, Tensor, Tensor],
    groups: list[Attended],
    options: SBMOptions,
    scale: float | None,
    dropout: float,
    weights: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Attends with consecutive heads over each group's edges.

    Args:
        inputs: Queries [n, H, d], keys [m, H, d] and values [m, H, dv].
        groups: What each group of heads attends over.
        options: Backend and estimator.
        scale: Factor of the scores. (default: :math:`1 / \\sqrt{d}`)
        dropout: Dropout probability of the attention weights.
        weights: Whether the weights are wanted; where gradients are on they carry one.

    Returns:
        The output of shape :obj:`[n, H, dv]`, and the weights of each group's edges, if wanted.
    """
    outs: list[Any] = []
    alphas: list[Tensor] = []
    out: Any
    start = 0
    # The reference backend is the one whose weights carry a gradient.
    backend = "reference" if weights and torch.is_grad_enabled() else options.backend
    for group in groups:
        heads = slice(start, start + group.graph.heads)
        start = heads.stop
        query, key, value = inputs if len(groups) == 1 else (x[:, heads] for x in inputs)
        shared: dict[str, Any] = {
            "graph": group.graph,
            "sbm": group.sbm,
            "bias": group.bias,
            "sampled": group.sampled,
            "estimator": options.estimator,
            "scale": scale,
            "dropout": dropout,
        }
        if in_transform():
            out, alpha = edge_attention_plain(query, key, value, **shared)
            alphas.append(alpha)
        elif weights:
            out, alpha = edge_attention(
                query, key, value, **shared, training=True, backend=backend, return_weights=True
            )
            alphas.append(alpha)
        else:
            out = edge_attention(query, key, value, **shared, training=True, backend=backend)
        outs.append(out)
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1), alphas
