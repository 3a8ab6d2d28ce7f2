"""Every Triton kernel of the package compiled for an H100, which need not be there.

The host code of the kernels runs on small CPU tensors up to each launch, which compiles instead: so
tile sizes, types and specialisations are those that a GPU would get. ``ptxas`` then tells registers
and stack, and the assembly how often registers are spilled::

    python benchmarks/sm90.py            # writes benchmarks/SM90.md
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

REGISTERS, REGISTER_STEP, SHARED, WARPS, PROGRAMS = 65536, 256, 228 * 1024, 64, 32
"""What a multiprocessor of an H100 has: registers (given out to warps in steps), bytes of shared
memory, warps and programs at once."""


class _Driver:
    """What Triton asks of a GPU's driver before it launches."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@dataclass(frozen=True)
class Compiled:
    """What one launch would run, and what it takes.

    Attributes:
        name: Name of the kernel.
        warps: Warps of a program.
        registers: Registers of a thread.
        stack: Bytes of stack of a thread.
        spills: Instructions that store registers to local memory or load them from there.
        shared: Bytes of shared memory of a program.
        instructions: Instructions in all.
    """

    name: str
    warps: int
    registers: int
    stack: int
    spills: int
    shared: int
    instructions: int

    @property
    def occupancy(self) -> float:
        """The share of a multiprocessor's warps that can be active at once."""
        steps = -(-self.registers * 32 // REGISTER_STEP)
        by_registers = REGISTERS // (steps * REGISTER_STEP) // self.warps
        by_shared = SHARED // (self.shared + 1024)
        return min(by_registers, by_shared, WARPS // self.warps, PROGRAMS) * self.warps / WARPS


@contextmanager
def launches(compiles: bool = True) -> Iterator[list[Any]]:
    """Collects what the launches in its body would run on an H100, and runs nothing.

    Args:
        compiles: Whether to compile them to :class:`Compiled`; if not, the names of the kernels
            that would be compiled are collected, one for each new specialisation.
    """
    found: list[Any] = []
    run = JITFunction.run

    def compile_instead(
        self: JITFunction, *args: Any, grid: Any, warmup: bool, **meta: Any
    ) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **meta)
        if kernel is not None:
            found.append(_read(kernel))

    def note_instead(self: JITFunction, key: str, *args: Any, **kwargs: Any) -> None:
        specialisation = (self.__name__, key)
        if specialisation not in found:
            found.append(specialisation)

    active = driver._active
    driver.set_active(_Driver())
    try:
        with (
            mock.patch.object(JITFunction, "run", compile_instead),
            mock.patch.object(
                JITFunction, "_do_compile", JITFunction._do_compile if compiles else note_instead
            ),
        ):
            yield found
    finally:
        driver._active = active


def _read(kernel: Any) -> Compiled:
    usage, assembly = (_cuobjdump(kernel.asm["cubin"], x) for x in ("-res-usage", "-sass"))
    registers, stack = (int(re.search(rf"{x}:(\d+)", usage)[1]) for x in ("REG", "STACK"))
    return Compiled(
        kernel.metadata.name,
        kernel.metadata.num_warps,
        registers,
        stack,
        len(re.findall(r"\b(?:LDL|STL)\b", assembly)),
        kernel.metadata.shared,
        len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", assembly, re.MULTILINE)),
    )


def _cuobjdump(cubin: bytes, what: str) -> str:
    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [program, what, file.name], capture_output=True, text=True, check=True
        ).stdout
