"""The folder that a training run leaves: its files by name, and who may write to it."""

from sbmgraph.run.folder import Run

__all__ = ["Run"]
