"""Long Range Arena, the duplicates task, GLUE and text to pre-train on, and the ragged batches that
all of them come in."""

from sbmgraph.data.glue import GLUE_TASKS, read_glue
from sbmgraph.data.glue_metrics import glue_scores
from sbmgraph.data.loader import BucketBatchSampler, ResumableDataLoader
from sbmgraph.data.masked_text import mask_tokens
from sbmgraph.data.prepare import TASKS, prepare
from sbmgraph.data.sequence import Sequence, SequenceBatch, SequenceDataset, collate
from sbmgraph.data.tokenizer import load_tokenizer, train_tokenizer

__all__ = [
    "GLUE_TASKS",
    "TASKS",
    "BucketBatchSampler",
    "ResumableDataLoader",
    "Sequence",
    "SequenceBatch",
    "SequenceDataset",
    "collate",
    "glue_scores",
    "load_tokenizer",
    "mask_tokens",
    "prepare",
    "read_glue",
    "train_tokenizer",
]
