"""The Triton kernels of tile attention: equal to dense float64, on the GPU and interpreted."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Options
from sbmgraph.kernels.tile import gpu_sizes as sizes
from sbmgraph.kernels.tile import reference
from tests.kernels.tile.checks import NAMES, Problem, check, pack, random_problem
from tests.ops.checks import poisoned_memory
from tests.triton_runs import DEVICE, INTERPRETED, kernel_test, run_interpreted

gpu = pytest.importorskip("sbmgraph.kernels.tile.gpu", exc_type=ImportError)
gpu_dropout = pytest.importorskip("sbmgraph.kernels.tile.gpu_dropout", exc_type=ImportError)

SHAPES = [
    # queries and keys of each graph, heads, d, dv, K
    ([19, 1, 5], [19, 1, 5], 2, 5, 7, 3),
    ([1, 18, 0, 3], [65, 3, 4, 0], 1, 16, 4, 16),
    ([9], [70], 1, 19, 33, 20),
]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that small graphs fill several of."""
    small = sizes.Sizes(16, 32, 4, 2)
    for name in ("forward_sizes", "query_sizes", "key_sizes"):
        monkeypatch.setattr(sizes, name, lambda *args: small)
    monkeypatch.setattr(gpu_dropout, "QUERIES", 16)
    monkeypatch.setattr(gpu_dropout, "KEYS", 32)


def options(estimator: str = "logit", dropout: float = 0.0, seed: int = 3) -> Options:
    return Options(0.6, dropout, seed, estimator)


@kernel_test
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("shape", "estimator", "dropout"),
    [
        (SHAPES[0], "logit", 0.0),
        (SHAPES[0], "mask", 0.3),
        (SHAPES[1], "logit", 0.3),
        (SHAPES[1], "mask", 0.0),
        (SHAPES[2], "logit", 0.3),
        (SHAPES[2], "mask", 0.0),
    ],
)
def test_equals_the_dense_truth(shape: tuple, estimator: str, dropout: float) -> None:
    with poisoned_memory():
        check(random_problem(*shape), gpu, options(estimator, dropout), device=DEVICE)


@kernel_test
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_the_dense_truth_in_tiles_of_the_default_sizes(dtype: torch.dtype) -> None:
    problem = random_problem([130, 3], [75, 140], 1, 16, 16, 16, density=0.2)
    with poisoned_memory():
        check(problem, gpu, options(dropout=0.2), dtype, DEVICE)


@kernel_test
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("dtype", "estimator"), [(torch.bfloat16, "mask"), (torch.float16, "logit")]
)
def test_half_precision(dtype: torch.dtype, estimator: str) -> None:
    check(random_problem(*SHAPES[0]), gpu, options(estimator), dtype, DEVICE)


@kernel_test
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("graphs", [([], []), ([0], [0]), ([2], [0]), ([0, 1], [3, 0])])
def test_graphs_without_pairs(graphs: tuple[list[int], list[int]]) -> None:
    with poisoned_memory():
        check(random_problem(*graphs), gpu, options(dropout=0.5), device=DEVICE)


@kernel_test
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("scale", [0.0, -0.7])
def test_any_scale(scale: float) -> None:
    check(random_problem(*SHAPES[0]), gpu, Options(scale, 0.0, 0, "logit"), device=DEVICE)


@kernel_test
@pytest.mark.usefixtures("small_tiles")
def test_more_clusters_than_a_sweep_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "CLUSTERS", 16)
    problem = random_problem([17, 3], [33, 5], 1, 5, 7, 37)
    with poisoned_memory():
        check(problem, gpu, options(), device=DEVICE)


