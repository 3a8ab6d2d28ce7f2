r"""Which algorithm and layout make a layer's step cheapest: a model of its cost on each device.

A step draws a graph, attends over it and goes back. It takes one of three forms,

=========== ========== ======= =================================================================
form        algorithm  layout  modelled cost
=========== ========== ======= =================================================================
``listed``  fastRG     CSR     fastRG + attention over edges
``thinned`` dense      CSR     dense + listing the bits + attention over edges
``tiled``   dense      bits    dense + attention in tiles
=========== ========== ======= =================================================================

each part linear in edges, pairs and nodes, and in what every one of these costs for a channel of
the attention and a block of the model. The coefficients are nanoseconds of a whole machine or
device, fitted by ``python benchmarks/fit_cost.py``; only their ratios decide.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

FORMS = {"listed": ("fastrg", "csr"), "thinned": ("dense", "csr"), "tiled": ("dense", "bits")}


class Size(NamedTuple):
    """How much work a step is.

    Attributes:
        edges: Expected edges over all heads and graphs.
        pairs: Pairs of a query and a key of the same graph, over all heads.
        nodes: Query and key vertices.
        clusters: Blocks of the model.
        channels: Channels of a head.
    """

    edges: float
    pairs: float
    nodes: float
    clusters: int
    channels: int


class Part(NamedTuple):
    """Nanoseconds for an edge, a pair, a node and a call, and more for each block or channel."""

    edge: float = 0.0
    edge_block: float = 0.0
    edge_channel: float = 0.0
    pair: float = 0.0
    pair_block: float = 0.0
    pair_channel: float = 0.0
    node: float = 0.0
    node_block: float = 0.0
    call: float = 0.0

    def of(self, size: Size) -> float:
        """The part's cost in nanoseconds."""
        edge = self.edge + self.edge_block * size.clusters + self.edge_channel * size.channels
        pair = self.pair + self.pair_block * size.clusters + self.pair_channel * size.channels
        node = self.node + self.node_block * size.clusters
        return edge * size.edges + pair * size.pairs + node * size.nodes + self.call


class Device(NamedTuple):
    """The parts of a step on one kind of device."""

    fastrg: Part
    dense: Part
    listing: Part
    edges: Part
    tiles: Part

    def of(self, form: str, size: Size) -> float:
        """The modelled cost of a step in one of :data:`FORMS`."""
        parts = {
            "listed": (self.fastrg, self.edges),
            "thinned": (self.dense, self.listing, self.edges),
            "tiled": (self.dense, self.tiles),
        }
        return sum(part.of(size) for part in parts[form])


CPU = Device(
    fastrg=Part(edge=23.0, edge_block=0.0544, node=146, node_block=1.96, call=1.58e6),
    dense=Part(pair=0.644, pair_block=0.0152, call=1.11e6),
    listing=Part(edge=1.79, pair=0.0882, call=2.46e5),
    edges=Part(edge_block=0.09, edge_channel=0.62, node_block=8.62, call=3.42e6),
    tiles=Part(pair_block=0.0307, pair_channel=0.176, node_block=4.68, call=3.95e6),
)
"""Fitted on two threads of an AVX2 machine."""

GPU_HALF = Device(
    fastrg=Part(edge=0.0365, edge_block=1.21e-3, node_block=0.25, call=1.58e6),
    dense=Part(pair=1.17e-3, pair_block=1.48e-5, call=2.58e5),
    listing=Part(edge=0.0128, pair=1.95e-4, call=2.6e5),
    edges=Part(edge=0.337, edge_block=8.6e-4, node_block=0.33, call=1.45e6),
    tiles=Part(pair_block=1.33e-5, pair_channel=6.6e-5, call=1.34e6),
)
"""Fitted on an H100 in bfloat16; ``edges`` with the transposition, and what nodes cost from whole
layers of 16,384 nodes (benchmarks/GPU.md)."""

GPU_FLOAT32 = GPU_HALF._replace(
    edges=GPU_HALF.edges._replace(edge_block=1.05e-3),
    tiles=Part(pair_block=1.12e-4, pair_channel=5.5e-4, call=1.34e6),
)
"""Likewise for float32, whose products are three of TF32: ``tiles`` scaled by the times of its
kernels (``benchmarks/gpu_tune.py``)."""


def device_model(device_type: str, dtype: torch.dtype = torch.float32) -> Device:
    """The coefficients of a device type for attention in ``dtype``; the CPU's where there are
    none."""
    if device_type != "cuda":
        return CPU
    return GPU_HALF if dtype in (torch.float16, torch.bfloat16) else GPU_FLOAT32


def cheapest(
    size: Size,
    device_type: str,
    algorithm: str,
    layout: str,
    tiles: bool,
    dtype: torch.dtype = torch.float32,
) -> tuple[str, str]:
    """The algorithm and layout of the cheapest form that the choices leave.

    Args:
        size: The work.
        device_type: Where it is done.
        algorithm: ``"fastrg"``, ``"dense"`` or ``"auto"``.
        layout: ``"csr"``, ``"bits"`` or ``"auto"``.
        tiles: Whether the device has tile kernels for what follows.
        dtype: What attention is computed in.
    """
    model = device_model(device_type, dtype)
    left = [
        form
        for form, (its_algorithm, its_layout) in FORMS.items()
        if algorithm in ("auto", its_algorithm)
        and layout in ("auto", its_layout)
        and (tiles or form != "tiled" or layout == "bits")
    ]
    if not left:  # fastRG asked for as bits
        return algorithm, layout
    return FORMS[min(left, key=lambda form: model.of(form, size))]
