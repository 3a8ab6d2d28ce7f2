"""environment.yml and pyproject.toml speak of the same packages at the same versions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {
    "torch": "pytorch",
    "torch-geometric": "pytorch_geometric",
    "torch-scatter": "pytorch_scatter",
    "torch-sparse": "pytorch_sparse",
    "matplotlib": "matplotlib-base",
}
NOT_IN_CONDA = {"triton"}  # part of conda-forge's CUDA builds of pytorch


def pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def split(requirement: str) -> tuple[str, str]:
    match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*([^;\s]*)", requirement)
    assert match is not None
    return match.group(1), match.group(2)


def conda() -> dict[str, str]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    names = [entry for entry in entries if isinstance(entry, str)] + pip
    return dict(split(name) for name in names)


def test_every_dependency_is_in_both() -> None:
    project = pyproject()
    required = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        if extra != "dev":
            required += requirements
    expected = {
        CONDA_NAMES.get(name, name): version
        for name, version in map(split, required)
        if name not in NOT_IN_CONDA
    }
    expected |= {"python": project["requires-python"], "pip": ""}
    assert conda() == expected


def test_dev_extra_holds_all_other_extras_but_the_compiled_ones() -> None:
    extras = pyproject()["optional-dependencies"]
    listed = re.search(r"\[(.*)\]", extras["dev"][0])
    assert listed is not None
    assert set(listed.group(1).split(",")) == set(extras) - {"dev", "ext"}


def test_constraints_fit_the_package() -> None:
    from packaging.requirements import Requirement

    project = pyproject()
    required = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    ranges = {Requirement(r).name: Requirement(r).specifier for r in required}
    pins = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert pins
    for pin in pins:
        version = str(pin.specifier).removeprefix("==")
        assert ranges[pin.name].contains(version), pin
