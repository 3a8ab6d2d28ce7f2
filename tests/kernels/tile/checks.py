"""What every implementation of tile attention must satisfy, against dense float64 truths.

Bits are packed, and dropout is drawn, by loops over Python integers that share no code with the
package.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from sbmgraph.kernels.bits import Bits
from sbmgraph.kernels.options import Factors, Options

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}

NAMES = ("query", "key", "value", "rate", "member")


def pack(mask: Tensor, queries: list[int], keys: list[int]) -> Bits:
    """Bits of a dense mask [n, H, m] that is False between graphs."""
    heads, words, word_ptr = mask.size(1), [], [0]
    first_query = first_key = 0
    for n, m in zip(queries, keys, strict=True):
        for query in range(first_query, first_query + n):
            for head in range(heads):
                row = mask[query, head, first_key : first_key + m].tolist()
                for start in range(0, m, 32):
                    word = sum(bit << t for t, bit in enumerate(row[start : start + 32]))
                    words.append(word - 2**32 if word >= 2**31 else word)
        word_ptr.append(len(words))
        first_query, first_key = first_query + n, first_key + m
    return Bits(
        torch.tensor(words, dtype=torch.int32),
        torch.tensor(word_ptr, dtype=torch.int64),
        _offsets(queries),
        _offsets(keys),
        heads,
    )


def _offsets(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *sizes], dtype=torch.int64).cumsum(0)


@dataclass
class Problem:
    """Inputs in float64 on the CPU; ``mask`` is [n, H, m]."""

    queries: list[int]
    keys: list[int]
    tensors: dict[str, Tensor]
    grad: Tensor
    mask: Tensor
    bits: Bits

    def rounded(self, dtype: torch.dtype) -> Problem:
        """With the numbers that ``dtype`` can hold."""
        tensors = {name: x.to(dtype).double() for name, x in self.tensors.items()}
        return Problem(
            self.queries,
            self.keys,
            tensors,
            self.grad.to(dtype).double(),
            self.mask,
            self.bits,
        )

    def results(
        self,
        kernels: ModuleType,
        options: Options,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        needs: tuple[bool, ...] = (True,) * 5,
        bits: Bits | None = None,
    ) -> dict[str, Tensor | None]:
        """Output, log-sum-exp and gradients of an implementation, as it gives them."""
        found = self.bits if bits is None else bits
        found = Bits(*(x.to(device) for x in found[:4]), found.heads)
        narrow = [self.tensors[name].to(device, dtype) for name in NAMES[:3]]
        wide = torch.promote_types(dtype, torch.float32)
        factors = Factors(*(self.tensors[name].to(device, wide) for name in NAMES[3:]))
        out, lse = kernels.forward(*narrow, found, options)
        grads = kernels.backward(
            self.grad.to(device, dtype), *narrow, factors, found, out, lse, options, needs
        )
        return {"out": out, "lse": lse, **dict(zip(NAMES, grads, strict=True))}

    def truth(self, options: Options) -> dict[str, Tensor]:
        """Dense masked softmax, its gradients by autograd; the gate's by the closed form."""
        query, key, value = leaves = [self.tensors[x].clone().requires_grad_() for x in NAMES[:3]]
        score = torch.einsum("nhd,mhd->nhm", query, key) * options.scale
        masked = score.masked_fill(~self.mask, float("-inf"))
        alpha = masked.softmax(-1).nan_to_num(0.0)
        factor = self.dropout_factor(options)
        out = torch.einsum("nhm,mhv->nhv", alpha * factor, value)
        grads = torch.autograd.grad(out, leaves, self.grad)
        with torch.no_grad():
            gate = torch.einsum("nhv,mhv->nhm", self.grad, value) * factor
            gate = alpha * (gate - (alpha * gate).sum(-1, keepdim=True))
            gate = gate * score if options.estimator == "logit" else gate.clamp(-1, 1)
            gate = gate * self.mask
            rate = torch.einsum("nhm,mhk->nhk", gate, self.tensors["member"])
            member = torch.einsum("nhm,nhk->mhk", gate, self.tensors["rate"])
        lse = torch.logsumexp(masked, -1)
        found = {"out": out, "lse": lse, **dict(zip(NAMES, (*grads, rate, member), strict=True))}
        return {name: x.detach() for name, x in found.items()}

    def dropout_factor(self, options: Options) -> Tensor:
        """What dropout multiplies each weight by, [n, H, m]; 1 where there is no edge."""
        factor = torch.ones(self.mask.shape, dtype=torch.float64)
        if options.dropout == 0:
            return factor
        graph_of = [g for g, n in enumerate(self.queries) for _ in range(n)]
        limit = torch.tensor(options.dropout, dtype=torch.float32)
        query_ptr, key_ptr = self.bits.query_ptr.tolist(), self.bits.key_ptr.tolist()
        for query, head, key in self.mask.nonzero().tolist():
            graph = graph_of[query]
            vertex = (query - query_ptr[graph]) * self.mask.size(1) + head
            local = key - key_ptr[graph]
            word = _philox(options.seed, [vertex, graph, local // 4, 5])[local % 4]
            u = torch.tensor(float(word >> 1), dtype=torch.float32) * 4.6566126e-10
            factor[query, head, key] = 0.0 if u < limit else 1 / (1 - options.dropout)
        return factor


def _philox(seed: int, counter: list[int]) -> list[int]:
    """Philox 4x32-10 of Salmon et al. (SC 2011)."""
    a, b, c, d = counter
    low, high, word = seed % 2**32, seed >> 32, 2**32
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right // word) ^ b ^ low, right % word, (left // word) ^ d ^ high, left % word
        low, high = (low + 0x9E3779B9) % word, (high + 0xBB67AE85) % word
    return [a, b, c, d]


def random_problem(
    queries: list[int],
    keys: list[int],
    heads: int = 2,
    d: int = 5,
    dv: int = 7,
    clusters: int = 3,
    density: float = 0.4,
    seed: int = 0,
) -> Problem:
    """Random edges; the first query of the batch has none, the last one every key."""
    generator = torch.Generator().manual_seed(seed)
    n, m = sum(queries), sum(keys)
    graph_of_query, graph_of_key = (
        torch.tensor([graph for graph, size in enumerate(x) for _ in range(size)])
        for x in (queries, keys)
    )
    mask = torch.rand(n, heads, m, generator=generator) < density
    mask[:1], mask[-1:] = False, True
    mask &= (graph_of_query[:, None] == graph_of_key)[:, None]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = {
        "query": normal(n, heads, d),
        "key": normal(m, heads, d),
        "value": normal(m, heads, dv),
        "rate": normal(n, heads, clusters).sigmoid(),
        "member": normal(m, heads, clusters).sigmoid(),
    }
    bits = pack(mask, queries, keys)
    return Problem(queries, keys, tensors, 3 * normal(n, heads, dv), mask, bits)


def check(
    problem: Problem,
    kernels: ModuleType,
    options: Options,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    bits: Bits | None = None,
) -> None:
    """Output, log-sum-exp and every gradient equal the dense truth of the same rounded inputs."""
    problem = problem.rounded(dtype)
    truth = problem.truth(options)
    found = problem.results(kernels, options, dtype, device, bits=bits)
    assert found["out"].dtype == found["query"].dtype == dtype
    empty = ~problem.mask.any(-1)
    for name, exact in truth.items():
        mine = found[name].double().cpu()
        if name in ("out", "query", "rate"):
            assert not mine[empty].any(), f"{name}: rows without an edge"
        if name == "lse":
            assert torch.equal(mine == float("-inf"), empty)
            mine, exact = mine[~empty], exact[~empty]
        if exact.numel() == 0:
            continue
        # The gate's products are taken in bfloat16 where the inputs are float16.
        half = dtype == torch.float16 and name in ("rate", "member")
        tolerance = TOLERANCE[torch.bfloat16 if half else dtype]
        error = (mine - exact).abs().max().item()
        scale = max(1.0, exact.abs().max().item())
        assert error <= tolerance * scale, f"{name}: error {error:g} at scale {scale:g}"
