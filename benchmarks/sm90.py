"""Every Triton kernel of the package compiled for an H100, which need not be there.

The host code of the kernels runs on small CPU tensors up to each launch, which compiles instead: so
tile sizes, types and specialisations are those that a GPU would get. ``ptxas`` then tells registers
and stack, and the assembly how often registers are spilled::

    python benchmarks/sm90.py            # writes benchmarks/SM90.md

Sizes are those of the paper's runs on Long Range Arena, 2 heads of 32 channels and 128 clusters, in
both types that one trains in.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import triton
from torch import Tensor
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
        with ExitStack() as patches:
            patches.enter_context(mock.patch.object(JITFunction, "run", compile_instead))
            if not compiles:
                patches.enter_context(mock.patch.object(JITFunction, "_do_compile", note_instead))
            # What a kernel would have written must not be read as anything but a number.
            patches.enter_context(mock.patch.object(torch, "empty", torch.zeros))
            patches.enter_context(mock.patch.object(torch, "empty_like", torch.zeros_like))
            patches.enter_context(mock.patch.object(Tensor, "new_empty", Tensor.new_zeros))
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


# What is launched #################################################################################


@dataclass(frozen=True)
class Batch:
    """Inputs of the kernels' host code: graphs of ``lengths`` nodes with every edge."""

    lengths: Sequence[int] = (70, 33)
    dtype: torch.dtype = torch.bfloat16
    dropout: float = 0.1
    seed: int = 2**40 + 3
    heads: int = 2
    channels: int = 32
    clusters: int = 128

    @property
    def nodes(self) -> int:
        return sum(self.lengths)

    @property
    def ptr(self) -> Tensor:
        return torch.tensor([0, *self.lengths]).cumsum(0)

    def vertices(self, count: int) -> list[Tensor]:
        """Features [n, H, d]."""
        shape = (self.nodes, self.heads, self.channels)
        return [torch.zeros(shape, dtype=self.dtype) for _ in range(count)]

    def factors(self) -> Any:
        from sbmgraph.kernels.options import Factors

        return Factors(*(torch.zeros(self.nodes, self.heads, self.clusters) for _ in range(2)))

    def options(self) -> Any:
        from sbmgraph.kernels.options import Options

        return Options(self.channels**-0.5, self.dropout, self.seed, "logit")

    def bits(self) -> Any:
        from sbmgraph.kernels.bits import empty_bits

        return empty_bits(self.ptr, self.ptr, self.heads)

    def csr(self) -> Any:
        from sbmgraph.kernels.csr import CSR

        rowptr, col = [0], []
        for first, size in zip(self.ptr.tolist(), self.lengths, strict=False):
            for _ in range(size * self.heads):
                col.append(torch.arange(first, first + size, dtype=torch.int32))
                rowptr.append(rowptr[-1] + size)
        edges = torch.cat(col) if col else torch.zeros(0, dtype=torch.int32)
        return CSR(torch.tensor(rowptr), edges, self.ptr, self.ptr, self.heads)

    def model(self) -> Any:
        from sbmgraph.kernels.model import EdgeModel

        rate, member = (torch.full_like(x, 1 / self.clusters) for x in self.factors())
        return EdgeModel(rate, member, self.ptr, self.ptr)


def tile_attention(batch: Batch) -> None:
    """Attention over bits: dropout, forward and both sweeps."""
    from sbmgraph.kernels.tile import gpu

    query, key, value, grad = batch.vertices(4)
    bits, options = batch.bits(), batch.options()
    out, lse = gpu.forward(query, key, value, bits, options)
    gpu.backward(grad, query, key, value, batch.factors(), bits, out, lse, options, (True,) * 5)


def edge_attention(batch: Batch) -> None:
    """Attention over lists, inner products of edges, the transpose."""
    from sbmgraph.kernels.attention import gpu, gpu_backward
    from sbmgraph.kernels.attention.inputs import Inputs, Needs
    from sbmgraph.kernels.csr import CSC
    from sbmgraph.kernels.transpose import gpu as transpose

    query, key, value, grad = (x.flatten(0, 1) for x in batch.vertices(4))
    csr, options = batch.csr(), batch.options()
    results = gpu.forward(query, key, value, csr, None, options)
    csc = CSC(*transpose.transpose(csr.rowptr, csr.col, heads=csr.heads, num_keys=batch.nodes))
    inputs = Inputs(query, key, value, csr, csc, factors=batch.factors())
    needs = Needs(True, True, True, bias=False, rate=True, member=True)
    gpu_backward.backward(grad, inputs, results, options, needs)


def bits(batch: Batch) -> None:
    """Degrees of bits, and the way between bits and lists."""
    from sbmgraph.kernels.bits import gpu

    csr, empty, rows = batch.csr(), batch.bits(), batch.nodes * batch.heads
    gpu.to_csr(empty, rows=rows)
    gpu.from_csr(csr.rowptr, csr.col, empty)


def dense_sampler(batch: Batch) -> None:
    """The dense algorithm."""
    from sbmgraph.kernels.dense import gpu

    gpu.sample(batch.model(), "bernoulli", 0.01, batch.seed)


def fastrg_sampler(batch: Batch) -> None:
    """fastRG, through bits."""
    from sbmgraph.kernels.fastrg import gpu

    gpu.sample(batch.model(), "bernoulli", 0.01, batch.seed)


KERNELS: tuple[Callable[[Batch], None], ...] = (
    tile_attention,
    edge_attention,
    bits,
    dense_sampler,
    fastrg_sampler,
)
"""Host code that launches every kernel of the package."""

DTYPES = {
    tile_attention: (torch.bfloat16, torch.float32),
    edge_attention: (torch.bfloat16, torch.float32),
}
"""The types of the kernels that read features."""


def compiled() -> Iterator[tuple[str, str, Compiled]]:
    """Of every kernel: where it belongs, its type and what it takes."""
    for host in KERNELS:
        for dtype in DTYPES.get(host, (torch.float32,)):
            with launches() as found:
                host(Batch(dtype=dtype))
            for kernel in dict.fromkeys(found):
                yield host.__name__, str(dtype).removeprefix("torch."), kernel


def main() -> None:
    """Writes the table."""
    from sbmgraph.files import write_atomically

    rows = []
    for place, dtype, kernel in compiled():
        cells = (
            place, kernel.name, dtype, kernel.warps, kernel.registers, kernel.stack, kernel.spills,
            kernel.shared, f"{kernel.occupancy:.0%}", kernel.instructions,
        )  # fmt: skip
        rows.append("| " + " | ".join(map(str, cells)) + " |")
        print(rows[-1], flush=True)
    lines = [
        "# The Triton kernels, compiled for an H100 (sm_90)",
        "",
        f"`python benchmarks/sm90.py` with Triton {triton.__version__}, not run. 2 "
        "heads of 32 channels, 128 clusters, dropout 0.1, the default tile sizes. Stack and shared "
        "memory in bytes, of a thread and of a program; spills are instructions that move "
        "registers to local memory or back; occupancy is the share of a multiprocessor's 64 warps.",
        "",
        "| of | kernel | dtype | warps | registers | stack | spills | shared | occupancy "
        "| instructions |",
        "|---" * 3 + "|---:" * 7 + "|",
        *rows,
    ]
    write_atomically(Path(__file__).with_name("SM90.md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
