"""The Triton samplers: edges follow their law, on the GPU and interpreted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sbmgraph import SBM, SampledGraph, record
from sbmgraph.nn import SBMConv
from tests.dense import dense_prob, random_sbm
from tests.kernels import sampling as checks
from tests.kernels.test_sampling_law import check_law, problem
from tests.triton_runs import DEVICE, INTERPRETED, compile_for_hopper, kernel_test, run_interpreted

fastrg_gpu = pytest.importorskip("sbmgraph.kernels.fastrg.gpu", exc_type=ImportError)

from sbmgraph.kernels._triton.launch import pad as triton_pad  # noqa: E402
from sbmgraph.kernels.bits import gpu as bits_gpu  # noqa: E402
from sbmgraph.kernels.dense import cpu as dense_cpu  # noqa: E402
from sbmgraph.kernels.dense import gpu as dense_gpu  # noqa: E402
from sbmgraph.kernels.fastrg import cpu as fastrg_cpu  # noqa: E402

SAMPLERS = {"fastrg": checks.lister(fastrg_gpu), "dense": checks.lister(dense_gpu)}
LAWS = ["bernoulli", "poisson"]


def set_sizes(monkeypatch: pytest.MonkeyPatch, rows: int, draws: int, entries: int) -> None:
    """Interpreted programs cost about the same whatever their width: few wide ones are faster."""
    if INTERPRETED:
        monkeypatch.setattr(fastrg_gpu, "ROWS", rows)
        monkeypatch.setattr(fastrg_gpu, "DRAWS", draws)
        monkeypatch.setattr(bits_gpu, "ROWS", max(entries // bits_gpu.WORDS, 1))
        monkeypatch.setattr(dense_gpu, "QUERIES", rows)


@pytest.fixture
def tall_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, rows=8192, draws=8, entries=16384)


@pytest.fixture
def wide_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, rows=64, draws=64, entries=512)


def draw(sampler: Callable, sbm: SBM, law: str, exploration: float, seed: int) -> SampledGraph:
    return checks.draw(sampler, sbm, law, exploration, seed, DEVICE)


def repeat_queries(sbm: SBM, copies: int) -> SBM:
    """Every query ``copies`` times: rows are independent, so copies are replicates."""
    batch = sbm.query_batch
    return SBM(
        sbm.query_membership.repeat_interleave(copies, 0).float(),
        sbm.key_membership.float(),
        sbm.affinity.float(),
        None if batch is None else batch.repeat_interleave(copies),
        sbm.key_batch,
    )


def check_frequencies(
    sampler: Callable, sbm: SBM, law: str, exploration: float, copies: int, seed: int = 17
) -> None:
    """A right sampler fails with a chance below 1e-6."""
    graph = draw(sampler, repeat_queries(sbm, copies), law, exploration, seed)
    key, query = graph.edge_index
    present = torch.zeros(copies, sbm.num_queries, sbm.heads, sbm.num_keys, dtype=torch.bool)
    present[query % copies, query // copies, graph.head, key] = True
    prob = dense_prob(sbm, exploration)
    if sbm.query_batch is not None:
        prob = prob * (sbm.query_batch[:, None, None] == sbm.key_batch)
    expected = prob if law == "bernoulli" else -torch.expm1(-prob)
    check_law(present.flatten(1), expected.flatten())


@kernel_test
@pytest.mark.usefixtures("tall_programs")
@pytest.mark.parametrize("density", [0.001, 0.05, 0.3, 0.97])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("algorithm", SAMPLERS)
def test_edge_frequencies(algorithm: str, law: str, density: float) -> None:
    copies = 4000 if density < 0.01 else 1500
    check_frequencies(SAMPLERS[algorithm], problem(density), law, 0.0, copies)


@kernel_test
@pytest.mark.usefixtures("tall_programs")
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("algorithm", SAMPLERS)
def test_exploration_is_one_more_block(algorithm: str, law: str) -> None:
    check_frequencies(SAMPLERS[algorithm], problem(0.1), law, 0.2, 1500)


@kernel_test
@pytest.mark.parametrize("algorithm", SAMPLERS)
def test_frequencies_of_many_keys(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More keys than a word of the bitmap or a tile holds."""
    set_sizes(monkeypatch, rows=1024, draws=32, entries=8192)
    sbm = random_sbm(2, 201, 1, clusters=5, batch=False, scale=0.8)
    check_frequencies(SAMPLERS[algorithm], sbm, "bernoulli", 0.01, 500)


