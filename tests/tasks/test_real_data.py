"""Every model takes steps on the real data of every task, at the paper's setting but for the batch.

``SBMGRAPH_DATA=FOLDER pytest -m data``; where a data set is missing the error says what to put
there.
"""

import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from sbmgraph import record
from sbmgraph.nn.models import MODELS
from sbmgraph.training import SequenceClassifier, SequenceDataModule

ROOT = os.environ.get("SBMGRAPH_DATA")
CONFIGS = Path(__file__).resolve().parents[2] / "tasks" / "configs"
OFFICIAL = {
    "listops": {"source": "release"},
    "text": {},
    "retrieval": {},
    "image": {"source": os.environ.get("SBMGRAPH_CIFAR", "python")},
    "pathfinder32": {"source": "release"},
}

pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.skipif(ROOT is None, reason="SBMGRAPH_DATA names no folder of data sets"),
]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("task", OFFICIAL)
def test_two_steps(task: str, name: str) -> None:
    config = yaml.safe_load((CONFIGS / f"{task}.yaml").read_text())
    options = {**config["data"].get("options", {}), **OFFICIAL[task]}
    data = SequenceDataModule(task, str(ROOT), batch_size=2, options=options)
    torch.manual_seed(0)
    settings = {key: value for key, value in config["model"].items() if key != "name"}
    model = SequenceClassifier(**data.model_arguments, **settings, name=name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = [weight.detach().clone() for weight in model.parameters()]
    batches = iter(data.train_dataloader())
    for _ in range(2):
        batch = next(batches)
        with record(model) as runs:
            loss = F.cross_entropy(model(batch), batch.label)
        assert (len(runs) > 0) == (name == "sbm")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.item() < 10 * math.log(data.model_arguments["num_classes"])
    for weight in model.parameters():
        assert bool(weight.isfinite().all())
        if weight.grad is not None:
            assert bool(weight.grad.isfinite().all())
    assert sum(not torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True)) > 5
