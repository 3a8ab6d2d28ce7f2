from __future__ import annotations

import numpy as np
import pytest
import torch

from sbmgraph import SBM
from sbmgraph import analysis as sa
from sbmgraph.analysis.strength import CLEAR, RANK_ONE, describe_strength
from tests.planted import PROB, planted_blocks, planted_sbm


def dense_strength(sbm, head, graph):
    """σ₂/σ₁ of the n×m matrix itself."""
    query, key, affinity = sa.factors(sbm, head, graph)
    value = np.linalg.svd(query @ affinity @ key.T, compute_uv=False)
    return value[1] / value[0] if value.size > 1 and value[0] > 0 else 0.0


@pytest.mark.parametrize("model", ["batched", "bipartite"])
def test_strength_equals_the_svd_of_the_dense_matrix(model, request):
    """Ragged batches, an empty graph, and graphs with more and fewer tokens than blocks."""
    sbm = request.getfixturevalue(model)
    strength = sa.block_strength(sbm)
    assert strength.shape == (sbm.num_graphs, sbm.heads)
    assert strength.dtype == np.float64
    for graph, head in np.ndindex(*strength.shape):
        truth = dense_strength(sbm, head, graph)
        assert strength[graph, head] == pytest.approx(truth, rel=1e-9, abs=1e-12)


def test_strength_with_more_blocks_than_tokens():
    generator = torch.Generator().manual_seed(0)
    query, key = (
        torch.rand(3, 2, 16, generator=generator),
        torch.rand(40, 2, 16, generator=generator),
    )
    sbm = SBM(query, key, torch.rand(2, 16, 16, generator=generator) / 64)
    for head in range(2):
        assert sa.block_strength(sbm)[0, head] == pytest.approx(dense_strength(sbm, head, 0))


def test_rank_one_has_no_strength_and_planted_blocks_have_theirs():
    """Memberships that rise and fall together: activity of the query × popularity of the key."""
    generator = torch.Generator().manual_seed(0)
    active, popular = (
        torch.rand(60, 1, 1, generator=generator),
        torch.rand(50, 1, 1, generator=generator),
    )
    sbm = SBM(active.expand(60, 1, 8), popular.expand(50, 1, 8), torch.full((1, 8, 8), 1 / 64))
    assert sa.block_strength(sbm)[0, 0] < 1e-12
    sizes = (24, 16, 8)
    sbm, _ = planted_sbm(sizes)
    root = np.sqrt(sizes)
    value = np.linalg.svd(root[:, None] * np.array(PROB) * root, compute_uv=False)
    assert sa.block_strength(sbm)[0, 0] == pytest.approx(value[1] / value[0], rel=1e-9)


@pytest.mark.parametrize("size", [0, 1])
def test_graphs_too_small_for_blocks_have_none(size):
    member = torch.rand(size, 2, 4)
    assert (sa.block_strength(SBM(member, torch.rand(5, 2, 4), torch.rand(2, 4, 4))) == 0).all()


def test_one_block_and_no_edges():
    one = SBM(torch.rand(6, 1, 1), torch.rand(6, 1, 1), torch.rand(1, 1, 1))
    assert sa.block_strength(one).tolist() == [[0.0]]
    none = SBM(torch.zeros(6, 1, 3), torch.rand(6, 1, 3), torch.rand(1, 3, 3))
    assert sa.block_strength(none).tolist() == [[0.0]]


def test_strength_takes_no_gradient_and_any_dtype():
    member = torch.rand(9, 1, 3, requires_grad=True)
    sbm = SBM(member, member, torch.rand(1, 3, 3, requires_grad=True) / 3)
    half = SBM(member.detach().half(), member.detach().half(), torch.rand(1, 3, 3).half())
    assert sa.block_strength(sbm).shape == sa.block_strength(half).shape == (1, 1)


def test_margins():
    member = torch.tensor([[0.8, 0.2, 0.1], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.7, 0.0]])
    sbm = SBM(member.unsqueeze(1), member[:2].unsqueeze(1), torch.rand(1, 3, 3))
    query, key = sa.membership_margin(sbm)
    np.testing.assert_allclose(query, [0.75, 0.0, 0.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(key, query[:2])
    one = SBM(torch.tensor([[[0.3]], [[0.0]]]), torch.rand(2, 1, 1), torch.rand(1, 1, 1))
    assert sa.membership_margin(one)[0].tolist() == [1.0, 0.0]


def test_agreement_with_known_classes():
    """1 for the planted classes under other names; about 0 for shuffled ones (its expectation is 0,
    and the largest of 30 stays below 0.15 for 480 tokens: the spread is below 0.01)."""
    pytest.importorskip("sklearn")
    sbm, blocks = planted_sbm((240, 160, 80))
    names = np.array(["digit", "operator", "bracket"])[blocks]
    assert sa.block_agreement(sbm, names) == pytest.approx(1.0)
    assert sa.block_agreement(sbm, torch.from_numpy(blocks), side="key") == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    shuffled = [sa.block_agreement(sbm, rng.permutation(names)) for _ in range(30)]
    assert max(map(abs, shuffled)) < 0.15
    assert abs(np.mean(shuffled)) < 0.01
    with pytest.raises(ValueError, match=r"'classes' must hold one class .*, 480, got 3"):
        sa.block_agreement(sbm, [1, 2, 3])


def test_agreement_without_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.metrics", None)
    sbm, blocks = planted_sbm()
    with pytest.raises(ImportError, match=r"sbmgraph\[viz\]"):
        sa.block_agreement(sbm, blocks)


def test_sentences():
    sbm, _ = planted_sbm()
    sentence = sa.describe_blocks(sbm)
    strength = sa.block_strength(sbm)[0, 0]
    assert strength > CLEAR
    assert sentence.startswith("Clear block structure")
    assert f"{strength:.2g}" in sentence
    flat = torch.rand(12, 1, 1).expand(12, 1, 4)
    rank_one = SBM(flat, flat, torch.full((1, 4, 4), 0.06))
    assert "this head learned query activity × key popularity" in sa.describe_blocks(rank_one)
    assert sa.describe_blocks(rank_one).startswith("No block structure: rank one")
    assert describe_strength(RANK_ONE * 0.99).startswith("no block structure")
    assert describe_strength(RANK_ONE).startswith("weak blocks")
    assert describe_strength(CLEAR) == "blocks, strength 0.2"
    with pytest.raises(ValueError, match="'strength' must"):
        describe_strength(float("nan"))


def test_strengths_are_means_over_graphs_with_pairs_and_over_samples(runs):
    """The batch of ``runs`` has an empty graph, which counts for nothing."""
    out = sa.strengths(runs)
    assert list(out) == ["layers.0", "layers.1"]
    truth = sa.block_strength(runs[0].sbm)[[0, 2]].mean(axis=0)
    np.testing.assert_allclose(out["layers.0"], truth)
    np.testing.assert_allclose(sa.strengths(runs[0].sbm)[""], truth)
    with pytest.raises(ValueError, match="'runs' must be a Recorder"):
        sa.strengths([3])


def test_blocks_recover_the_planted_classes_only_where_there_are_blocks():
    pytest.importorskip("sklearn")
    blocks = planted_blocks()
    flat = torch.rand(len(blocks), 1, 1, generator=torch.Generator().manual_seed(1)).expand(
        -1, 1, 3
    )
    rank_one = SBM(flat, flat, torch.full((1, 3, 3), 0.1))
    assert sa.block_agreement(rank_one, blocks) == pytest.approx(0.0, abs=1e-9)
    assert sa.block_strength(rank_one)[0, 0] < RANK_ONE
