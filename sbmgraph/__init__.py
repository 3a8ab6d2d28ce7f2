"""sbmgraph: sparse attention whose sparsity is learned, as a graph.

Every attention head infers a mixed-membership stochastic block model from its input, samples a
bipartite graph from it and attends over the sampled edges (Cho et al., *Transformers meet
Stochastic Block Models*, NeurIPS 2022).
"""

from sbmgraph import _deprecated
from sbmgraph.graph import SampledGraph
from sbmgraph.ops.sample import sample
from sbmgraph.record import LayerSample, Recorder, record
from sbmgraph.sbm import SBM
from sbmgraph.version import __version__

__all__ = ["SBM", "LayerSample", "Recorder", "SampledGraph", "__version__", "record", "sample"]

_deprecated.attach()


def __getattr__(name: str) -> object:
    if name == "Run":
        _deprecated.warn("sbmgraph.Run", "sbmgraph.LayerSample")
        return LayerSample
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
