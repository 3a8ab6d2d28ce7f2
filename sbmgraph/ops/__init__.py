"""Attention over the edges of sampled graphs."""

from sbmgraph.ops.attention import BACKENDS, ESTIMATORS, edge_attention

__all__ = ["BACKENDS", "ESTIMATORS", "edge_attention"]
