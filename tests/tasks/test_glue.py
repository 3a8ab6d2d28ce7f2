"""Pre-training and fine-tuning through the command line, on texts and tables of a few lines."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

pytest.importorskip("tokenizers")

from sbmgraph.cli.glue import main
from sbmgraph.data import GLUE_TASKS, Sequence, collate, train_tokenizer
from sbmgraph.data.glue import glue_file
from sbmgraph.nn.models import MODELS
from sbmgraph.training.pretraining import MaskedLanguageModel
from tests.data.test_glue import HEADERS

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "on", "in", "mat", "log", "tree", "old", "green"]
SIZES = {
    "channels": 8,
    "heads": 2,
    "num_layers": 1,
    "ffn_channels": 8,
    "options": {"sbm": {"num_clusters": 4}},
}
TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}
PRETRAIN = {
    "name": "pre",
    "data": {
        "task": "masked_text",
        "batch_size": 4,
        "round_steps": 2,
        "options": {"vocab_size": 280, "length": 12, "validation_every": 8},
    },
    "model": SIZES | {"warmup_share": 0.2},
    "trainer": TRAINER | {"max_steps": 6},
}
FINETUNE = {
    "name": "tune",
    "data": {"task": "glue", "batch_size": 4, "options": {"max_length": 12}},
    "model": SIZES,
    "trainer": TRAINER | {"max_epochs": 2},
}


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(2, 7)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, and twelve training and five development rows of every task."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    (folder / "text").mkdir()
    (folder / "text" / "a.txt").write_text("".join(f"{sentence(rng)}\n" for _ in range(300)))
    for task, spec in GLUE_TASKS.items():
        columns = HEADERS.get(task, "source\tlabel\tmark\tsentence").split("\t")
        for split, count in (("train", 12), ("dev", 5)):
            lines = [HEADERS[task]] if task in HEADERS else []
            for number in range(count):
                row = dict.fromkeys(columns, "0") | {t: sentence(rng) for t in spec.texts}
                labels = spec.labels or ("1.5", "4.0", "2.2")
                row[spec.label] = labels[number % len(labels)]
                lines.append("\t".join(row[column] for column in columns))
            path = glue_file(folder, task, split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([*lines, ""]))
    return folder


@pytest.fixture(scope="module")
def pretrained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pre-training."""
    runs = tmp_path_factory.mktemp("pretrained")
    assert run("pretrain", PRETRAIN, runs, root) == 0
    return runs / "pre" / "sbm" / "seed1"


def run(command: str, config: dict, runs: Path, root: Path, *arguments: str) -> int:
    runs.mkdir(exist_ok=True, parents=True)
    path = runs / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    places = ["--config", str(path), "--runs", str(runs), "--data.root", str(root)]
    return main([command, *places, *arguments])


def small_model(name: str = "sbm", **options: object) -> MaskedLanguageModel:
    torch.manual_seed(0)
    settings = {**SIZES, "dropout": 0.0, "probability": 0.3, **options}
    return MaskedLanguageModel(
        mask=4, special=[0, 1, 2, 3], task="masked_text", vocab_size=40, max_length=16, name=name,
        **settings,
    )  # fmt: skip


def batch(count: int = 3):
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(5, 40, (16,), generator=generator) for _ in range(count)]
    return collate([Sequence([tokens], 0) for tokens in documents])


def test_the_loss_on_hidden_tokens_alone_is_that_of_all_tokens() -> None:
    """The independent truth: scores of all tokens, and -100 where nothing was hidden."""
    model = small_model("full").double()
    model._log = lambda *_, **__: None  # no trainer
    tokens = batch()
    torch.manual_seed(7)
    sparse = model._evaluate(tokens, "train")
    gradients = torch.autograd.grad(sparse, list(model.model.parameters()), allow_unused=True)

    torch.manual_seed(7)
    masked = model.hide(tokens.tokens)
    assert 5 < len(masked.positions) < len(tokens.tokens)
    scores = model.model(masked.tokens, tokens.batch, position=tokens.positions)
    targets = torch.full_like(tokens.tokens, -100)
    targets[masked.positions] = masked.targets
    dense = F.cross_entropy(scores, targets, ignore_index=-100)
    assert sparse.item() == pytest.approx(dense.item(), abs=1e-12)
    expected = torch.autograd.grad(dense, list(model.model.parameters()), allow_unused=True)
    for mine, theirs in zip(gradients, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-9)


