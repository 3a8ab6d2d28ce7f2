"""sbmgraph: sparse attention whose sparsity is learned, as a graph.

Every attention head infers a mixed-membership stochastic block model from its input, samples a
bipartite graph from it and attends over the sampled edges (Cho et al., *Transformers meet
Stochastic Block Models*, NeurIPS 2022).
"""

from sbmgraph.graph import SampledGraph
from sbmgraph.record import Recorder, Run, record
from sbmgraph.sampling import sample
from sbmgraph.sbm import SBM
from sbmgraph.version import __version__

__all__ = ["SBM", "Recorder", "Run", "SampledGraph", "__version__", "record", "sample"]
