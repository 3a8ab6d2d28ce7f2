"""The compiled CPU kernels: equal to the reference, and safe among threads and processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from unittest import mock

import pytest
import torch

from sbmgraph import SampledGraph
from sbmgraph.kernels._numba.jit import jit
from sbmgraph.kernels._numba.threads import split_heads, split_tables
from sbmgraph.kernels.attention import cpu, operator
from sbmgraph.kernels.edge_dot import cpu as edge_dot
from sbmgraph.kernels.probe import Probe
from sbmgraph.kernels.transpose.cpu import transpose
from sbmgraph.ops import edge_attention
from tests.ops import checks


@pytest.mark.parametrize("estimator", ["logit", "mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", checks.SHAPES, ids=str)
def test_equals_reference(shape: tuple, dtype: torch.dtype, estimator: str) -> None:
    with checks.poisoned_memory():
        checks.check_results(
            checks.random_problem(*shape), "cpu", "fused", dtype, estimator=estimator
        )


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("estimator", ["logit", "mask"])
def test_given_edges_pass_no_gradient(estimator: str, use_bias: bool) -> None:
    options = {"estimator": estimator, "use_bias": use_bias, "use_sampled": True}
    problem = checks.random_problem(*checks.SHAPES[1])
    checks.check_results(problem, "cpu", "fused", torch.float32, **options)


@pytest.mark.parametrize("clusters", [1, 16, 40, 130, 260])
def test_sums_over_any_number_of_clusters(clusters: int) -> None:
    """Rows are summed some columns at a time, and few rows at a time stay in cache."""
    problem = checks.random_problem(21, 33, 2, 20, 7, clusters)
    checks.check_results(problem, "cpu", "fused", torch.float64)
    with mock.patch.object(edge_dot, "CACHED_BYTES", 1):
        checks.check_results(problem, "cpu", "fused", torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    problem = checks.random_problem(*checks.SHAPES[1])
    checks.check_results(problem, "cpu", "fused", dtype, use_bias=False)


@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
def test_densities(density: float) -> None:
    problem = checks.random_problem(150, 140, 2, 8, 8, 4, density=density)
    checks.check_results(problem, "cpu", "fused", torch.float32)


@pytest.mark.parametrize("density", [0.1, 0.9])
def test_many_chunks_and_threads(monkeypatch: pytest.MonkeyPatch, density: float) -> None:
    """Work is split as for a large problem, edges of several heads, ranges of nodes and keys after
    one another: the results are those of the reference, the same bit for bit on any threads."""
    problem = checks.random_problem(90, 40, 2, 16, 16, 8, density=density)
    monkeypatch.setattr("sbmgraph.kernels._numba.threads.MIN_WORK", 10)
    monkeypatch.setattr(edge_dot, "EDGES_AT_ONCE", 1)
    monkeypatch.setattr(edge_dot, "CACHED_BYTES", 1)
    assert bool(split_tables(problem.graph.rowptr, 2, 40)[1]) == (density > 0.5)
    checks.check_results(problem, "cpu", "fused", torch.float32)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(problem.results("cpu", "fused", torch.float32))
    finally:
        torch.set_num_threads(threads)
    for split in results[1:]:
        for name, expected in results[0].items():
            assert torch.equal(split[name], expected), name


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradcheck(dropout: float) -> None:
    checks.check_gradients("cpu", "fused", dropout)


def test_dropout() -> None:
    checks.check_dropout("cpu", "fused")


def test_nan_is_not_swallowed() -> None:
    problem = checks.random_problem(*checks.SHAPES[1])
    problem.tensors["key"][3, 0, 0] = float("nan")
    found = problem.results("cpu", "fused", torch.float32)["out"]
    exact = problem.results("cpu", "reference", torch.float32)["out"]
    assert torch.equal(found.isnan(), exact.isnan())
    assert found.isnan().any()


def test_transpose_is_the_stable_sort_of_the_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    graph = checks.random_graph(70, 50, 3, 0.2, generator)
    colptr, row, perm = transpose(graph.rowptr, graph.col, heads=3, num_keys=50)
    column = graph.vertex_index[0]
    assert torch.equal(perm, column.sort(stable=True).indices)
    assert torch.equal(row.long(), graph.edge_index[1][perm])
    assert torch.equal(colptr.diff(), column.bincount(minlength=150))


def test_non_contiguous_inputs() -> None:
    problem = checks.random_problem(20, 30, 2, 6, 6, 3)
    inputs = [problem.tensors[name] for name in ("query", "key", "value")]
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in inputs]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(
        edge_attention(*strided, problem.graph, backend="fused"),
        edge_attention(*inputs, problem.graph, backend="fused"),
    )


def test_concurrent_calls() -> None:
    """Two Python threads at once get what each gets alone."""
    problems = [checks.random_problem(300, 300, 2, 16, 16, 8, seed=seed) for seed in (0, 1)]
    alone = [problem.results("cpu", "fused", torch.float32) for problem in problems]
    found: list[list] = [[], []]

    def work(index: int) -> None:
        for _ in range(5):
            problems[index].graph.__dict__.pop("_kept__csc", None)
            found[index].append(problems[index].results("cpu", "fused", torch.float32))

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, many in zip(alone, found, strict=True):
        assert len(many) == 5
        for results in many:
            assert all(torch.equal(results[name], expected[name]) for name in expected)


FORKS = """
import os, torch
import sbmgraph.kernels._numba.threads as threads
from tests.ops import checks
threads.MIN_WORK = 10
torch.set_num_threads(2)
problem = checks.random_problem(90, 80, 2, 16, 16, 8)
query, key, value = (problem.tensors[n].float() for n in ("query", "key", "value"))
run = lambda: checks.edge_attention(query, key, value, problem.graph, backend="fused")
expected = run()
assert threads._pool is not None
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(run(), expected) else 3)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert status == 0, status
data = torch.utils.data.DataLoader(range(2), num_workers=1, batch_size=None,
                                   collate_fn=lambda i: run())
