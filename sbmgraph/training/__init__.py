"""Lightning modules that train any model on any task, and the folder that a run leaves."""

from sbmgraph.run import Run
from sbmgraph.training.data import Rounds, SequenceDataModule
from sbmgraph.training.density_control import DensityConfig, DensityControl
from sbmgraph.training.export import export_model, load_model
from sbmgraph.training.module import SequenceClassifier, densities
from sbmgraph.training.run import load_run, summarize

__all__ = [
    "DensityConfig",
    "DensityControl",
    "Rounds",
    "Run",
    "SequenceClassifier",
    "SequenceDataModule",
    "densities",
    "export_model",
    "load_model",
    "load_run",
    "summarize",
]
