"""Lightning modules that train any model on any task, and the folder that a run leaves."""

from sbmgraph.training.data import Rounds, SequenceDataModule
from sbmgraph.training.module import SequenceClassifier, densities
from sbmgraph.training.run import load_run, summarize

__all__ = [
    "Rounds",
    "SequenceClassifier",
    "SequenceDataModule",
    "densities",
    "load_run",
    "summarize",
]
