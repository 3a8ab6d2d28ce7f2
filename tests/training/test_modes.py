"""Validating before training, and Lightning's pure precisions."""

from dataclasses import asdict

import lightning as L
import pytest
import torch

from sbmgraph.data import collate
from sbmgraph.nn.models import MODELS
from sbmgraph.training.graphs.models import Setting
from sbmgraph.training.graphs.module import GraphClassifier, GraphDataModule


@pytest.mark.parametrize("name", ["sbm", "pattern", "full"])
def test_validating_before_training_changes_nothing(data, tmp_path, make_model, make_trainer, name):
    weights = []
    for validate_first in (False, True):
        torch.manual_seed(0)
        model = make_model(data, name)
        trainer = make_trainer(tmp_path / str(validate_first), limit_val_batches=1, max_steps=2)
        if validate_first:
            trainer.validate(model, data, verbose=False)
        trainer.fit(model, data)
        weights.append(model.state_dict())
    for key, value in weights[0].items():
        assert torch.equal(weights[1][key], value), key


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
@pytest.mark.parametrize(
    "name",
    [
        n if n in ("sbm", "full", "nystromformer") else pytest.param(n, marks=pytest.mark.slow)
        for n in MODELS
    ],
)
def test_pure_precisions(data, tmp_path, make_model, make_trainer, name, precision):
    model = make_model(data, name, dropout=0.0)
    trainer = make_trainer(tmp_path, precision=precision, max_steps=4)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    dtype = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
    assert {weight.dtype for weight in model.parameters()} == {dtype[precision]}
    # Ten classes at chance have a cross-entropy of 2.3; steps that blow up leave that far behind.
    assert 1.5 < float(trainer.callback_metrics["test/loss"]) < 3.5


class Losses(L.Callback):
    """The training loss of every step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.values.append(float(outputs["loss"]))


def test_nystromformer_in_pure_float16_follows_float32(data, tmp_path, make_model, make_trainer):
    pytest.importorskip("nystrom_attention")
    found = {}
    for precision in ("32-true", "16-true"):
        torch.manual_seed(0)
        options = {"nystromformer": {"num_landmarks": 8, "kernel_size": 5}}
        model = make_model(data, "nystromformer", dropout=0.0, options=options)
        losses = Losses()
        trainer = make_trainer(
            tmp_path / precision, precision=precision, callbacks=[losses], logger=False,
            enable_checkpointing=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(model, data)
        assert all(weight.isfinite().all() for weight in model.parameters())
        found[precision] = torch.tensor(losses.values)
    assert found["16-true"].shape == (4,)
    torch.testing.assert_close(found["16-true"], found["32-true"], rtol=0.01, atol=0)


@pytest.mark.parametrize("place", ["data module", "test loader"])
@pytest.mark.parametrize("name", ["sbm", "pattern"])
def test_predict(data, tmp_path, make_model, make_trainer, name, place):
    """Scores of all test items: of the data module in their stored order, and again the same."""
    torch.manual_seed(0)
    model = make_model(data, name)
    given = data if place == "data module" else data.test_dataloader()
    scores, again = (
        torch.cat(make_trainer(tmp_path, callbacks=[], logger=False).predict(model, given))
        for _ in range(2)
    )
    assert scores.shape == (20, 10)
    assert scores.isfinite().all()
    assert torch.equal(scores, again)
    if (name, place) == ("pattern", "data module"):
        items = data.datasets["test"]
        with torch.no_grad():
            alone = torch.cat([model.eval()(collate([items[i]])) for i in range(len(items))])
        torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-5)


def test_predict_of_graph_tasks(tmp_path, make_trainer):
    setting = Setting(steps=2, batch_size=2, channels=8, num_clusters=3, test_graphs=4)
    model = GraphClassifier("partners", "gps-sbm", asdict(setting))
    data = GraphDataModule("partners", setting)
    scores = make_trainer(tmp_path, callbacks=[], logger=False).predict(model, data)
    labels = [batch.y for batch in data.test_dataloader()]
    assert [len(score) for score in scores] == [len(label) for label in labels]
    assert all(score.isfinite().all() for score in scores)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_pure_precisions_of_graph_tasks(tmp_path, make_trainer, precision):
    setting = Setting(steps=2, batch_size=2, channels=8, num_clusters=3, test_graphs=2)
    model = GraphClassifier("partners", "gps-sbm", asdict(setting))
    options = {"callbacks": [], "logger": False, "enable_checkpointing": False}
    trainer = make_trainer(tmp_path, precision=precision, max_steps=2, **options)
    data = GraphDataModule("partners", setting)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    assert all(weight.isfinite().all() for weight in model.parameters())
