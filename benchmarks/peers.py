"""What the benchmarks compare with, each written plainly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch_geometric.nn import TransformerConv

from sbmgraph import SBM, SampledGraph


def transformer_conv(query: Tensor, key: Tensor, value: Tensor, graph: SampledGraph):
    """The message passing of PyG's TransformerConv, projections left out, over the same edges: one
    vertex for each (node, head) pair."""
    conv = TransformerConv(query.size(-1), query.size(-1), heads=1)
    edge_index = graph.vertex_index
    q, k, v = (x.flatten(0, 1).unsqueeze(1) for x in (query, key, value))
    return lambda: conv.propagate(edge_index, query=q, key=k, value=v, edge_attr=None)


def sampled_addmm(query: Tensor, key: Tensor, value: Tensor, graph: SampledGraph):
    """Torch's sparse operations: scores by sampled_addmm, softmax on CSR values, CSR matmul.
    Forward only, as torch has no derivative for them."""
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))
    key_vertex, row = graph.vertex_index
    size = (q.size(0), k.size(0))
    zeros = torch.zeros(graph.num_edges)
    pattern = torch.sparse_csr_tensor(graph.rowptr, key_vertex, zeros, size)

    def run() -> Tensor:
        scores = torch.sparse.sampled_addmm(pattern, q, k.T, beta=0, alpha=q.size(1) ** -0.5)
        value_ = scores.values()
        top = torch.full((size[0],), -torch.inf).scatter_reduce_(0, row, value_, "amax")
        weight = (value_ - top[row]).exp_()
        total = torch.zeros(size[0]).index_add_(0, row, weight)
        weight = weight / total[row]
        return torch.sparse_csr_tensor(graph.rowptr, key_vertex, weight, size) @ v

    return run


def full_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None):
    """Torch's fused dense attention."""
    q, k, v = (x.transpose(0, 1).unsqueeze(0).contiguous() for x in (query, key, value))
    return lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask)


def flex_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor):
    """FlexAttention with the sampled mask, compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = (x.transpose(0, 1).unsqueeze(0).contiguous() for x in (query, key, value))
    block_mask = create_block_mask(
        lambda b, h, i, j: mask[h, i, j], 1, q.size(1), q.size(2), k.size(2), device=q.device
    )
    compiled = torch.compile(flex_attention)
    return lambda: compiled(q, k, v, block_mask=block_mask)


def textbook_fastrg(sbm: SBM) -> tuple[Tensor, Tensor]:
    """fastRG as published (Rohe et al., JMLR 2018) in torch operations: Poisson counts for pairs of
    blocks by one multinomial, then one multinomial a block for each side. Returns CSR with
    duplicates merged."""
    n, m, heads, K = sbm.num_queries, sbm.num_keys, sbm.heads, sbm.num_clusters
    edges = []
    for h in range(heads):
        Y, Z = sbm.query_membership[:, h].double(), sbm.key_membership[:, h].double()
        mass_y, mass_z = Y.sum(0), Z.sum(0)
        means = (mass_y[:, None] * sbm.affinity[h].double() * mass_z).flatten()
        total = int(torch.poisson(means.sum()))
        # torch.multinomial counts by drawing: the block pair of every edge.
        pairs = torch.multinomial(means, total, replacement=True).bincount(minlength=K * K)
        pairs = pairs.view(K, K)
        queries = [
            torch.multinomial(Y[:, u], int(count), replacement=True)
            for u, count in enumerate(pairs.sum(1))
            if count
        ]
        keys = torch.empty(total, dtype=torch.int64)
        block = torch.arange(K).repeat(K).repeat_interleave(pairs.flatten())
        for v, count in enumerate(pairs.sum(0)):
            if count:
                keys[block == v] = torch.multinomial(Z[:, v], int(count), replacement=True)
        edges.append((torch.cat(queries) * heads + h) * m + keys)
    edge = torch.cat(edges).unique()
    row = edge // m
    rowptr = torch.searchsorted(row, torch.arange(n * heads + 1))
    return rowptr, (edge - row * m).int()


def naive_dense_sample(sbm: SBM) -> list[Tensor]:
    """P = Y B Zᵀ, rand < P, nonzero: head by head."""
    out = []
    for h in range(sbm.heads):
        prob = sbm.query_membership[:, h] @ sbm.affinity[h] @ sbm.key_membership[:, h].T
        out.append((torch.rand_like(prob) < prob).nonzero())
    return out


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, prob: Tensor) -> Tensor:
        mask = (torch.rand_like(prob) < prob).to(prob.dtype)
        ctx.save_for_backward(mask)
        return mask

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (mask,) = ctx.saved_tensors
        return grad * mask


class DenseSBMAttention(nn.Module):
    """SBM attention in dense form: P, a Bernoulli mask, masked softmax; all [H, n, n]."""

    def __init__(self, channels: int, heads: int, clusters: int, density: float) -> None:
        super().__init__()
        self.heads = heads
        d = channels // heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.phi = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))
        self.clusters = nn.Parameter(torch.randn(heads, clusters, d) * (2 / d) ** 0.5)
        target = torch.tensor(density).sqrt()
        self.shift = torch.logit(target).item()

    def forward(self, x: Tensor) -> Tensor:
        n = x.size(0)
        q, k, v = self.qkv(x).view(n, 3, self.heads, -1).permute(1, 2, 0, 3)
        Y, Z = (
            (self.phi(y) @ self.clusters.transpose(1, 2) + self.shift).sigmoid() for y in (q, k)
        )
        B = (self.clusters @ self.clusters.transpose(1, 2)).flatten(1).softmax(-1)
        B = B.view(self.heads, self.clusters.size(1), -1)
        mask = _StraightThrough.apply(Y @ B @ Z.transpose(1, 2))
        score = q @ k.transpose(1, 2) * q.size(-1) ** -0.5
        score = (score * mask).masked_fill(mask == 0, -1e30)
        weight = score.softmax(-1) * mask
        return self.out((weight @ v).transpose(0, 1).flatten(1))


class FullAttention(nn.Module):
    """Multi-head attention over all pairs by ``scaled_dot_product_attention``."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n = x.size(0)
        q, k, v = self.qkv(x).view(n, 3, self.heads, -1).permute(1, 2, 0, 3).unsqueeze(1)
        return self.out(scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1))
