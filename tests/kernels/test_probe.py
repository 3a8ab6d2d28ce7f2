"""Whether kernels work is found out once, whatever mode the first call is made in."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sbmgraph.kernels.probe import Probe

MODES = {
    "fake": "from torch._subclasses import FakeTensorMode\nwith FakeTensorMode(): call()",
    "meta": "torch.set_default_device('meta')\ncall()\ntorch.set_default_device('cpu')",
    "inference": "with torch.inference_mode(): call()",
    "transform": "torch.func.grad(lambda x: (call(), x)[1])(torch.tensor(1.0))",
    "deterministic": "torch.use_deterministic_algorithms(True)\ncall()",
}

SCRIPT = """
import warnings
warnings.simplefilter("error", RuntimeWarning)
import torch
from sbmgraph.kernels.attention import operator
from sbmgraph.kernels.transpose import operator as transpose
def call():
    return operator.is_available("cpu"), transpose.PROBE.works("cpu")
{mode}
assert call() == (True, True)
print("fine")
"""


OFTEN = ("fake", "transform")
"""Modes that the default tests start a process for."""


@pytest.mark.parametrize(
    "mode", [m if m in OFTEN else pytest.param(m, marks=pytest.mark.slow) for m in MODES]
)
def test_no_mode_spoils_the_first_question(mode: str) -> None:
    script = SCRIPT.format(mode=MODES[mode])
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert out.stdout.strip() == "fine", out.stderr[-2000:]


def test_it_is_asked_once() -> None:
    asked = []
    probe = Probe("thing", asked.append)
    assert probe.works("cpu")
    assert probe.works("cpu")
    assert asked == [torch.device("cpu")]
    assert not probe.works("mps")
    probe.require("backend", "fused", "cpu")
    with pytest.raises(ValueError, match=r"'backend' must be .*'mps' has none"):
        probe.require("backend", "fused", "mps")


def test_a_failure_says_its_cause() -> None:
    def attempt(device: torch.device) -> None:
        raise OSError("no room")

    probe = Probe("thing", attempt)
    with pytest.warns(RuntimeWarning, match="thing kernels for cpu do not work .OSError: no room"):
        assert not probe.works("cpu")
    with pytest.raises(ValueError, match="no room"):
        probe.require("backend", "fused", "cpu")
