"""Checks of what layers are given: features, batch vectors, masks and encodings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear, is_uninitialized_parameter

from sbmgraph.checks import (
    check_batch,
    check_floating,
    check_positive_int,
    check_range,
    check_same,
    check_tensor,
    check_weight_dtype,
    describe,
)
from sbmgraph.graph import SampledGraph
from sbmgraph.nn.config import EncoderConfig


def check_features(name: str, x: Any, lin: Linear) -> None:
    """``x`` must hold one row of features a node, as the layer's projection ``lin`` takes them."""
    channels = lin.in_channels
    check_tensor(name, x, 2, f"[num_nodes, {channels if channels > 0 else 'in_channels'}]")
    check_floating(name, x)
    if channels > 0 and x.size(1) != channels:
        raise ValueError(f"'{name}' must have {channels} channels, got {x.size(1)}")
    if not is_uninitialized_parameter(lin.weight):
        check_weight_dtype(name, x, lin.weight)
        check_same("device", **{name: x, "weight": lin.weight})


def split_batch(batch: Any, bipartite: bool) -> tuple[Tensor | None, Tensor | None]:
    """The batch vectors of source and target nodes.

    Raises:
        ValueError: If ``batch`` is no vector, or not a pair of vectors where it has to be one.
    """
    if batch is None:
        return None, None
    if not isinstance(batch, tuple):
        if not isinstance(batch, Tensor) or batch.dim() != 1:
            raise ValueError(
                f"'batch' must be an int64 vector of graph numbers, got {describe(batch)}; edges "
                "go to 'edge_index' by keyword ('edge_index_dict' in HeteroConv)"
            )
        if bipartite:
            raise ValueError(
                "'batch' must be a tuple of source and target batch vectors for bipartite input, "
                "got a single vector"
            )
        return batch, batch
    if len(batch) != 2 or (batch[0] is None) != (batch[1] is None):
        raise ValueError(
            "'batch' must hold a batch vector for source and one for target nodes, got "
            f"{[None if part is None else describe(part) for part in batch]}"
        )
    return batch


def check_batches(
    batch: tuple[Tensor | None, Tensor | None],
    size: tuple[int, int],
    device: torch.device,
    batch_size: int | None,
) -> None:
    """Both batch vectors must be sorted and speak of at most ``batch_size`` graphs."""
    if batch_size is not None:
        check_positive_int("batch_size", batch_size, minimum=0)
        if batch[0] is None and batch_size != 1:
            raise ValueError(f"'batch_size' must be 1 as 'batch' is None, got {batch_size}")
    for i, (vector, num_nodes) in enumerate(zip(batch, size, strict=True)):
        if vector is None or (i == 1 and vector is batch[0]):
            continue
        check_batch("batch", vector, num_nodes, device)
        if batch_size is not None and num_nodes and int(vector[-1]) >= batch_size:
            raise ValueError(
                f"'batch' must hold graph numbers below 'batch_size' = {batch_size}, "
                f"got {int(vector[-1])}"
            )


def check_size(
    size: Any, x_src: Tensor, x_dst: Tensor | None, batch_dst: Tensor | None
) -> tuple[int, int]:
    """The numbers of source and target nodes.

    Raises:
        ValueError: If ``size`` contradicts the nodes, or nothing tells the number of targets.
    """
    if size is not None:
        if not isinstance(size, tuple | list) or len(size) != 2:
            raise ValueError(
                f"'size' must hold the numbers of source and target nodes, got {size!r}"
            )
        for number in size:
            check_positive_int("size", number, minimum=0)
    if x_dst is not None:
        found = (x_src.size(0), x_dst.size(0))
    elif batch_dst is not None:
        found = (x_src.size(0), batch_dst.numel())
    elif size is not None:
        found = (x_src.size(0), size[1])
    else:
        raise ValueError(
            "'size' or 'batch' must tell the number of target nodes as their features are None, "
            "got neither"
        )
    if size is not None and tuple(size) != found:
        raise ValueError(f"'size' must be {found} like the nodes, got {tuple(size)}")
    return found


