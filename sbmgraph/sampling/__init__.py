"""Sampling graphs from stochastic block models: two laws, two algorithms, one function."""

from sbmgraph.sampling.sample import ALGORITHMS, LAWS, sample

__all__ = ["ALGORITHMS", "LAWS", "sample"]
