"""Validating before training, and Lightning's pure precisions."""

import lightning as L
import pytest
import torch

from sbmgraph.nn.models import MODELS


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