assert all(torch.equal(out, expected) for out in data)
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_and_loader_workers_after_threads_have_run() -> None:
    out = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=120, check=False
    )
    assert out.stdout.strip().endswith("fine"), out.stderr


def test_missing_kernels_warn_once_and_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(device: torch.device) -> None:
        raise ImportError("No module named 'numba'")

    problem = checks.random_problem(9, 8, 2, 4, 4, 3)
    inputs = [problem.tensors[name] for name in ("query", "key", "value")]
    expected = edge_attention(*inputs, problem.graph, backend="reference")
    monkeypatch.setattr(operator, "PROBE", Probe("edge attention", missing))
    with pytest.warns(RuntimeWarning, match="slower PyTorch code runs instead") as caught:
        found = [edge_attention(*inputs, problem.graph) for _ in range(2)]
    assert len(caught) == 1
    assert all(torch.equal(out, expected) for out in found)


def test_a_backend_asked_for_by_name_is_never_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(device: torch.device) -> None:
        raise OSError("No space left on device")

    problem = checks.random_problem(9, 8, 2, 4, 4, 3)
    monkeypatch.setattr(operator, "PROBE", Probe("edge attention", full))
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(ValueError, match=r"'backend' must be .* got 'fused'.*No space left"),
    ):
        problem.results("cpu", "fused", torch.float32)


def test_no_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling without a place to keep the result is slower, not an error."""

    def refuse(self, *args) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr("numba.core.caching.CacheImpl.__init__", refuse)
    assert jit(lambda a, b: a + b)(1, 2) == 3


def test_automatic_choice_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert operator.is_available("cpu")
    calls = []
    forward = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *a: calls.append(1) or forward(*a))
    problem = checks.random_problem(9, 8, 2, 4, 4, 3)
    inputs = [problem.tensors[name] for name in ("query", "key", "value")]
    edge_attention(*inputs, problem.graph)
    assert len(calls) == 1
    for name in ("reference", "pyg"):
        edge_attention(*inputs, problem.graph, backend=name)
    assert len(calls) == 1


def test_graph_without_edges_starts_no_thread() -> None:
    graph = SampledGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 3, 4, heads=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = edge_attention(*(torch.ones(s, 2, 5) for s in (3, 4, 4)), graph, backend="fused")
    assert not out.any()


@pytest.mark.parametrize("heads", [1, 2, 8])
@pytest.mark.parametrize("edges", [0, 10, 120_000, 900_000])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_work_is_split_without_gap_or_overlap(
    monkeypatch: pytest.MonkeyPatch, heads: int, edges: int, threads: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    nodes = 300
    generator = torch.Generator().manual_seed(edges)
    ends = torch.randint(edges + 1, (nodes * heads,), generator=generator).sort().values
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
    ptr[-1] = edges
    tasks, owners = split_tables(ptr, heads, 100)
    for ranges in (split_heads(ptr, heads), [task[:4] for task in tasks]):
        done = torch.zeros(heads, nodes, dtype=torch.int64)
        for first, last, start, stop in ranges:
            done[first:last, start:stop] += 1
        assert bool((done == 1).all())
    tables = [
        table + head - first for first, last, *_, table in tasks for head in range(first, last)
    ]
    assert sorted(tables) == list(range(heads + len(owners)))
    for first, *_, table in tasks:
        assert table == first or owners[table - heads] == first
