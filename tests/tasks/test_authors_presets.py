"""The authors' variant of every preset: each difference is set, and the model takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from sbmgraph.training import SequenceClassifier

CONFIGS = Path(__file__).parents[2] / "tasks" / "configs"
TASKS = ("listops", "text", "retrieval", "image", "pathfinder32")


def load(name: str) -> dict:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


@pytest.mark.parametrize("task", TASKS)
def test_only_the_named_differences(task: str) -> None:
    """Data, sizes, rates and steps are those of our preset."""
    ours, theirs = load(task), load(f"{task}_authors")
    differences = {"hide_zeros": True, "drop_last_test": True}
    if task == "text":
        differences["validate_on_test"] = True
    assert theirs["data"] == ours["data"] | differences
    assert theirs["trainer"] == ours["trainer"]
    for key in ("lr", "warmup_steps", "classifier_channels"):
        assert theirs["model"][key] == ours["model"][key]


@pytest.mark.parametrize("task", TASKS)
def test_the_model_is_theirs(task: str) -> None:
    model = load(f"{task}_authors")["model"]
    torch.manual_seed(0)
    module = SequenceClassifier(
        task=task,
        vocab_size=40,
        num_classes=2,
        max_length=model["padded_length"],
        num_documents=2 if task == "retrieval" else 1,
        **model,
    )
    config = module.model.config
    assert (config.pooling, config.padded_length) == ("padded_mean", model["padded_length"])
    assert config.classifier_channels == 128
    embedding = next(m for m in module.modules() if isinstance(m, torch.nn.Embedding))
    assert embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)
    heads = [m for m in module.modules() if type(m).__name__ == "SBMHeads"]
    assert len(heads) == config.num_layers
    for layer in heads:
        assert layer.options.estimator == "mask"
        assert layer.options.cluster_init == "authors"
        assert layer.options.explore_in_evaluation
    assert module.hparams["schedule"] == "one_cycle_momentum"
    assert module.hparams["density"]["penalty"] == "sampled"
