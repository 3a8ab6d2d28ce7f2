"""Dense float64 truths that share no code with the package."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sbmgraph import SBM, SampledGraph


def dense_mask(graph: SampledGraph) -> Tensor:
    """The sampled mask [n, H, m], from the CSR alone."""
    mask = torch.zeros(graph.num_queries, graph.heads, graph.num_keys, dtype=torch.bool)
    for vertex in range(graph.num_queries * graph.heads):
        start, stop = graph.rowptr[vertex].item(), graph.rowptr[vertex + 1].item()
        for edge in range(start, stop):
            mask[vertex // graph.heads, vertex % graph.heads, graph.col[edge].item()] = True
    return mask


def dense_prob(sbm: SBM, exploration: float = 0.0) -> Tensor:
    """Edge probabilities [n, H, m]; 0 between graphs."""
    prob = torch.einsum("nhk,hkl,mhl->nhm", sbm.query_membership, sbm.affinity, sbm.key_membership)
    prob = (prob + exploration).clamp(max=1)
    if sbm.query_batch is None:
        return prob
    return prob * (sbm.query_batch[:, None, None] == sbm.key_batch)


@dataclass
class DenseAttention:
    """Masked softmax attention with the straight-through gradients spelled out.

    ``mask`` is [n, H, m]; ``bias`` likewise (zero off the mask).
    """

    mask: Tensor
    scale: float
    estimator: str
    bias: Tensor | None = None

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output [n, H, dv], scores and weights [n, H, m]."""
        score = torch.einsum("nhd,mhd->nhm", query, key) * self.scale
        if self.bias is not None:
            score = score + self.bias
        masked = score.masked_fill(~self.mask, float("-inf"))
        alpha = masked.softmax(dim=-1).nan_to_num(0.0)
        return torch.einsum("nhm,mhd->nhd", alpha, value), score, alpha

    def gradients(
        self, query: Tensor, key: Tensor, value: Tensor, sbm: SBM, grad: Tensor
    ) -> dict[str, Tensor]:
        """Gradients of ⟨grad, output⟩, the memberships' and affinity's from the closed form."""
        inputs = [x.detach().clone().requires_grad_() for x in (query, key, value)]
        out, _, _ = self.forward(*inputs)
        names = ("query", "key", "value")
        found = dict(zip(names, torch.autograd.grad(out, inputs, grad), strict=True))
        with torch.no_grad():
            _, score, alpha = self.forward(query, key, value)
            g = torch.einsum("nhd,mhd->nhm", grad, value)
            centred = alpha * (g - (alpha * g).sum(-1, keepdim=True))
            edge = centred * score if self.estimator == "logit" else centred.clamp(-1, 1)
            edge = edge * self.mask
            Y, Z, B = sbm.query_membership, sbm.key_membership, sbm.affinity
            through = torch.einsum("nhm,mhk->nhk", edge, Z)
            found["query_membership"] = torch.einsum("nhl,hkl->nhk", through, B)
            found["key_membership"] = torch.einsum("nhm,nhk,hkl->mhl", edge, Y, B)
            found["affinity"] = torch.einsum("nhk,nhl->hkl", Y, through)
        return found


def random_sbm(
    n: int = 7,
    m: int = 9,
    heads: int = 2,
    clusters: int = 3,
    batch: bool = True,
    scale: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> SBM:
    """A random SBM with an asymmetric affinity, over two graphs of unequal size with ``batch``."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    affinity = uniform(heads, clusters, clusters) ** 3
    affinity = scale * affinity / affinity.sum((1, 2), keepdim=True)
    query_batch = (torch.arange(n) >= n // 3).long() if batch else None
    key_batch = (torch.arange(m) >= m - m // 3).long() if batch else None
    return SBM(
        uniform(n, heads, clusters).to(dtype),
        uniform(m, heads, clusters).to(dtype),
        affinity.to(dtype),
        query_batch,
        key_batch,
    )