def flatten_mask(
    shape: torch.Size, mask: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Checks the mask of a padded batch [B, N] and derives the sequence of every valid token.

    Returns:
        The mask, boolean of shape :obj:`[B, N]`, and the batch vector of its valid tokens.

    Raises:
        ValueError: If the mask has another shape, dtype or device.
    """
    if mask is None:
        mask = torch.ones(shape, dtype=torch.bool, device=device)
    if (
        not isinstance(mask, Tensor)
        or mask.dtype != torch.bool
        or mask.layout != torch.strided
        or mask.shape != shape
        or mask.device != device
    ):
        raise ValueError(
            f"'mask' must be a boolean tensor of shape {list(shape)} on {device} (True = valid), "
            f"got {describe(mask)}"
        )
    sequence = torch.arange(shape[0], device=device).unsqueeze(1).expand(shape)
    return mask, sequence[mask]


def check_heads_input(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    dropout: float | None,
    given: SampledGraph | None,
    bias: Tensor | None,
    like: tuple[int, Tensor],
) -> None:
    """Queries, keys and values must fit together and to heads of a number and cluster embeddings
    [H, K, d] given as ``like``; so must the options of a call."""
    heads, weight = like
    tensors = {"query": query, "key": key, "value": value}
    for name, x in tensors.items():
        channels = "value_channels" if name == "value" else weight.size(-1)
        shape = f"[nodes, {heads}, {channels}]"
        check_tensor(name, x, 3, shape)
        check_floating(name, x)
        if x.size(1) != heads or (name != "value" and x.size(2) != weight.size(-1)):
            raise ValueError(f"'{name}' must have shape {shape}, got {describe(x)}")
    if value.size(0) != key.size(0):
        raise ValueError(
            f"'value' must have a row for each of {key.size(0)} keys, got {describe(value)}"
        )
    check_same("dtype", **tensors)
    check_same("device", **tensors)
    check_weight_dtype("query", query, weight)
    if scale is not None:
        check_range("scale", scale, -math.inf, math.inf, low_open=True, high_open=True)
    if dropout is not None:
        check_range("dropout", dropout, 0.0, 1.0, high_open=True)
    if given is None:
        if bias is not None:
            raise ValueError(f"'bias' must come with 'given', got {describe(bias)} alone")
        return
    if not isinstance(given, SampledGraph):
        raise ValueError(f"'given' must be a SampledGraph, got {describe(given)}")
    mine = (query.size(0), key.size(0), 1)
    theirs = (given.num_queries, given.num_keys, given.heads)
    if mine != theirs:
        raise ValueError(f"'given' must have (num_queries, num_keys, heads) = {mine}, got {theirs}")
    if bias is not None:
        shape = f"[{given.num_edges}, {heads}]"
        check_tensor("bias", bias, 2, shape)
        check_floating("bias", bias)
        if bias.shape != (given.num_edges, heads):
            raise ValueError(f"'bias' must have shape {shape}, got {describe(bias)}")


def split_encodings(
    pe: Any, lin: nn.Linear | None, size: tuple[int, int]
) -> tuple[Tensor | None, Tensor | None]:
    """The encodings of source and target nodes that a layer of encodings reads.

    Raises:
        ValueError: If they are missing, not wanted or of another shape.
    """
    if (pe is None) != (lin is None):
        expected = "None as 'pe_channels' is 0" if lin is None else "a tensor"
        raise ValueError(f"'pe' must be {expected}, got {type(pe).__name__}")
    if pe is None or lin is None:
        return None, None
    pair = pe if isinstance(pe, tuple) else (pe, pe)
    if len(pair) != 2:
        raise ValueError(
            f"'pe' must hold encodings of source and target nodes, got {len(pair)} entries"
        )
    for encoding, num_nodes in zip(pair, size, strict=True):
        shape = (num_nodes, lin.in_features)
        if not isinstance(encoding, Tensor) or encoding.shape != shape:
            raise ValueError(f"'pe' must have shape {list(shape)}, got {describe(encoding)}")
        check_floating("pe", encoding)
        check_weight_dtype("pe", encoding, lin.weight)
        check_same("device", pe=encoding, weight=lin.weight)
    return pair


def check_positions(position: Any, tokens: Tensor, max_length: int) -> None:
    """``position`` must hold a position below ``max_length`` for each of flat ``tokens``."""
    if (
        not isinstance(position, Tensor)
        or position.shape != tokens.shape
        or position.dtype != torch.int64
        or position.layout != torch.strided
        or position.device != tokens.device
    ):
        raise ValueError(
            f"'position' must be an int64 vector of {tokens.numel()} positions, "
            f"got {describe(position)}"
        )
    if not tokens.numel():
        return
    low, high = int(position.min()), int(position.max())
    if low < 0 or high >= max_length:
        raise ValueError(
            f"'position' must lie in [0, {max_length}), got values from {low} to {high}"
        )


def check_tokens(tokens: Tensor, length: Tensor, config: EncoderConfig) -> None:
    """Flat ``tokens`` must be in the vocabulary, in sequences of ``length`` [B] that the model
    holds."""
    if not tokens.numel():
        return
    longest = int(length.max())
    if longest > config.max_length:
        raise ValueError(
            f"'tokens' must hold sequences of at most 'max_length' = {config.max_length} tokens, "
            f"got one of {longest}"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= config.vocab_size:
        raise ValueError(
            f"'tokens' must lie in [0, {config.vocab_size}), got values from {low} to {high}"
        )
