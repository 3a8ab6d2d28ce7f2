"""Export as safetensors and JSON: the same scores back, and what goes wrong said."""

import json

import pytest
import torch

from sbmgraph.training import DensityConfig, export_model, load_model


@pytest.mark.parametrize("name", ["sbm", "full"])
def test_an_exported_model_gives_the_same_scores(data, tmp_path, make_model, name):
    model = make_model(data, name, density=DensityConfig(target=0.2)).eval()
    folder = export_model(model, tmp_path / "exported")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    loaded = load_model(folder)
    assert not loaded.training
    assert dict(loaded.hparams) == dict(model.hparams)
    batch = next(iter(data.val_dataloader()))
    scores = []
    for each in (model, loaded):
        torch.manual_seed(0)
        with torch.no_grad():
            scores.append(each(batch))
    assert torch.equal(*scores)


def test_files_that_do_not_fit(data, tmp_path, make_model):
    folder = export_model(make_model(data, "full"), tmp_path / "a")
    other = export_model(make_model(data, "full", channels=16), tmp_path / "b")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"model\.safetensors: expected the weights that config"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match=r"model\.safetensors: expected a whole safetensors file"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: expected the model's weights"):
        load_model(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["hyper_parameters"]
    for text in ("{", json.dumps({"format": "another"}), json.dumps(config)):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json: expected"):
            load_model(folder)
    with pytest.raises(ValueError, match=r"config\.json: expected an exported model"):
        load_model(tmp_path / "none")
