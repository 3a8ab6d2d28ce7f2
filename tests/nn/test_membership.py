"""From queries and keys to SBMs: both parametrisations, their start and their regularisers."""

from __future__ import annotations

import math

import pytest
import torch

from sbmgraph import SBM, record
from sbmgraph.nn import (
    GPSBlock,
    MembershipNetwork,
    SBMAttention,
    SBMConv,
    SBMTransformer,
    block_entropy,
    node_entropy,
)
from sbmgraph.nn.models import build_model

H, D, K = 3, 6, 5


def nodes(n: int, seed: int = 0, channels: int = D) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, H, channels, generator=generator, dtype=torch.float64)


def network(**options) -> MembershipNetwork:
    torch.manual_seed(0)
    return MembershipNetwork(D, H, K, **options).double()


def phi(layers: torch.nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    hidden = (x @ layers[0].weight.T + layers[0].bias).clamp(min=0)
    return hidden @ layers[2].weight.T + layers[2].bias


@pytest.mark.parametrize("membership", ["sigmoid", "softmax"])
@pytest.mark.parametrize("affinity", ["clusters", "free"])
@pytest.mark.parametrize("learn_temperature", [False, True])
@pytest.mark.parametrize("shared_membership", [False, True])
def test_the_equations(membership, affinity, learn_temperature, shared_membership) -> None:
    net = network(
        membership=membership,
        affinity=affinity,
        temperature=2.5,
        learn_temperature=learn_temperature,
        shared_membership=shared_membership,
        init_density=0.1,
    )
    query, key = nodes(7), nodes(9, 1)
    sbm = net(query, key)
    C = net.clusters
    tau = 2.5 if net.log_temperature is None else net.log_temperature.exp()[:, None]
    of_query = tau * torch.einsum("nhd,hkd->nhk", phi(net.phi, query), C)
    of_key = tau * torch.einsum(
        "nhd,hkd->nhk", phi(net.phi if shared_membership else net.phi_key, key), C
    )
    logits = C @ C.transpose(1, 2) if affinity == "clusters" else net.affinity_logits
    if membership == "softmax":
        truth = (
            of_query.softmax(-1),
            of_key.softmax(-1),
            (logits + net.affinity_offset[:, None, None]).sigmoid(),
        )
    else:
        b = math.log(math.sqrt(0.1) / (1 - math.sqrt(0.1)))
        truth = (
            (of_query + b).sigmoid(),
            (of_key + b).sigmoid(),
            logits.flatten(1).softmax(-1).view(H, K, K),
        )
    for mine, theirs in zip(
        (sbm.query_membership, sbm.key_membership, sbm.affinity), truth, strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    prob = torch.einsum("nhk,hkl,mhl->nhm", *(truth[0], truth[2], truth[1]))
    assert prob.min() > 0
    assert prob.max() < 1
    names = {name for name, _ in net.named_parameters()}
    assert ("affinity_logits" in names) == (affinity == "free")
    assert ("log_temperature" in names) == learn_temperature
    sbm.expected_density().sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None or name == "clusters", name


@pytest.mark.parametrize("density", [0.02, 0.25, 0.9])
@pytest.mark.parametrize(("affinity", "clusters"), [("clusters", 2), ("clusters", 16), ("free", 5)])
def test_softmax_density_starts_where_it_is_asked_for(density, affinity, clusters) -> None:
    """Over 40 initialisations of 8 heads with standard normal queries and keys, the mean lies
    within 4.5 standard errors (false alarms: 7e-6 a case), each below 1 % of the target."""
    found = []
    for seed in range(40):
        torch.manual_seed(seed)
        net = MembershipNetwork(
            8, 8, clusters, membership="softmax", affinity=affinity, init_density=density
        )
        query, key = torch.randn(2, 64, 8, 8)
        with torch.no_grad():
            found.append(net(query, key).expected_density().mean())
    found = torch.stack(found).double()
    error = found.std().item() / math.sqrt(len(found))
    assert error < 0.01 * density
    assert abs(found.mean().item() - density) < 4.5 * error


@pytest.mark.parametrize("membership", ["sigmoid", "softmax"])
def test_density_can_be_set_for_given_nodes(membership: str) -> None:
    net = network(membership=membership, temperature=3.0)
    query, key = 4 * nodes(40), 2 * nodes(30, 1)
    for density in (0.01, 0.3, 0.97):
        net.set_density(density, query, key)
        found = net(query, key).expected_density()
        assert found.mean().item() == pytest.approx(density, rel=1e-6)
    with pytest.raises(ValueError, match="'query' and 'key' must be given together"):
        net.set_density(0.1, query)
    with pytest.raises(ValueError, match="'density' must be a number in"):
        net.set_density(1.0)


def test_softmax_offset_travels_in_the_state_dict() -> None:
    first = network(membership="softmax", init_density=0.05)
    second = network(membership="softmax")
    assert not torch.equal(first.affinity_offset, second.affinity_offset)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.affinity_offset, second.affinity_offset)
    first.set_density(0.5)
    before = first.affinity_offset.clone()
    first.reset_parameters()
    assert not torch.equal(first.affinity_offset, before)


@pytest.mark.parametrize(("init", "variance"), [("kaiming", 2 / 64), ("authors", 2 / (64 * 50))])
def test_cluster_initialisation(init: str, variance: float) -> None:
    """The variance of 38,400 normal numbers has a standard error of sqrt(2 / 38400) = 0.72 %; it
    lies within 5 of them (false alarms: 6e-7)."""
    torch.manual_seed(0)
    net = MembershipNetwork(64, 12, 50, cluster_init=init)
    assert net.clusters.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / 38_400))


