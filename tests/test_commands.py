"""Every command of README and documentation that is marked runs, in order, in a fresh clone.

A block of shell commands is marked by a comment before it, ``<!-- run -->``. The comment may hold
lines ``text => other text``, which make what takes long on the page short here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/install.md",
    "docs/first_steps.md",
    "docs/guides/training.md",
    "docs/guides/density.md",
    "docs/guides/logging.md",
    "docs/guides/huggingface.md",
    "docs/guides/many_gpus.md",
    "docs/lra.md",
)
MARKED = re.compile(r"<!-- run\b(.*?)-->\n```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
# The installed packages stand for those that make would install.
INSTALLED = "make -o .venv/.train -o .venv/.dev "
START = """set -eux
sbmgraph() { python -m sbmgraph "$@"; }
"""


def script(text: str) -> str:
    """The marked commands of a page, in their short form."""
    blocks = []
    for changes, block in MARKED.findall(text):
        for change in filter(None, map(str.strip, changes.splitlines())):
            long, short = change.split(" => ")
            assert long in block, f"no {long!r} to shorten in {block!r}"
            block = block.replace(long, short)
        blocks.append(re.sub(r"^make ", INSTALLED, block, flags=re.MULTILINE))
    return "\n".join(blocks)


def test_every_page_has_commands() -> None:
    for page in PAGES:
        assert script((ROOT / page).read_text()), page


def test_a_page_that_is_not_run_has_no_marks() -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        name = path.relative_to(ROOT).as_posix()
        if not {"generated", "_build"} & set(path.parts) and name not in PAGES:
            assert "<!-- run" not in path.read_text(), name


def test_every_command_is_run_but_those_that_install() -> None:
    """pip and conda would change the environment that the tests run in."""
    left_out = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        if {"generated", "_build"} & set(path.parts):
            continue
        text = MARKED.sub("", path.read_text())
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            lines = block.splitlines()
            left_out += [line for line in lines if not re.match(r"(pip install|conda) ", line)]
    assert not left_out


def clone(folder: Path) -> None:
    """What a clone of this state of the repository would hold, and an environment."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a clone of the repository")
    for name in filter(None, listing.stdout.split("\0")):
        source = ROOT / name
        if source.is_symlink() or source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name, follow_symlinks=False)
    (folder / ".venv").symlink_to(sys.prefix)


def language_data(folder: Path) -> None:
    """What the pages on language ask the reader to have: text, two tables of GLUE, an encoder."""
    transformers = pytest.importorskip("transformers")
    from sbmgraph.data import train_tokenizer

    text = folder / "data" / "text" / "a.txt"
    text.parent.mkdir(parents=True)
    text.write_text("the cat sat on the old mat and the dog sat on a green log\n" * 300)
    labels = {"SST-2": ("0", "1"), "STS-B": ("1.5", "4.0")}
    for name, header in (("SST-2", "sentence\tlabel"), ("STS-B", "sentence1\tsentence2\tscore")):
        (folder / "data" / "glue" / name).mkdir(parents=True)
        for split, count in (("train", 40), ("dev", 8)):
            rows = [
                "\t".join([*["a cat on a mat"] * header.count("\t"), labels[name][n % 2]])
                for n in range(count)
            ]
            path = folder / "data" / "glue" / name / f"{split}.tsv"
            path.write_text("\n".join([header, *rows, ""]))
    (folder / "ENCODER").mkdir()
    tokenizer = train_tokenizer([text], 280)
    tokenizer.save(folder / "ENCODER" / "tokenizer.json")
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=32,
    )
    transformers.BertModel(config).save_pretrained(folder / "ENCODER")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_commands_run_in_order(tmp_path: Path) -> None:
    for module in ("lightning", "matplotlib", "entmax"):
        pytest.importorskip(module)
    if not (Path(sys.prefix) / "bin" / "activate").is_file():
        pytest.skip("needs a virtual environment to activate")
    clone(tmp_path)
    language_data(tmp_path)
    commands = START + "\n".join(script((ROOT / page).read_text()) for page in PAGES)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["bash", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "accuracy" in done.stdout
    assert (tmp_path / "runs" / "listops_sparse" / "sbm" / "seed1" / "report.html").is_file()