def test_nothing_hidden_is_a_loss_of_zero() -> None:
    model = small_model(probability=1e-9)
    model._log = lambda *_, **__: None
    assert model._evaluate(batch(), "train").item() == 0.0


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_pretrained(name: str) -> None:
    model = small_model(name)
    model._log = lambda *_, **__: None
    loss = model._evaluate(batch(), "train")
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert float(model.model.token_embedding.weight.grad.abs().sum()) > 0


def test_pretraining_leaves_a_run(pretrained: Path) -> None:
    summary = json.loads((pretrained / "summary.json").read_text())
    assert summary["perplexity"] == pytest.approx(math.exp(summary["loss"]))
    assert 1 < summary["perplexity"] < 400
    assert summary["steps"] == 6
    assert 0 < summary["mean_density"] < 1
    assert (pretrained / "tokenizer.json").is_file()
    assert "train/expected_density/layer0/head1" in (pretrained / "metrics.csv").read_text()


def test_pretraining_goes_on_exactly(
    pretrained: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends in its fifth step and goes on is the one that never ended, bit for bit."""
    start = MaskedLanguageModel.on_train_batch_start

    def fail(self: MaskedLanguageModel, *args: object) -> None:
        if self.global_step == 4:
            raise RuntimeError("power cut")
        start(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(MaskedLanguageModel, "on_train_batch_start", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            run("pretrain", PRETRAIN, tmp_path, root)
    assert run("pretrain", PRETRAIN, tmp_path, root, "--ckpt_path", "last") == 0
    folder = tmp_path / "pre" / "sbm" / "seed1"
    assert (folder / "metrics.csv").read_text() == (pretrained / "metrics.csv").read_text()
    states = [
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for path in (folder, pretrained)
    ]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    summaries = [json.loads((p / "summary.json").read_text()) for p in (folder, pretrained)]
    assert summaries[0]["perplexity"] == summaries[1]["perplexity"]


def test_finetuning_from_a_pretrained_model_and_from_nothing(
    pretrained: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tasks = ["--tasks", "[cola,stsb,mnli]"]
    start = ["--model.pretrained", str(pretrained)]
    assert run("finetune", FINETUNE, tmp_path, root, *tasks, *start) == 0
    whole = tmp_path / "tune"
    paths = sorted(path.relative_to(whole) for path in whole.rglob("summary.json"))
    assert [str(path.parent) for path in paths] == [
        f"{t}/sbm/seed1" for t in ("cola", "mnli", "stsb")
    ]
    for path in paths:
        summary = json.loads((whole / path).read_text())
        task = summary["glue_task"]
        assert set(summary["scores"]) == {*GLUE_TASKS[task].metrics, "score"}
        assert all(-1 <= score <= 1 for score in summary["scores"].values())
        assert summary["steps"] == 6  # two passes over three batches of four
        assert summary["pretrained"] == "seed1"
    options = ["--data.options.tokenizer", str(pretrained / "tokenizer.json")]
    from_nothing = ["--tasks", "[rte]", *options, "--name", "alone"]
    assert run("finetune", FINETUNE, tmp_path, root, *from_nothing) == 0
    capsys.readouterr()
    assert main(["results", str(tmp_path), str(pretrained)]) == 0
    table = capsys.readouterr().out
    assert "| sbm | nothing | 1 | – | – | – |" in table
    assert "| sbm | seed1 | 1 |" in table
    assert "perplexity" in table
    assert "| cola | stsb | mnli | rte | mean |" in table


def test_the_pretrained_encoder_is_taken_over(pretrained: Path, root: Path, tmp_path: Path) -> None:
    frozen = {**FINETUNE, "model": {**SIZES, "lr": 1e-30}}
    arguments = ["--tasks", "[sst2]", "--model.pretrained", str(pretrained)]
    assert run("finetune", frozen, tmp_path, root, *arguments) == 0
    path = tmp_path / "tune" / "sst2" / "sbm" / "seed1" / "checkpoints" / "last.ckpt"
    mine, theirs = (
        torch.load(p, weights_only=True)["state_dict"]
        for p in (path, pretrained / "checkpoints" / "last.ckpt")
    )
    shared = [key for key in mine if key.startswith(("model.layers", "model.token", "model.norm"))]
    assert len(shared) > 10
    for key in shared:
        torch.testing.assert_close(mine[key], theirs[key])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.channels", "16"], "expected a model with channels = 16 like the one to train"),
        (["--model.num_layers", "2"], "expected a model with num_layers = 2"),
        (["--model.name", "full"], "expected a model with name = 'full'"),
        (["--data.options.max_length", "13"], "of at least max_length = 13 tokens, got 12"),
        (['--model.options={"sbm": {"num_clusters": 5}}'], "a model with the same options"),
        (["--model.pretrained", "nowhere"], "nowhere: expected a checkpoint of pre-training"),
        (["--tasks", "[squad]"], "tasks: expected any of cola, sst2"),
        (["--data.options.tokenizer", "nowhere"], "nowhere: expected a tokenizer.json"),
    ],
)  # fmt: skip
def test_bad_starts(
    pretrained: Path,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    start = ["--tasks", "[sst2]", "--model.pretrained", str(pretrained)]
    assert run("finetune", FINETUNE, tmp_path, root, *start, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_checkpoint_and_another_vocabulary(
    pretrained: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(b"PK nothing")
    tokenizer = ["--data.options.tokenizer", str(pretrained / "tokenizer.json")]
    start = ["--tasks", "[sst2]", *tokenizer, "--model.pretrained", str(damaged)]
    assert run("finetune", FINETUNE, tmp_path, root, *start) == 2
    assert "damaged.ckpt: expected" in capsys.readouterr().err
    other = tmp_path / "other.json"
    train_tokenizer([root / "text" / "a.txt"], 270).save(other)
    start = ["--tasks", "[sst2]", "--data.options.tokenizer", str(other)]
    start += ["--model.pretrained", str(pretrained)]
    assert run("finetune", FINETUNE, tmp_path, root, *start) == 2
    assert "expected a model with vocab_size = 270" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["strategy", "ddp_spawn"], "trainer.strategy: expected a strategy whose processes"),
        (["fast_dev_run", "true"], "trainer.fast_dev_run: expected false"),
        (["limit_test_batches", "0"], "trainer.limit_test_batches: expected at least one batch"),
        (["max_steps", "-1"], "trainer.max_steps: expected a number of steps, got -1"),
        (["max_steps", "0"], "trainer.max_steps: expected at least one step"),
        (["accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches: expected at least"),
        (["devices", "0"], "trainer: expected what Lightning can run on"),
    ],
)  # fmt: skip
def test_the_trainer_is_checked_before_data_and_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture, command: str, flags: list[str], message: str
) -> None:
    config = PRETRAIN if command == "pretrain" else FINETUNE
    places = ["--data.root", str(tmp_path / "data")]
    arguments = [f"--trainer.{flags[0]}", flags[1], *places]
    if flags[0] == "max_steps":
        arguments += ["--trainer.max_epochs", "-1"] if flags[1] == "-1" else []
    assert run(command, config, tmp_path, tmp_path / "data", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "runs").exists()


def test_other_bad_commands(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert main(["results", str(tmp_path)]) == 2
    assert "expected finished runs of pretrain or finetune, found none" in capsys.readouterr().err
    short = {**PRETRAIN, "data": {**PRETRAIN["data"], "options": {"length": 5000}}}
    assert run("pretrain", short, tmp_path, root) == 2
    assert "expected text for at least 1 sequences" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pretrain", "pretrain_quick", "finetune", "finetune_quick"])
def test_configurations_parse(name: str) -> None:
    from sbmgraph.training.language_cli import FinetuneCLI, PretrainCLI

    path = Path(__file__).parents[2] / "tasks" / "configs" / f"glue_{name}.yaml"
    kind = PretrainCLI if name.startswith("pretrain") else FinetuneCLI
    arguments = ["--config", str(path)]
    if kind is FinetuneCLI:
        arguments.append("--data.options.name=cola")
    config = kind(arguments, build=False).config
    sizes = (config.model.num_layers, config.model.heads, config.model.channels)
    assert sizes == ((4, 4, 128) if name.endswith("quick") else (4, 8, 512))
