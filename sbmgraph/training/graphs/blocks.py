"""Whether trained heads learned blocks, and whether these are what the task planted."""

from __future__ import annotations

from statistics import mean, median

import torch

from sbmgraph.analysis import block_agreement, block_strength
from sbmgraph.analysis.blocks import SIDES
from sbmgraph.record import record
from sbmgraph.training.graphs.module import GraphClassifier, GraphDataModule
from sbmgraph.training.graphs.tasks import TASKS, DistantPartners


@torch.no_grad()
def block_measures(module: GraphClassifier, data: GraphDataModule) -> dict[str, float | None]:
    """Medians over layers and heads, by the graphs of one test batch.

    Returns:
        ``block_strength`` (:func:`~sbmgraph.analysis.block_strength`, mean over graphs) and
        ``block_agreement`` (:func:`~sbmgraph.analysis.block_agreement` with the planted
        communities, mean over graphs, of the side of a head that agrees better); :obj:`None` for a
        model whose heads sample nothing, or a task that plants nothing.
    """
    batch = next(iter(data.test_dataloader()))
    module.eval()
    with record(module) as runs:
        module(batch)
    strength = [value for run in runs for value in block_strength(run.sbm).mean(axis=0).tolist()]
    agreement = []
    task = TASKS[data.task]
    if isinstance(task, DistantPartners):
        graphs = range(int(batch.batch[-1]) + 1)
        classes = [task.planted(batch)[batch.batch == graph].tolist() for graph in graphs]
        for run in runs:
            for head in range(run.sbm.heads):
                sides = [
                    mean(block_agreement(run.sbm, classes[g], head, g, side) for g in graphs)
                    for side in SIDES
                ]
                agreement.append(max(sides))
    return {
        "block_strength": median(strength) if strength else None,
        "block_agreement": median(agreement) if agreement else None,
    }
