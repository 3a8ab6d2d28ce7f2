"""sbmgraph: sparse attention whose sparsity is learned, as a graph.

Every attention head infers a mixed-membership stochastic block model from its input, samples a
bipartite graph from it and attends over the sampled edges (Cho et al., *Transformers meet
Stochastic Block Models*, NeurIPS 2022).
"""

import warnings

from sbmgraph.graph import SampledGraph
from sbmgraph.record import LayerSample, Recorder, record
from sbmgraph.sampling import sample
from sbmgraph.sbm import SBM
from sbmgraph.version import __version__

__all__ = ["SBM", "LayerSample", "Recorder", "SampledGraph", "__version__", "record", "sample"]


def __getattr__(name: str) -> object:
    if name == "Run":
        warnings.warn(
            "sbmgraph.Run is now called sbmgraph.LayerSample (a run is what training leaves in a "
            "folder); the old name goes in the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return LayerSample
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
