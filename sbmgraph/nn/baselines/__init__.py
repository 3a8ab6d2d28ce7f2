"""The attention modules that SBM attention is compared with.

All share the projections of :class:`MultiHeadAttention` and take flat ragged tokens; the published
packages behind five of them belong to the extra ``baselines``. None reads what it is batched with:
each module's docstring says what its package does with padding, and how that is repaired.
"""

from sbmgraph.nn.baselines.entmax import EntmaxAttention
from sbmgraph.nn.baselines.full import FullAttention
from sbmgraph.nn.baselines.linear import LinearAttention
from sbmgraph.nn.baselines.linformer import LinformerAttention
from sbmgraph.nn.baselines.multi_head import InnerAttention, MultiHeadAttention
from sbmgraph.nn.baselines.nystromformer import NystromAttention
from sbmgraph.nn.baselines.pattern import PatternAttention
from sbmgraph.nn.baselines.performer import PerformerAttention
from sbmgraph.nn.baselines.reformer import ReformerAttention

__all__ = [
    "EntmaxAttention",
    "FullAttention",
    "InnerAttention",
    "LinearAttention",
    "LinformerAttention",
    "MultiHeadAttention",
    "NystromAttention",
    "PatternAttention",
    "PerformerAttention",
    "ReformerAttention",
]
