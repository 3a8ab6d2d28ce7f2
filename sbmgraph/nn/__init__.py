"""Layers and models that attend over sampled graphs."""

from sbmgraph.nn.attention import SBMAttention
from sbmgraph.nn.config import EncoderConfig
from sbmgraph.nn.conv import SBMConv
from sbmgraph.nn.explain import Explanation, explain
from sbmgraph.nn.gps import GPSBlock
from sbmgraph.nn.heads import SBMHeads
from sbmgraph.nn.membership import MembershipNetwork, split_membership
from sbmgraph.nn.options import SBMOptions
from sbmgraph.nn.regularizers import block_entropy, node_entropy
from sbmgraph.nn.transformer import SBMTransformer, Transformer

__all__ = [
    "EncoderConfig",
    "Explanation",
    "GPSBlock",
    "MembershipNetwork",
    "SBMAttention",
    "SBMConv",
    "SBMHeads",
    "SBMOptions",
    "SBMTransformer",
    "Transformer",
    "block_entropy",
    "explain",
    "node_entropy",
    "split_membership",
]