@kernel_test
@pytest.mark.usefixtures("tall_programs")
def test_repeated_proposals_are_thinned_as_one() -> None:
    """One likely key makes unlikely ones' proposals frequent, and their thinning strong."""
    member = torch.tensor([0.85, 0.4, 0.4, 0.2, 0.0]).view(5, 1, 1)
    sbm = SBM(torch.ones(1, 1, 1), member, torch.ones(1, 1, 1))
    check_frequencies(SAMPLERS["fastrg"], sbm, "bernoulli", 0.0, 8000)


@kernel_test
@pytest.mark.usefixtures("tall_programs")
def test_the_check_catches_a_transposed_affinity() -> None:
    sbm = problem(0.3)
    turned = SBM.unchecked(
        sbm.query_membership,
        sbm.key_membership,
        sbm.affinity.mT.contiguous(),
        sbm.query_batch,
        sbm.key_batch,
    )

    def wrong(sbm: SBM, *args) -> tuple[torch.Tensor, torch.Tensor]:
        many = repeat_queries(turned, 1500)
        return SAMPLERS["fastrg"](checks.move(many, DEVICE), *args)

    with pytest.raises(AssertionError):
        check_frequencies(wrong, sbm, "bernoulli", 0.0, 1500)


@kernel_test
@pytest.mark.usefixtures("wide_programs")
@pytest.mark.parametrize("algorithm", SAMPLERS)
def test_the_seed_decides(algorithm: str) -> None:
    sbm = random_sbm(20, 30, dtype=torch.float32)
    seeds = (5, 5, 6, 5 + 2**40)
    first, again, *others = (draw(SAMPLERS[algorithm], sbm, "bernoulli", 0.1, s) for s in seeds)
    assert torch.equal(first.rowptr, again.rowptr)
    assert torch.equal(first.col, again.col)
    for other in others:
        assert first.num_edges != other.num_edges or not torch.equal(first.col, other.col)


@kernel_test
@pytest.mark.usefixtures("wide_programs")
@pytest.mark.parametrize("algorithm", SAMPLERS)
def test_a_graph_does_not_depend_on_those_behind_it(algorithm: str) -> None:
    checks.check_independent_of_batch(SAMPLERS[algorithm], DEVICE)


