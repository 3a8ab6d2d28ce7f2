"""Tiles over bits on the CPU against dense attention in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Factors, Options
from sbmgraph.kernels.tile import cpu

ALL = (True,) * 5
NAMES = ("query", "key", "value", "rate", "member")


class Case:
    """Random inputs of a ragged batch, and their attention computed densely."""

    def __init__(
        self, queries, keys, heads, d, dv, clusters, density=0.3, dtype=torch.float32, seed=0
    ):
        generator = torch.Generator().manual_seed(seed)
        n, m = sum(queries), sum(keys)
        draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
        self.query, self.key, self.value = draw(n, heads, d), draw(m, heads, d), draw(m, heads, dv)
        self.rate, self.member = draw(n, heads, clusters).abs(), draw(m, heads, clusters).abs()
        self.grad_out = draw(n, heads, dv)
        self.edge = torch.zeros(heads, n, m, dtype=torch.bool)
        query_ptr = torch.tensor([0, *itertools.accumulate(queries)])
        key_ptr = torch.tensor([0, *itertools.accumulate(keys)])
        words, starts = [], [0]
        for g in range(len(queries)):
            rows, columns = slice(*query_ptr[g : g + 2]), slice(*key_ptr[g : g + 2])
            edge = torch.rand(queries[g], heads, keys[g], generator=generator) < density
            self.edge[:, rows, columns] = edge.transpose(0, 1)
            width = -(-keys[g] // 32) * 32
            padded = np.zeros((queries[g] * heads, width), dtype=np.uint8)
            padded[:, : keys[g]] = edge.flatten(0, 1).numpy()
            packed = np.packbits(padded, axis=1, bitorder="little").view(np.int32)
            words.append(torch.from_numpy(packed.reshape(-1).copy()))
            starts.append(starts[-1] + packed.size)
        self.bits = Bits(torch.cat(words), torch.tensor(starts), query_ptr, key_ptr, heads)

    def tile(self, options: Options, needs=ALL, gated=True) -> tuple:
        """Output, log-sum-exp and gradients of the kernels."""
        inputs = (self.query, self.key, self.value)
        out, lse = cpu.forward(*inputs, self.bits, options)
        factors = Factors(self.rate, self.member) if gated else None
        grads = cpu.backward(self.grad_out, *inputs, factors, self.bits, out, lse, options, needs)
        return out, lse, grads

    def dense(self, options: Options) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The same in float64, with every pair."""
        names = (self.query, self.key, self.value)
        q, k, v = (x.detach().double().requires_grad_() for x in names)
        W, Z, grad = self.rate.double(), self.member.double(), self.grad_out.double()
        score = torch.einsum("ihd,jhd->hij", q, k) * options.scale
        # The paper's gate multiplies the score of an edge, and is 1 there.
        gate = self.edge.double().requires_grad_()
        gated = score * gate if options.estimator == "logit" else score
        hidden = gated.masked_fill(~self.edge, -torch.inf)
        raw = torch.exp(hidden - hidden.amax(-1, keepdim=True).clamp(min=-1e300))
        if options.estimator == "mask":  # the authors' multiplies the softmax and normalises again
            raw = raw * gate
        alpha = raw / raw.sum(-1, keepdim=True).clamp(min=1e-300)
        out = torch.einsum("hij,jhc->ihc", alpha * self.keep(options), v)
        q_, k_, v_, G = torch.autograd.grad(out, (q, k, v, gate), grad)
        if options.estimator == "mask":
            G = G.clamp(-1, 1)
        G = G * self.edge
        products = torch.einsum("hij,jhk->ihk", G, Z), torch.einsum("hij,ihk->jhk", G, W)
        return out.detach(), torch.logsumexp(hidden, -1).t().detach(), [q_, k_, v_, *products]

    def keep(self, options: Options) -> Tensor:
        """The factors of dropout, number by number."""
        out = torch.ones(self.edge.shape, dtype=torch.float64)
        if options.dropout == 0:
            return out
        heads, starts, ends = self.bits.heads, self.bits.query_ptr, self.bits.key_ptr
        for g in range(starts.numel() - 1):
            for i, j in itertools.product(
                range(int(starts[g]), int(starts[g + 1])), range(int(ends[g]), int(ends[g + 1]))
            ):
                for h in range(heads):
                    key = j - int(ends[g])
                    vertex = (i - int(starts[g])) * heads + h
                    word = philox(options.seed, (vertex, g, key // 4, 5))[key % 4]
                    u = np.float32(word >> 1) * np.float32(4.6566126e-10)
                    dropped = u < np.float32(options.dropout)
                    out[h, i, j] = 0 if dropped else 1 / (1 - options.dropout)
        return out


def philox(seed: int, counter: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Philox 4×32-10 in whole numbers, as Salmon et al. (SC 2011) define it."""
    low = 0xFFFFFFFF
    k0, k1 = seed & low, seed >> 32
    a, b, c, d = counter
    for _ in range(10):
        x, y = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (y >> 32) ^ b ^ k0, y & low, (x >> 32) ^ d ^ k1, x & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return a, b, c, d


def compare(case: Case, options: Options, tolerance: float) -> None:
    out, lse, grads = case.tile(options)
    true_out, true_lse, true_grads = case.dense(options)
    assert out.dtype == case.query.dtype
    assert lse.dtype == torch.promote_types(case.query.dtype, torch.float32)
    torch.testing.assert_close(out.double(), true_out, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lse.double(), true_lse, rtol=tolerance, atol=tolerance)
    for name, grad, true, like in zip(
        NAMES, grads, true_grads, (case.query, case.key, case.value, case.rate, case.member),
        strict=True,
    ):  # fmt: skip
        assert (grad.dtype, grad.shape) == (like.dtype, like.shape), name
        atol = tolerance * max(1.0, float(true.abs().max()) if true.numel() else 0.0)
        torch.testing.assert_close(
            grad.double(), true, rtol=tolerance, atol=atol, msg=lambda text, name=name: name + text
        )


def options(estimator="logit", dropout=0.0, seed=0, scale=0.37) -> Options:
    return Options(scale, dropout, seed, estimator)


SHAPES = {
    "one": ([1], [1], 1, 1, 1, 1),
    "small": ([3, 1, 7], [5, 2, 1], 2, 3, 5, 4),
    "empty graphs": ([0, 5, 4, 0], [3, 0, 6, 0], 3, 8, 16, 7),
    "tiles": ([97, 50], [193, 33], 2, 32, 32, 32),
    "wide": ([61], [101], 1, 70, 37, 129),
}


@pytest.mark.parametrize("estimator", ["logit", "mask"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_equals_dense(shape, estimator):
    compare(Case(*shape), options(estimator), 2e-5)


@pytest.mark.parametrize("estimator", ["logit", "mask"])
def test_equals_dense_in_float64(estimator):
    compare(Case([61, 7], [101, 9], 2, 20, 9, 5, dtype=torch.float64), options(estimator), 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precisions(dtype, tolerance):
    compare(Case([61, 20], [70, 9], 2, 16, 16, 8, dtype=dtype), options(), tolerance)


@pytest.mark.parametrize("density", [0.0, 0.01, 1.0])
def test_densities(density):
    compare(Case([40, 9], [120, 3], 2, 16, 16, 8, density=density), options(), 2e-5)


def test_rows_without_an_edge():
    case = Case([40], [60], 2, 16, 16, 8, density=0.02)
    empty = ~case.edge.any(-1).t()
    assert 0 < empty.sum() < empty.numel()
    out, lse, grads = case.tile(options())
    assert (out[empty] == 0).all()
    assert (lse[empty] == -torch.inf).all()
    assert (grads[0][empty] == 0).all()
    assert (grads[3][empty] == 0).all()


@pytest.mark.parametrize("estimator", ["logit", "mask"])
def test_dropout(estimator):
    case = Case([7, 30], [9, 50], 2, 16, 16, 8, density=0.5)
    compare(case, options(estimator, dropout=0.3, seed=2**62 + 12345), 2e-5)


def test_large_scores():
    """Scores in the thousands neither overflow nor lose the highest."""
    case = Case([30], [200], 1, 16, 16, 4)
    out, lse, _ = case.tile(options(scale=300.0))
    true_out, true_lse, _ = case.dense(options(scale=300.0))
    torch.testing.assert_close(lse.double(), true_lse, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(out.double(), true_out, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("place", range(5))
def test_only_what_is_needed(place):
    case = Case([50], [70], 2, 16, 24, 8)
    needs = tuple(i == place for i in range(5))
    grads, every = case.tile(options(), needs)[2], case.tile(options())[2]
    for i, grad in enumerate(grads):
        if i == place:
            torch.testing.assert_close(grad, every[i], rtol=0, atol=0)
        else:
            assert grad is None


def test_without_factors():
    case = Case([50], [70], 2, 16, 24, 8)
    grads, every = case.tile(options(), gated=False)[2], case.tile(options())[2]
    assert grads[3] is None
    assert grads[4] is None
    for grad, true in zip(grads[:3], every[:3], strict=True):
        torch.testing.assert_close(grad, true, rtol=0, atol=0)


def test_threads_give_the_same_bits():
    """A head large enough to be cut into parts, and small graphs that are not."""
    case = Case([1000, 30, 200], [301, 40, 100], 1, 8, 8, 4, density=0.4)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2):
            torch.set_num_threads(count)
            out, lse, grads = case.tile(options(dropout=0.1, seed=3))
            runs.append((out, lse, *grads))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*runs, strict=True):
        assert torch.equal(one, two)


def test_parts_of_a_head_add_up():
    compare(Case([1000], [301], 1, 8, 8, 4), options(), 5e-5)


def test_nothing_uninitialised_is_read():
    """Torch's memory begins as NaN; the kernels' own is what a run over NaN left behind."""
    shape = ([55, 7], [131, 9], 2, 20, 20, 11)
    case, poison = Case(*shape), Case(*shape)
    for x in (poison.query, poison.key, poison.value, poison.rate, poison.member):
        x.fill_(float("nan"))
    torch.use_deterministic_algorithms(True)
    try:
        poison.tile(options())
        compare(case, options(), 2e-5)
    finally:
        torch.use_deterministic_algorithms(False)


def test_nan_is_not_lost():
    case = Case([4], [40], 1, 8, 8, 4, density=0.5)
    case.query[1] = float("nan")
    out, lse, _ = case.tile(options())
    assert out[1].isnan().all()
    assert lse[1].isnan().all()
    assert out[[0, 2, 3]].isfinite().all()


def test_a_graph_does_not_depend_on_its_batch():
    both = Case([40, 70], [50, 33], 2, 16, 16, 8, seed=5)
    out, lse, grads = both.tile(options())
    bits = both.bits
    alone = Case([40], [50], 2, 16, 16, 8)
    for name in ("query", "rate", "grad_out"):
        setattr(alone, name, getattr(both, name)[:40])
    for name in ("key", "value", "member"):
        setattr(alone, name, getattr(both, name)[:50])
    alone.bits = Bits(
        bits.words[: int(bits.word_ptr[1])], bits.word_ptr[:2], bits.query_ptr[:2],
        bits.key_ptr[:2], 2,
    )  # fmt: skip
    out_, lse_, grads_ = alone.tile(options())
    assert torch.equal(out[:40], out_)
    assert torch.equal(lse[:40], lse_)
    for grad, grad_ in zip(grads, grads_, strict=True):
        assert torch.equal(grad[: grad_.size(0)], grad_)
