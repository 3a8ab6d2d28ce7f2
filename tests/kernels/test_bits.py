"""Graphs as bits: their layout, their degrees, and the way to lists of edges and back."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from sbmgraph.kernels import bits as operators
from sbmgraph.kernels.bits import Bits, cpu, csr_to_bits, empty_bits, reference, unpack
from tests.kernels.sampling import check_padding
from tests.triton_runs import DEVICE, INTERPRETED, kernel_test, run_interpreted

gpu = pytest.importorskip("sbmgraph.kernels.bits.gpu", exc_type=ImportError)

SIZES = [
    # queries and keys of each graph, heads
    ([3], [70], 2),
    ([5, 0, 2, 4], [33, 9, 0, 64], 3),
    ([1], [1], 1),
    ([0], [4], 2),
    ([2], [0], 1),
]
sizes = pytest.mark.parametrize(("queries", "keys", "heads"), SIZES)


def problem(queries: list[int], keys: list[int], heads: int) -> tuple[Tensor, ...]:
    """A random mask of each graph, and their edges as a list, by plain Python."""
    generator = torch.Generator().manual_seed(1)
    masks, rowptr, col, low = [], [0], [], 0
    for n, m in zip(queries, keys, strict=True):
        mask = torch.rand(n, heads, m, generator=generator) < 0.4
        masks.append(mask)
        for row in mask.flatten(0, 1).tolist():
            col += [low + j for j, edge in enumerate(row) if edge]
            rowptr.append(len(col))
        low += m
    ptr = [torch.tensor([0, *torch.tensor(x).cumsum(0).tolist()]) for x in (queries, keys)]
    return masks, torch.tensor(rowptr), torch.tensor(col, dtype=torch.int32), *ptr


def check_kernels(
    module: ModuleType, queries: list[int], keys: list[int], heads: int, device: str
) -> None:
    masks, rowptr, col, *ptr = problem(queries, keys, heads)
    rowptr, col, *ptr = (x.to(device) for x in (rowptr, col, *ptr))
    rows = sum(queries) * heads
    empty = empty_bits(*ptr, heads)
    bits = empty._replace(words=module.from_csr(rowptr, col, empty))
    assert not empty.words.any(), "an operator wrote into its input"
    check_padding(Bits(*(x.cpu() for x in bits[:4]), heads))
    for graph, mask in enumerate(masks):
        for head in range(heads):
            assert torch.equal(unpack(bits, graph, head).cpu(), mask[:, head])
    degrees = module.degrees(bits, rows=rows)
    assert degrees.dtype == torch.int64
    assert torch.equal(degrees, rowptr.diff())
    again = module.to_csr(bits, rows=rows)
    assert again[1].dtype == torch.int32
    assert torch.equal(again[0], rowptr)
    assert torch.equal(again[1], col)


@sizes
@pytest.mark.parametrize("module", [reference, cpu], ids=["reference", "cpu"])
def test_layout(module: ModuleType, queries: list[int], keys: list[int], heads: int) -> None:
    check_kernels(module, queries, keys, heads, "cpu")


@kernel_test
@sizes
def test_layout_on_the_gpu(queries: list[int], keys: list[int], heads: int) -> None:
    check_kernels(gpu, queries, keys, heads, DEVICE)


@sizes
def test_operators(queries: list[int], keys: list[int], heads: int) -> None:
    _, rowptr, col, *ptr = problem(queries, keys, heads)
    bits = csr_to_bits(rowptr, col, *ptr, heads=heads)
    assert torch.equal(operators.degrees(bits), rowptr.diff())
    found = operators.bits_to_csr(bits)
    assert torch.equal(found[0], rowptr)
    assert torch.equal(found[1], col)


def test_operators_are_registered_right() -> None:
    _, rowptr, col, *ptr = problem([3, 2], [40, 5], 2)
    bits = csr_to_bits(rowptr, col, *ptr, heads=2)
    checks = ("test_schema", "test_faketensor")
    library = torch.ops.sbmgraph
    options = {"heads": 2, "rows": 10}
    torch.library.opcheck(library.bits_degrees, bits[:4], options, test_utils=checks)
    torch.library.opcheck(library.bits_to_csr, bits[:4], options, test_utils=checks)
    edges = (rowptr, col, *bits[:4])
    torch.library.opcheck(library.csr_to_bits, edges, {"heads": 2}, test_utils=checks)


def test_thread_count_changes_nothing() -> None:
    threads, found = torch.get_num_threads(), []
    _, rowptr, col, *ptr = problem([900, 301], [500, 70], 2)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            bits = csr_to_bits(rowptr, col, *ptr, heads=2)
            found.append((bits.words, *operators.bits_to_csr(bits)))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


if not INTERPRETED:

    def test_in_tritons_interpreter() -> None:
        run_interpreted(__file__)