@kernel_test
@pytest.mark.usefixtures("small_tiles")
def test_only_what_is_needed_is_computed() -> None:
    problem = random_problem([5], [7], 1)
    every = problem.results(gpu, options(dropout=0.2), device=DEVICE)
    for wanted in ({0}, {1}, {2}, {3}, {4}, {2, 3}, set()):
        needs = tuple(i in wanted for i in range(5))
        some = problem.results(gpu, options(dropout=0.2), device=DEVICE, needs=needs)
        assert [some[name] is not None for name in NAMES] == list(needs)
        assert all(torch.equal(some[NAMES[i]], every[NAMES[i]]) for i in wanted)


@kernel_test
@pytest.mark.parametrize("seed", [7, 2**62 + 2**33 + 5])
def test_drops_what_the_reference_drops(seed: int) -> None:
    """Bit for bit: values that name their key show the edges that stay."""
    problem = random_problem([9, 3], [70, 41], 2)
    keys = torch.eye(111, dtype=torch.float64)[:, None].expand(-1, 2, -1)
    problem.tensors["value"] = keys.contiguous()
    problem.grad = torch.ones(12, 2, 111, dtype=torch.float64)
    stays = [
        problem.results(kernels, options(dropout=0.4, seed=seed), device=device)["out"].cpu() > 0
        for kernels, device in ((gpu, DEVICE), (reference, "cpu"))
    ]
    assert torch.equal(*stays)
    assert 0 < int(stays[0].sum()) < int(problem.mask.sum())


@kernel_test
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("estimator", ["logit", "mask"])
def test_nan_is_not_swallowed(estimator: str) -> None:
    """A NaN key shows in every query that has an edge to it, and in no other graph."""
    problem = random_problem(*SHAPES[0])
    problem.tensors["key"][3, 0, 0] = float("nan")
    found = problem.results(gpu, options(estimator), device=DEVICE)
    reached = problem.mask[:, 0, 3]
    assert reached.any()
    for name in ("out", "lse", "query", "rate"):
        nan = found[name][:, 0].cpu().isnan().view(25, -1)
        assert nan[reached].all(), name
        assert not nan[19:].any(), name


@kernel_test
@pytest.mark.usefixtures("small_tiles")
def test_a_graph_does_not_depend_on_its_batch() -> None:
    problem = random_problem(*SHAPES[0], seed=1)
    whole = problem.results(gpu, options(dropout=0.3), device=DEVICE)
    n, m = problem.queries[0], problem.keys[0]
    alone = Problem(
        [n],
        [m],
        {x: t[: n if x in ("query", "rate") else m] for x, t in problem.tensors.items()},
        problem.grad[:n],
        problem.mask[:n, :, :m],
        pack(problem.mask[:n, :, :m], [n], [m]),
    )
    for name, mine in alone.results(gpu, options(dropout=0.3), device=DEVICE).items():
        assert torch.equal(mine, whole[name][: mine.size(0)]), name


def transposed(problem: Problem) -> Bits:
    """Every graph's mask with queries and keys exchanged."""
    mask = torch.zeros_like(problem.mask)
    for start, stop in pairwise(problem.bits.query_ptr.tolist()):
        block = problem.mask[start:stop, :, start:stop]
        mask[start:stop, :, start:stop] = block.transpose(0, 2)
    return pack(mask, problem.queries, problem.keys)


def with_a_stray_bit(problem: Problem) -> Bits:
    """One bit past the last key of the second graph's first row."""
    words = problem.bits.words.clone()
    words[problem.bits.word_ptr[1]] |= 1 << problem.keys[1]
    return problem.bits._replace(words=words)


@kernel_test
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("spoil", [transposed, with_a_stray_bit])
def test_the_checks_catch_wrong_bits(spoil) -> None:
    problem = random_problem(*SHAPES[0])
    with pytest.raises(AssertionError):
        check(problem, gpu, options(), device=DEVICE, bits=spoil(problem))


if not INTERPRETED:

    def test_in_tritons_interpreter() -> None:
        run_interpreted(__file__, "not slow")

    @pytest.mark.slow
    def test_the_slow_ones_in_tritons_interpreter() -> None:
        run_interpreted(__file__, "slow")