def test_free_affinities_start_from_the_clusters() -> None:
    free, tied = network(affinity="free"), network()
    torch.testing.assert_close(free.affinity(), tied.affinity())


def test_every_layer_has_the_second_parametrisation() -> None:
    options = {"membership": "softmax", "num_clusters": 4, "learn_temperature": True}
    x, batch = torch.randn(9, 8), torch.tensor([0] * 4 + [1] * 5)
    tokens = torch.arange(9)
    model = {"vocab_size": 9, "num_classes": 2, "channels": 8, "max_length": 9}
    for layer, inputs in (
        (SBMConv(8, 4, heads=2, **options), (x, batch)),
        (SBMAttention(8, 2, **options), (x, None, batch)),
        (GPSBlock(8, None, 2, attn_kwargs=options), (x, None, batch)),
        (SBMTransformer(**model, **options), (tokens, batch)),
        (build_model("sbm", **model, **options), (tokens, batch)),
    ):
        with record(layer) as runs:
            layer(*inputs).sum().backward()
        affinity = runs[0].sbm.affinity
        assert affinity.sum() > 1.5 * affinity.size(0), "not one distribution over all pairs"
        torch.testing.assert_close(
            runs[0].sbm.query_membership.sum(-1), torch.ones(9, affinity.size(0))
        )
        clusters = [w for name, w in layer.named_parameters() if name.endswith("log_temperature")]
        assert all(weight.grad.abs().sum() > 0 for weight in clusters)
        copied = {name: value + 1 for name, value in layer.state_dict().items()}
        layer.load_state_dict(copied)


def random_sbm(sharp: float) -> SBM:
    query, key = (sharp * nodes(n, n, K)).softmax(-1), (sharp * nodes(n + 2, 1, K)).softmax(-1)
    return SBM(query, key, torch.rand(H, K, K, dtype=torch.float64))


n = 11


def test_entropies() -> None:
    sbm = random_sbm(1.0)
    both = torch.cat([sbm.query_membership, sbm.key_membership])
    by_node = -(both * both.log()).sum(-1).mean(0, keepdim=True)
    torch.testing.assert_close(node_entropy(sbm), by_node)
    mean = both.mean(0, keepdim=True)
    torch.testing.assert_close(block_entropy(sbm), -(mean * mean.log()).sum(-1))
    crisp = random_sbm(1e4)
    assert node_entropy(crisp).max() < 1e-6
    assert block_entropy(crisp).min() > 0.5
    even = SBM(*(torch.full((4, H, K), 0.3) for _ in range(2)), torch.rand(H, K, K))
    torch.testing.assert_close(node_entropy(even), torch.full((1, H), math.log(K)))
    torch.testing.assert_close(block_entropy(even), torch.full((1, H), math.log(K)))


def test_entropies_of_a_batch_are_those_of_its_graphs_and_differentiable() -> None:
    query, key = nodes(7, 0, K).sigmoid().requires_grad_(), nodes(6, 1, K).sigmoid()
    affinity = torch.rand(H, K, K, dtype=torch.float64)
    query_batch, key_batch = torch.tensor([0] * 3 + [1] * 4), torch.tensor([0] * 4 + [1] * 2)
    sbm = SBM(query, key, affinity, query_batch, key_batch)
    for measure in (node_entropy, block_entropy):
        whole = measure(sbm)
        for graph in range(2):
            part = SBM(query[query_batch == graph], key[key_batch == graph], affinity)
            torch.testing.assert_close(whole[graph], measure(part)[0])
        assert torch.autograd.grad(whole.sum(), query)[0].abs().sum() > 0
        with pytest.raises(ValueError, match="'sbm' must be an SBM"):
            measure("sbm")
