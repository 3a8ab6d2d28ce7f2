"""The command ``sbmgraph`` itself, and the scripts beside it."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning")

from sbmgraph import __main__ as program

SCRIPTS = Path(__file__).parents[2] / "tasks"


def imported(script: Path) -> str:
    """The module whose ``main`` a script calls."""
    [module] = [
        node.module
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sbmgraph")
    ]
    return module


def test_every_script_is_a_command_and_thin() -> None:
    scripts = {path.stem: imported(path) for path in SCRIPTS.glob("*.py")}
    assert scripts == {name: command.module for name, command in program.COMMANDS.items()}
    for path in SCRIPTS.glob("*.py"):
        defined = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)
        ]
        assert not defined, path.name


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name, command in program.COMMANDS.items():
        assert f"  {name} " in listed
        assert command.text in listed
    assert program.main([]) == 2
    assert program.main(["nonsense"]) == 2
    assert "usage: sbmgraph COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["glue", "sparsify", "lra"])
def test_a_missing_package_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError("No module named 'absent'", name="absent")

    monkeypatch.delenv("SBMGRAPH_TRACEBACK", raising=False)
    monkeypatch.setattr(importlib, "import_module", missing)
    assert program.main([name]) == 2
    said = capsys.readouterr().err
    extra = "train,viz,baselines" if name == "lra" else "train,viz,hf"
    assert f"expected the package 'absent', found none: pip install 'sbmgraph[{extra}]'" in said


def test_a_package_that_is_missing_only_while_a_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a cat\n" * 100)
    monkeypatch.delenv("SBMGRAPH_TRACEBACK", raising=False)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    arguments = ["--config", "glue_pretrain_quick", "--data.root", str(tmp_path)]
    assert program.main(["glue", "pretrain", *arguments, "--runs", str(tmp_path / "runs")]) == 2
    assert "expected the package 'tokenizers', found none" in capsys.readouterr().err


def test_presets_of_other_commands_are_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    for command, offered in (
        (["lra", "fit"], "listops_quick"),
        (["glue", "pretrain"], "glue_pretrain_quick"),
        (["glue", "finetune"], "sparsify"),
    ):
        with pytest.raises(SystemExit):
            program.main([*command, "--help"])
        [line] = [s for s in capsys.readouterr().out.splitlines() if s.startswith("presets")]
        known = line.partition(": ")[2].split(", ")
        assert offered in known
        assert ("listops" in known) == (command == ["lra", "fit"])
        assert ("glue_finetune" in known) == (command == ["glue", "finetune"])


@pytest.mark.parametrize("command", [["report"], ["graphs"], ["synthetic", "draw"], ["compare"]])
def test_help_says_what_a_command_does_and_no_more(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main([*command, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: sbmgraph {' '.join(command)}" in said
    for markup in ("Args:", "Raises:", "Returns:", "``", ":func:", ".py"):
        assert markup not in said, markup
