"""Numbers about what heads learned and sampled: pure functions over :class:`~sbmgraph.SBM`,
:class:`~sbmgraph.SampledGraph` and the runs of :func:`~sbmgraph.record`.

Everywhere ``graph`` is the sampled graphs, ``head`` picks a head and ``graph_index`` a graph of the
batch; results are NumPy arrays, pandas tables and networkx graphs on the host. A matrix over tokens
has queries as rows and keys as columns, a graph's edges run from key to query.
"""

from sbmgraph.analysis.blocks import (
    BlockOrder,
    assign_blocks,
    block_order,
    edge_shares,
    effective_number,
    entropy,
    expected_degrees,
    membership_entropy,
    memberships,
)
from sbmgraph.analysis.density import density_std, sampling_variance, variance_components
from sbmgraph.analysis.export import (
    to_data,
    to_hetero_data,
    to_networkx,
    to_pandas_edgelist,
    write_graph,
)
from sbmgraph.analysis.mass import (
    assortativity,
    block_assortativity,
    block_graph,
    block_mass,
    block_share,
    dead_blocks,
    effective_blocks,
)
from sbmgraph.analysis.matrix import BinnedMatrix, expected_matrix, sampled_matrix
from sbmgraph.analysis.mixing import class_mixing, describe_mixing
from sbmgraph.analysis.paths import Universality, check_universality, reach
from sbmgraph.analysis.select import Factors, biadjacency_matrix, factors
from sbmgraph.analysis.statistics import (
    AttentionMass,
    attention_mass,
    connected_components,
    degree_distribution,
    degrees,
    graph_statistics,
    neighbour_weights,
    neighbours,
    reciprocity,
    self_edges,
)
from sbmgraph.analysis.strength import (
    block_agreement,
    block_strength,
    describe_blocks,
    membership_margin,
    strengths,
)
from sbmgraph.analysis.tables import block_table, density_table, membership_table, summarize

__all__ = [
    "AttentionMass",
    "BinnedMatrix",
    "BlockOrder",
    "Factors",
    "Universality",
    "assign_blocks",
    "assortativity",
    "attention_mass",
    "biadjacency_matrix",
    "block_agreement",
    "block_assortativity",
    "block_graph",
    "block_mass",
    "block_order",
    "block_share",
    "block_strength",
    "block_table",
    "check_universality",
    "class_mixing",
    "connected_components",
    "dead_blocks",
    "degree_distribution",
    "degrees",
    "density_std",
    "density_table",
    "describe_blocks",
    "describe_mixing",
    "edge_shares",
    "effective_blocks",
    "effective_number",
    "entropy",
    "expected_degrees",
    "expected_matrix",
    "factors",
    "graph_statistics",
    "membership_entropy",
    "membership_margin",
    "membership_table",
    "memberships",
    "neighbour_weights",
    "neighbours",
    "reach",
    "reciprocity",
    "sampled_matrix",
    "sampling_variance",
    "self_edges",
    "strengths",
    "summarize",
    "to_data",
    "to_hetero_data",
    "to_networkx",
    "to_pandas_edgelist",
    "variance_components",
    "write_graph",
]