@kernel_test
@pytest.mark.usefixtures("wide_programs")
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("algorithm", SAMPLERS)
def test_the_way_work_is_cut_changes_nothing(
    algorithm: str, law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles, spans and depths; of fastRG, parts of the bitmap, and sorting in its place."""
    sbm = random_sbm(11, 150, 2, clusters=19, scale=0.5, dtype=torch.float32)
    whole = draw(SAMPLERS[algorithm], sbm, law, 0.05, 3)
    module, cuts = dense_gpu, {"SPAN": 64, "QUERIES": 16, "DEPTH": 16}
    if algorithm == "fastrg":
        module, cuts = fastrg_gpu, {"MAX_WORDS": 30, "MAX_BITMAP_KEYS": 4}
    for name, value in cuts.items():
        monkeypatch.setattr(module, name, value)
        cut = draw(SAMPLERS[algorithm], sbm, law, 0.05, 3)
        assert torch.equal(cut.rowptr, whole.rowptr), name
        assert torch.equal(cut.col, whole.col), name


@kernel_test
@pytest.mark.parametrize("algorithm", SAMPLERS)
def test_probabilities_above_one_are_certain(algorithm: str) -> None:
    one = torch.ones(3, 1, 1)
    sbm = SBM(one, one, torch.full((1, 1, 1), 3.0))
    assert draw(SAMPLERS[algorithm], sbm, "bernoulli", 0.0, 1).num_edges == 9


@kernel_test
@pytest.mark.parametrize("algorithm", SAMPLERS)
@pytest.mark.parametrize("sizes", [([0], [0]), ([2], [0]), ([0], [2]), ([0, 2, 1], [3, 0, 1])])
def test_empty_graphs(algorithm: str, sizes: tuple[list[int], list[int]]) -> None:
    queries, keys = (torch.tensor(x) for x in sizes)
    batch = torch.arange(len(queries))
    sbm = SBM.unchecked(
        torch.ones(int(queries.sum()), 2, 1),
        torch.ones(int(keys.sum()), 2, 1),
        torch.ones(2, 1, 1),
        batch.repeat_interleave(queries),
        batch.repeat_interleave(keys),
        len(batch),
    )
    graph = draw(SAMPLERS[algorithm], sbm, "bernoulli", 0.0, 1)
    assert graph.num_edges == 2 * int((queries * keys).sum())


@kernel_test
@pytest.mark.usefixtures("wide_programs")
@pytest.mark.parametrize("algorithm", SAMPLERS)
def test_a_layer_trains_on_the_kernels(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling and attention through the public interface; every parameter takes a gradient."""
    if INTERPRETED:
        monkeypatch.setattr(dense_cpu, "sample", dense_gpu.sample)
        monkeypatch.setattr(fastrg_cpu, "sample", fastrg_gpu.sample)
    conv = SBMConv(6, 4, heads=2, num_clusters=3, algorithm=algorithm).to(DEVICE)
    batch = torch.tensor([0, 0, 0, 1, 1], device=DEVICE)
    with record(conv) as runs:
        out = conv(torch.randn(5, 6, device=DEVICE), batch)
    out.square().sum().backward()
    assert runs[0].graph.num_edges > 0
    assert bool(torch.isfinite(out).all())
    for name, parameter in conv.named_parameters():
        assert bool(torch.isfinite(parameter.grad).all()), name


if not INTERPRETED:

    def test_in_tritons_interpreter() -> None:
        run_interpreted(__file__)

    INDEX = [
        "graph", "query_ptr", "part_ptr", "key_ptr", "word_ptr", "rowptr"
    ]  # fmt: skip
    TYPES = (
        dict.fromkeys(["rate", "member", "axis", "excess"], "*fp32")
        | dict.fromkeys(INDEX, "*i64")
        | dict.fromkeys(["table", "out", "words", "col"], "*i32")
        | dict.fromkeys(["heads", "num_keys", "num_graphs", "num_rows"], "i32")
        | dict.fromkeys(["first_row", "last_row"], "i32")
        | {"clusters": "i32:16", "exploration": "fp32", "seed": "i64", "chosen": "*u8"}
        | {"place_ptr": "*i64"}
    )
    HALVES = dict.fromkeys(["rate", "rate_low", "member", "member_low"], "*bf16")

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", [fastrg_gpu.BITS, fastrg_gpu.COUNT, fastrg_gpu.LIST])
    def test_proposals_compile_for_an_h100(mode) -> None:
        sizes = {"ROWS": fastrg_gpu.ROWS, "DRAWS": fastrg_gpu.DRAWS, "BLOCKS": 4}
        constants = {**sizes, "THIN": True, "MODE": mode.value, "PROPOSES": 1, "THINS": 2}
        types = TYPES if mode.value == fastrg_gpu.BITS.value else {**TYPES, "out": "*i64"}
        code = compile_for_hopper(fastrg_gpu._propose_kernel, types, constants, 1)
        is_bits = mode.value == fastrg_gpu.BITS.value
        assert ("red.global" in code or "atom.global" in code) == is_bits

    @pytest.mark.slow
    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize("clusters", [32, 128, 200])
    def test_dense_tiles_compile_for_an_h100(law: str, clusters: int) -> None:
        sizes = {"QUERIES": dense_gpu.QUERIES, "KEYS": dense_gpu.KEYS, "SPAN": dense_gpu.SPAN}
        depth = {"K": clusters, "WIDTH": min(triton_pad(clusters), dense_gpu.DEPTH)}
        constants = {**sizes, **depth, "POISSON": law == "poisson", "PURPOSE": 3}
        types = {**TYPES, **HALVES, "num_queries": "i64", "num_keys": "i64"}
        code = compile_for_hopper(dense_gpu._dense_kernel, types, constants, dense_gpu.WARPS)
        assert "mma" in code

    @pytest.mark.slow
    def test_bits_compile_for_an_h100() -> None:
        constants = {"ROWS": bits_gpu.ROWS, "WORDS": bits_gpu.WORDS, "FILL": True}
        code = compile_for_hopper(bits_gpu._read_kernel, TYPES, constants, bits_gpu.WARPS)
        assert "popc.b32" in code
        code = compile_for_hopper(bits_gpu._set_kernel, TYPES, {"EDGES": bits_gpu.EDGES}, 4)
        assert "red.global" in code or "atom.global" in code
