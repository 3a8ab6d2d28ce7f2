"""Where Triton kernels run in the tests: on a GPU if there is one, and in Triton's interpreter.

Triton decides at its import whether to interpret, so interpreted tests need a process of their own:
a test module's kernel tests are skipped without a GPU, and one more test runs the module again,
interpreted, on CPU tensors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


def kernel_test(function: Callable) -> Callable:
    """Marks a test of Triton kernels."""
    skip = pytest.mark.skipif(
        not INTERPRETED and not torch.cuda.is_available(),
        reason="no CUDA device; the module's test_in_tritons_interpreter runs this one",
    )
    return pytest.mark.gpu(skip(function))


def run_interpreted(module: str, marks: str = "") -> None:
    """Runs the kernel tests of a test module, those with ``marks``, in Triton's interpreter."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, module, "-m", marks],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    summary = run.stdout.strip().splitlines()[-1]
    assert "passed" in summary, summary
    assert "skipped" not in summary, summary


def compile_for_hopper(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], num_warps: int
) -> str:
    """PTX of a kernel that also assembles for an H100, for which no GPU is needed.

    Pointers and the integers whose type ends in ``":16"`` are multiples of 16; arguments named
    neither in ``types`` nor in ``constants`` are None.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    types = {name: types[name] for name in names if name in types and name not in constants}
    aligned = [name for name, kind in types.items() if kind[0] == "*" or kind.endswith(":16")]
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr").removesuffix(":16") for name in names},
        constexprs={
            (position,): constants.get(name)
            for position, name in enumerate(names)
            if name not in types
        },
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    target = GPUTarget("cuda", 90, 32)
    options = {"num_warps": num_warps, "enable_fp_fusion": True}
    return triton.compile(source, target=target, options=options).asm["ptx"]
