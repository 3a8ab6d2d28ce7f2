"""Layers and models that attend over sampled graphs."""

from sbmgraph.nn.attention import SBMAttention
from sbmgraph.nn.conv import SBMConv
from sbmgraph.nn.membership import MembershipNetwork
from sbmgraph.nn.transformer import SBMTransformer, Transformer

__all__ = ["MembershipNetwork", "SBMAttention", "SBMConv", "SBMTransformer", "Transformer"]
