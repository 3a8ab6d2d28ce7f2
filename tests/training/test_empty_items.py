"""Items without a token (all of their pixels hidden, say) do not shift those beside them."""

from __future__ import annotations

import pytest
import torch

from sbmgraph.data import Sequence, collate
from sbmgraph.nn.models import MODELS
from sbmgraph.training import SequenceClassifier


@pytest.mark.parametrize("name", ["full", "sbm"])
@pytest.mark.parametrize("documents", [1, 2])
@pytest.mark.parametrize("empty", [0, 1, 2])
def test_scores_are_those_without_the_empty_item(name, documents, empty):
    torch.manual_seed(0)
    options = {"sbm": {"num_clusters": 4, "init_density": 1.0}}
    model = SequenceClassifier(
        "toy", 5, 3, 8, documents, name=name, channels=8, num_layers=1, ffn_channels=8,
        options=options,
    ).eval()  # fmt: skip
    rows = [[1, 2, 3, 4], [2, 2, 1], [4, 1, 2, 3, 1]]
    items = [Sequence([torch.tensor(row)] * documents, k) for k, row in enumerate(rows)]
    alone = torch.cat([model(collate([item])) for item in items])
    hidden = Sequence([torch.zeros(len(rows[empty])).long()] * documents, empty)
    batch = collate([hidden if k == empty else item for k, item in enumerate(items)]).without(0)
    scores = model(batch)
    assert scores.shape == (3, 3)
    assert scores.isfinite().all()
    others = [k for k in range(3) if k != empty]
    if name == "full":
        assert torch.allclose(scores[others], alone[others], atol=1e-5)
    assert torch.allclose(
        scores[empty], model.model.classifier(torch.zeros(8 * (4 if documents == 2 else 1)))
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_batch_of_empty_items_alone(name, pooling):
    torch.manual_seed(0)
    model = SequenceClassifier(
        "toy", 5, 3, 8, name=name, channels=8, num_layers=1, ffn_channels=8, pooling=pooling
    )
    items = [Sequence([torch.zeros(n).long()], n) for n in (1, 2)]
    batch = collate(items).without(0)
    scores = model(batch)
    torch.nn.functional.cross_entropy(scores, batch.label).backward()
    assert scores.shape == (2, 3)
    assert scores.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
