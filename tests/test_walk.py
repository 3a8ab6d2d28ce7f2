"""The walks of a forward pass that docs/architecture.md describes, compared with a trace of one."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import sbmgraph
from sbmgraph.nn import SBMConv

ROOT = f"{Path(sbmgraph.__file__).parent}/"
PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
WALKS = {
    name: re.split(r",\s+", files)
    for name, files in re.findall(r"^(query|sbm): +((?:.*,\n +)*.*)$", PAGE, re.M)
}


class Trace:
    """Which files a call enters from which, and the files on the stack at each first entry."""

    def __init__(self) -> None:
        self.entries: Counter[str] = Counter()
        self.stacks: dict[str, list[str]] = {}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(ROOT):
            return
        stack = []
        above: FrameType | None = frame
        while above is not None:
            file = above.f_code.co_filename
            if file.startswith(ROOT) and (not stack or stack[-1] != file.removeprefix(ROOT)):
                stack.append(file.removeprefix(ROOT))
            above = above.f_back
        here = name.removeprefix(ROOT)
        before = frame.f_back
        while before is not None and not before.f_code.co_filename.startswith(ROOT):
            before = before.f_back
        if before is None or before.f_code.co_filename != name:
            self.entries[here] += 1
        if frame.f_code.co_name in ("forward", "sample"):
            self.stacks.setdefault(here, stack[::-1])


def forward_pass(backend: str, algorithm: str) -> Trace:
    layer = SBMConv(8, 8, heads=2, num_clusters=4, backend=backend, algorithm=algorithm)
    x, batch = torch.randn(40, 8), torch.arange(40) // 20
    layer(x, batch)  # whatever is asked once
    trace = Trace()
    sys.setprofile(trace)
    try:
        layer(x, batch)
    finally:
        sys.setprofile(None)
    return trace


@pytest.mark.parametrize(
    ("backend", "algorithm", "layouts"),
    [("fused", "fastrg", ("attention", "fastrg")), ("tile", "dense", ("tile", "dense"))],
)
def test_no_file_stands_twice_on_the_walks(
    backend: str, algorithm: str, layouts: tuple[str, str]
) -> None:
    trace = forward_pass(backend, algorithm)
    for name, former, kernels in zip(
        ("query", "sbm"), ("attention", "fastrg"), layouts, strict=True
    ):
        walk = [file.replace(f"kernels/{former}/", f"kernels/{kernels}/") for file in WALKS[name]]
        assert len(set(walk)) == len(walk)
        assert trace.stacks[walk[-1]] == walk
        above = [file for file in walk if not file.startswith("kernels/")]
        assert {file: trace.entries[file] for file in above} == dict.fromkeys(above, 1)


def test_helpers_beside_the_walk_are_those_named() -> None:
    sentence = re.search(r"Beside the walks stand helpers(.*?)\n\n", PAGE, re.S)
    assert sentence is not None
    named = set(re.findall(r"`([\w/]+\.py)`", sentence[1]))
    entered = {file for file in forward_pass("fused", "fastrg").entries if "kernels" not in file}
    assert named == entered - {file for walk in WALKS.values() for file in walk}
