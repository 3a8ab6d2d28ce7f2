"""SBM: expectations against the dense matrix, density limits, bad input."""

from __future__ import annotations

import pytest
import torch

from sbmgraph import SBM, SampledGraph, sample
from sbmgraph.ops import edge_prob
from tests.dense import dense_prob, random_sbm


def test_expected_edges_are_the_sum_of_probabilities() -> None:
    sbm = random_sbm()
    same = sbm.query_batch[:, None, None] == sbm.key_batch
    for exploration in (0.0, 0.01):
        prob = (dense_prob(sbm) + exploration) * same
        for g in range(2):
            mine = prob[sbm.query_batch == g]
            torch.testing.assert_close(sbm.expected_edges(exploration)[g], mine.sum(dim=(0, 2)))
            pairs = (sbm.query_batch == g).sum() * (sbm.key_batch == g).sum()
            torch.testing.assert_close(
                sbm.expected_density(exploration)[g], mine.sum(dim=(0, 2)) / pairs
            )


def test_expected_density_gradcheck() -> None:
    sbm = random_sbm()

    def density(Y: torch.Tensor, Z: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        return SBM.unchecked(Y, Z, B, sbm.query_batch, sbm.key_batch).expected_density()

    inputs = (sbm.query_membership, sbm.key_membership, sbm.affinity)
    assert torch.autograd.gradcheck(density, tuple(x.clone().requires_grad_() for x in inputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_default_dtype_is_of_no_matter(dtype: torch.dtype) -> None:
    """Of 4000² pairs a hundredth is more than float16 can hold."""
    generator = torch.Generator().manual_seed(0)
    factors = [torch.rand(4000, 1, 2, generator=generator) / 9 for _ in range(2)]
    sbm = SBM(*factors, torch.rand(1, 2, 2, generator=generator) / 4)
    seed = torch.Generator().manual_seed(1)
    expected = sbm.expected_edges(0.01), sample(sbm, exploration=0.01, generator=seed).num_edges
    torch.set_default_dtype(dtype)
    try:
        seed = torch.Generator().manual_seed(1)
        found = sbm.expected_edges(0.01), sample(sbm, exploration=0.01, generator=seed).num_edges
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


def test_edge_prob_reads_the_dense_matrix() -> None:
    sbm = random_sbm()
    graph = sample(sbm, exploration=0.3)
    key, query = graph.edge_index
    expected = dense_prob(sbm)[query, graph.head, key]
    torch.testing.assert_close(edge_prob(sbm, graph), expected)
    other = SampledGraph.from_edge_index(torch.tensor([[0], [0]]), 3, 3)
    with pytest.raises(ValueError, match="'graph' must have"):
        edge_prob(sbm, other)


def test_rate_gets_its_gradient_after_use_without() -> None:
    sbm = random_sbm()
    Y = sbm.query_membership.clone().requires_grad_()
    model = SBM(Y, sbm.key_membership, sbm.affinity, sbm.query_batch, sbm.key_batch)
    with torch.no_grad():
        assert not model.rate.requires_grad
    assert model.rate.requires_grad


def test_limit_density_scales_only_what_is_above() -> None:
    sbm = random_sbm(scale=1.0)
    density = sbm.expected_density()
    limit = float(density.flatten().sort().values[1:3].mean())
    limited = sbm.limit_density(limit).expected_density()
    torch.testing.assert_close(limited, density.clamp(max=limit))
    explored = sbm.limit_density(limit, exploration=0.05).expected_density(0.05)
    torch.testing.assert_close(explored, (density + 0.05).clamp(max=limit))
    with pytest.raises(ValueError, match="'max_density' must be above 'exploration'"):
        sbm.limit_density(0.01, exploration=0.01)


def test_low_precision_factors_are_held_in_float32() -> None:
    half = [torch.rand(4, 1, 2).bfloat16(), torch.rand(4, 1, 2).bfloat16()]
    sbm = SBM(*half, torch.rand(1, 2, 2).bfloat16())
    assert sbm.expected_density().dtype == torch.float32


def test_no_possible_edges_is_density_zero() -> None:
    sbm = random_sbm(n=0, m=5, batch=False)
    assert sbm.expected_density().tolist() == [[0.0, 0.0]]
    assert sample(sbm).density().tolist() == [[0.0, 0.0]]


def test_repr() -> None:
    assert str(random_sbm()) == (
        "SBM(num_queries=7, num_keys=9, heads=2, num_clusters=3, num_graphs=2)"
    )


def test_ragged_sizes() -> None:
    sbm = random_sbm()
    assert sbm.query_ptr.tolist() == [0, 2, 7]
    assert sbm.key_ptr.tolist() == [0, 6, 9]


Y, Z, B = torch.rand(4, 2, 3), torch.rand(5, 2, 3), torch.rand(2, 3, 3)
NAN = torch.full_like(Y, float("nan"))
QB, KB = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((Y[0], Z, B), "'query_membership' must have shape"),
        ((Y.tolist(), Z, B), "'query_membership' must be a tensor"),
        ((Y, Z[:, :1], B), "'key_membership' must have shape"),
        ((Y, Z[..., :2], B), "'key_membership' must have shape"),
        ((Y, Z, B[:1]), r"'affinity' must have shape \[2, 3, 3\]"),
        ((Y, Z, B[:, :2]), r"'affinity' must have shape \[2, 3, 3\]"),
        ((Y.long(), Z, B), "'query_membership' must be a floating-point"),
        ((-Y, Z, B), "'query_membership' must be non-negative"),
        ((Y, Z, -B), "'affinity' must be non-negative"),
        ((NAN, Z, B), "'query_membership' must be finite"),
        ((Y, Z, B / 0), "'affinity' must be finite"),
        ((Y.double(), Z, B), "same dtype"),
        ((Y.to("meta"), Z, B), "same device"),
        ((Y, Z, B, QB), "must be given together"),
        ((Y, Z, B, QB.flip(0), KB), "'query_batch' must be sorted"),
        ((Y, Z, B, QB, KB[:-1]), "'key_batch' must hold one graph number"),
        ((Y, Z, B, QB.float(), KB), "'query_batch' must be an int64 vector"),
        ((Y, Z, B, QB - 1, KB), "'query_batch' must hold graph numbers >= 0"),
    ],
)
def test_bad_input(arguments: tuple, match: str) -> None:
    SBM(Y, Z, B, QB, KB)
    with pytest.raises(ValueError, match=match):
        SBM(*arguments)
