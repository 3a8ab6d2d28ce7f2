"""Attention between known classes of tokens: against dense matrices, and in sentences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sbmgraph import SBM
from sbmgraph.analysis import class_mixing, describe_mixing

SIZES = (5, 8)


def random_sbm(heads: int = 2, clusters: int = 3) -> SBM:
    generator = torch.Generator().manual_seed(0)
    member = [torch.rand(sum(SIZES), heads, clusters, generator=generator) for _ in range(2)]
    batch = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    affinity = 0.3 * torch.rand(heads, clusters, clusters, generator=generator)
    return SBM(*member, affinity, batch, batch)


def planted(strength: float) -> SBM:
    """Ten digits and ten operators, each block attends to the other with ``strength`` more."""
    side = torch.eye(2).repeat_interleave(10, 0).unsqueeze(1)
    affinity = torch.tensor([[[0.1, 0.1 + strength], [0.1, 0.1]]])
    return SBM(side, side, affinity)


def test_edges_and_pairs_are_those_of_the_dense_matrix() -> None:
    sbm = random_sbm()
    classes = np.random.default_rng(0).choice(list("abc"), sum(SIZES)).tolist()
    table = class_mixing(sbm, classes)
    ptr = sbm.query_ptr.tolist()
    for row in table.itertuples():
        pairs, edges = 0, 0.0
        for low, high in itertools.pairwise(ptr):
            sides = (sbm.query_membership, sbm.key_membership)
            y, z = (side[low:high, row.head].double() for side in sides)
            dense = y @ sbm.affinity[row.head].double() @ z.T
            own = classes[low:high]
            for i in range(high - low):
                for j in range(high - low):
                    if (own[i], own[j]) == (row.query_class, row.key_class):
                        pairs, edges = pairs + 1, edges + float(dense[i, j])
        assert row.pairs == pairs
        assert row.edges == pytest.approx(edges, abs=1e-9)
    assert table.groupby("head")["pairs"].sum().tolist() == [25 + 64] * 2
    totals = table.groupby("head")["edges"].sum().to_numpy()
    np.testing.assert_allclose(totals, sbm.expected_edges().sum(0).double(), rtol=1e-6)


def test_lift_is_one_on_average() -> None:
    table = class_mixing(random_sbm(), [i % 3 for i in range(sum(SIZES))])
    for _, head in table.groupby("head"):
        mean = np.average(head["lift"].fillna(0), weights=head["pairs"])
        assert mean == pytest.approx(1)


def test_blocks_are_named_by_what_they_hold() -> None:
    classes = ["digits"] * 10 + ["operators"] * 10
    text = describe_mixing(planted(0.8), classes)
    assert "block 0 (100% of its queries are digits) attends to block 1 (100% of its keys" in text
    assert "75% of the edges, 25% of the pairs" in text  # .9 of .9 + 3 * .1


def test_without_blocks_the_keys_are_named() -> None:
    ones, popular = torch.ones(20, 1, 1), torch.ones(20, 1, 1)
    popular[10:] = 0.25
    sbm = SBM(ones, popular, torch.full((1, 1, 1), 0.8))
    text = describe_mixing(sbm, ["digits"] * 10 + ["operators"] * 10)
    assert "every query attends to 80% of the keys that are digits and to 20%" in text
    assert "are operators" in text
    assert "no block structure" in text


def test_the_clearest_head_is_described() -> None:
    vague, clear = planted(0.1), planted(0.8)
    member = torch.cat([vague.query_membership, clear.query_membership], 1)
    sbm = SBM(member, member, torch.cat([vague.affinity, clear.affinity]))
    assert "head 1" in describe_mixing(sbm, [0] * 10 + [1] * 10)


def test_nothing_sampled_or_no_tokens() -> None:
    empty = torch.zeros(0, 1, 2)
    assert "there are no tokens" in describe_mixing(SBM(empty, empty, torch.rand(1, 2, 2)), [])
    zero = torch.zeros(4, 1, 2)
    assert "density 0%" in describe_mixing(SBM(zero, zero, torch.rand(1, 2, 2)), "aabb")


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="'classes' must hold one class for each token, 13"):
        class_mixing(random_sbm(), ["a"])
    sbm = SBM(torch.rand(3, 1, 2), torch.rand(4, 1, 2), torch.rand(1, 2, 2))
    with pytest.raises(ValueError, match="'runs' must be self-attention"):
        describe_mixing(sbm, "abc")
