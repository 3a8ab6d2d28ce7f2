"""Long Range Arena, the duplicates task, and the ragged batches that both come in."""

from sbmgraph.data.loader import BucketBatchSampler, ResumableDataLoader
from sbmgraph.data.prepare import TASKS, prepare
from sbmgraph.data.sequence import Sequence, SequenceBatch, SequenceDataset, collate

__all__ = [
    "TASKS",
    "BucketBatchSampler",
    "ResumableDataLoader",
    "Sequence",
    "SequenceBatch",
    "SequenceDataset",
    "collate",
    "prepare",
]
