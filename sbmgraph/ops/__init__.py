"""Functions of models and graphs: sampling, attention over sampled edges, edge probabilities."""

from sbmgraph.ops.attention import BACKENDS, ESTIMATORS, edge_attention
from sbmgraph.ops.edge_prob import edge_prob
from sbmgraph.ops.sample import ALGORITHMS, LAWS, sample

__all__ = [
    "ALGORITHMS",
    "BACKENDS",
    "ESTIMATORS",
    "LAWS",
    "edge_attention",
    "edge_prob",
    "sample",
]
