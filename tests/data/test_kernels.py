"""The compiled loops of the generators, where Numba's cache on disk is of no use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sbmgraph.data import _listops_kernels, _pathfinder_kernels
from sbmgraph.kernels._numba.jit import _SafeCache

EVALUATE = "from sbmgraph.data.listops import evaluate; print(evaluate([11, 3, 5, 15]))"


@pytest.mark.parametrize("module", [_listops_kernels, _pathfinder_kernels])
def test_every_kernel_has_the_shared_decorator(module):
    kernels = [value for value in vars(module).values() if hasattr(value, "py_func")]
    assert len(kernels) > 3
    for kernel in kernels:
        assert isinstance(kernel._cache, _SafeCache), kernel
        assert kernel.targetoptions["nogil"]


@pytest.mark.slow
def test_a_damaged_cache_costs_a_compilation_only(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    def run() -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", EVALUATE], capture_output=True, text=True)

    assert run().stdout == "2\n"
    entries = list(tmp_path.rglob("*.nb?"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:7])
    done = run()
    assert done.stdout == "2\n", done.stderr
    assert "could not be read" in done.stderr


@pytest.mark.slow
def test_an_unwritable_cache_costs_a_compilation_only():
    nowhere = "from numba.core.caching import CacheImpl; CacheImpl._locator_classes = []; "
    code = nowhere + EVALUATE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr
    assert "could not be written" in done.stderr
