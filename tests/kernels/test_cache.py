"""Numba's cache on disk: damage, a full disk and changed primitives cost a compilation at most."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sbmgraph.kernels._numba import jit

SCRIPT = """
import sys, warnings
import numpy as np
from sbmgraph.kernels._numba.jit import jit
sys.path.insert(0, {folder!r})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from kernel import double
    out = double(np.arange(3.0))
assert out.tolist() == [0.0, 2.0, 4.0]
warned = [w for w in caught if w.category is RuntimeWarning]
print(len(warned), sum(double.stats.cache_hits.values()))
"""

KERNEL = """
from sbmgraph.kernels._numba.jit import jit

@jit
def double(x):
    return x + x
"""


def run(folder: Path, prelude: str = "") -> tuple[int, int]:
    """The warnings and the cache hits of a process that calls the kernel."""
    (folder / "kernel.py").write_text(KERNEL)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    out = subprocess.run(
        [sys.executable, "-c", prelude + SCRIPT.format(folder=str(folder))],
        capture_output=True, text=True, timeout=300, check=False, env=environment,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-3000:]
    warned, hits = out.stdout.split()
    return int(warned), int(hits)


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        pytest.param("nbi", "truncated", marks=pytest.mark.slow),
        ("nbc", "garbage"),
        pytest.param("nbc", "empty", marks=pytest.mark.slow),
    ],
)
def test_damaged_entries_are_compiled_anew(tmp_path: Path, suffix: str, damage: str) -> None:
    assert run(tmp_path) == (0, 0)
    assert run(tmp_path) == (0, 1)
    (file,) = (tmp_path / "cache").rglob(f"*.{suffix}")
    whole = file.read_bytes()
    broken = {"truncated": whole[: len(whole) // 2], "empty": b"", "garbage": b"\x80garbage" * 9}
    file.write_bytes(broken[damage])
    warned, hits = run(tmp_path)
    assert hits == 0
    assert warned <= 1
    assert run(tmp_path) == (0, 1)


FULL = """
import numba.core.caching as caching
def full(self, *args): raise OSError(28, "No space left on device")
caching.IndexDataCacheFile.save = full
"""


def test_a_full_disk_stops_no_step(tmp_path: Path) -> None:
    assert run(tmp_path, FULL) == (1, 0)


def test_the_stamp_covers_every_compiled_function_of_the_kernels() -> None:
    kernels = Path(jit.__file__).parents[1]
    decorated = re.compile(r"^@(jit|inline)\b", re.MULTILINE)
    compiled = {path for path in kernels.rglob("*.py") if decorated.search(path.read_text())}
    assert len(compiled) > 10
    assert compiled <= set(jit.inlined_files())


@pytest.mark.slow
def test_code_is_compiled_anew_where_primitives_changed(tmp_path: Path) -> None:
    change = "import sbmgraph.kernels._numba.jit as m\nm.STAMP = 'other'\n"
    run(tmp_path)
    assert run(tmp_path, change) == (0, 0)
    assert run(tmp_path, change) == (0, 1)
