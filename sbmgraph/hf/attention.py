"""Attention over sampled graphs in Transformers' registries, under the name ``"sbm"``.

A module with SBM heads (its child ``sbm``) hands its queries, keys and values to them; what is
padding is dropped first, is never sampled and comes out as zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from sbmgraph.checks import describe
from sbmgraph.hf.families import MIXED, is_local
from sbmgraph.nn import SBMHeads
from sbmgraph.nn.inputs import flatten_mask

#: The name of the attention, for ``attn_implementation``.
SBM_ATTENTION = "sbm"


def sbm_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of a module with SBM heads, as Transformers calls it.

    Args:
        module: The self-attention; its child ``sbm`` holds the heads.
        query: Queries of shape :obj:`[B, H, N, d]`.
        key: Keys of shape :obj:`[B, H, N, d]`.
        value: Values of shape :obj:`[B, H, N, d]`.
        attention_mask: Valid tokens, boolean of shape :obj:`[B, N]`. (default: all)
        dropout: Dropout probability of the attention weights.
        scaling: Factor of the scores.
        is_causal: Must not be :obj:`True`.
        **kwargs: ``output_attentions`` asks for weights; others that would change the attention
            are refused.

    Returns:
        Tensor of shape :obj:`[B, N, H, d]`, and with ``output_attentions`` weights of shape
        :obj:`[B, H, N, N]`, 0 where no edge was sampled.

    Raises:
        ValueError: If the module has no heads, or the attention asked for is causal, local, or has
            a mask or a bias of its own.
    """
    heads = getattr(module, "sbm", None)
    if not isinstance(heads, SBMHeads):
        if is_local(module):
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
            )
        raise ValueError(
            f"{type(module).__name__} must have SBM heads for attn_implementation='sbm', got none: "
            "call sbmgraph.hf.convert(model), or load a converted folder with the class that "
            "AutoModel finds after 'import sbmgraph.hf'"
        )
    _check_call(is_causal or getattr(module, "is_causal", False), attention_mask, kwargs)
    size = (query.size(0), query.size(2))
    if key.size(2) != size[1]:
        raise ValueError(
            f"'key' must hold the {size[1]} tokens of 'query' (SBM heads attend within a sequence "
            f"and keep no cache), got {key.size(2)}"
        )
    mask, batch = flatten_mask(torch.Size(size), attention_mask, query.device)
    flat = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)]
    place = None if attention_mask is None else mask.flatten().nonzero().squeeze(1)
    if place is not None:
        flat = [tensor.index_select(0, place) for tensor in flat]
    options: dict[str, Any] = {"scale": scaling, "dropout": dropout, "batch_size": size[0]}
    if not kwargs.get("output_attentions"):
        return _unflatten(heads(*flat, batch, **options), place, size), None
    out, (edge_index, alpha) = heads(*flat, batch, return_attention_weights=True, **options)
    return _unflatten(out, place, size), _dense_weights(edge_index, alpha, mask, batch)


def sbm_mask(
    batch_size: int,
    *args: Any,
    mask_function: Callable = bidirectional_mask_function,
    attention_mask: Tensor | None = None,
    config: Any = None,
    **kwargs: Any,
) -> Tensor | None:
    """The mask of :func:`sbm_attention`: which tokens are valid, and nothing else.

    Returns:
        Boolean tensor of shape :obj:`[B, N]`, or :obj:`None` where all are.

    Raises:
        ValueError: If the mask asked for is causal, local or custom.
    """
    if mask_function is bidirectional_mask_function:
        if attention_mask is not None and bool(attention_mask.all()):
            return None
        return attention_mask
    kind = getattr(config, "model_type", "").removeprefix("sbm_")
    if kind in MIXED:
        return sdpa_mask(
            batch_size,
            *args,
            mask_function=mask_function,
            attention_mask=attention_mask,
            config=config,
            **kwargs,
        )
    raise ValueError(
        "'attention_mask' must leave every token the whole sequence for attn_implementation='sbm': "
        "causal, sliding-window and custom mask functions cannot be sampled from, got "
        f"{getattr(mask_function, '__qualname__', mask_function)}"
    )


def _check_call(is_causal: bool, attention_mask: Any, kwargs: dict[str, Any]) -> None:
    if is_causal:
        raise ValueError(
            "'is_causal' must be False for attn_implementation='sbm': a sampled graph has edges "
            "both ways, got True"
        )
    for name in ("sliding_window", "position_bias", "softcap", "head_mask"):
        if kwargs.get(name) is not None:
            raise ValueError(
                f"'{name}' must be None for attn_implementation='sbm', got {describe(kwargs[name])}"
            )
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError(
            "'attention_mask' must say which tokens are valid, with shape [batch, tokens], for "
            f"attn_implementation='sbm'; got {describe(attention_mask)}"
        )


def _unflatten(x: Tensor, place: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Padded [B, N, ...] from the valid tokens' rows [T, ...], zeros elsewhere; ``place`` says
    where they go, and :obj:`None` that all are valid."""
    if place is not None:
        x = x.new_zeros(size[0] * size[1], *x.shape[1:]).index_copy(0, place, x)
    return x.view(*size, *x.shape[1:])


def _dense_weights(edge_index: Tensor, alpha: Tensor, mask: Tensor, batch: Tensor) -> Tensor:
    """Weights [B, H, N, N] (query, key) from those of edges [E, H] between valid tokens."""
    position = torch.arange(mask.size(1), device=mask.device).expand(mask.shape)[mask]
    key, query = edge_index
    shape = (mask.size(0), mask.size(1), mask.size(1), alpha.size(1))
    place = (batch[query], position[query], position[key])
    return alpha.new_zeros(shape).index_put(place, alpha).permute(0, 3, 1, 2)


def register() -> None:
    """Puts both into Transformers' registries."""
    AttentionInterface.register(SBM_ATTENTION, sbm_attention)
    AttentionMaskInterface.register(SBM_ATTENTION, sbm_mask)
