"""What every backend of edge attention must satisfy: functions of (device, backend).

The truth is the ``"reference"`` backend on the CPU, itself tested against dense masked softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from sbmgraph import SBM, SampledGraph
from sbmgraph.ops import edge_attention

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}

SHAPES = [
    # n, m, heads, d, dv, K
    (37, 37, 1, 32, 32, 16),
    (53, 41, 3, 5, 7, 3),
    (29, 67, 2, 40, 33, 19),
    (1, 130, 2, 16, 16, 1),
    (5, 1, 1, 16, 16, 16),
]


@dataclass
class Problem:
    """Inputs of an edge attention, in float64 on the CPU."""

    tensors: dict[str, Tensor]
    graph: SampledGraph
    grad: Tensor

    def results(
        self,
        device: str,
        backend: str,
        dtype: torch.dtype,
        estimator: str = "logit",
        use_bias: bool = True,
        use_sampled: bool = False,
    ) -> dict[str, Tensor]:
        """Output, weights and every gradient, as float64 on the CPU; with ``use_sampled`` a third
        of the edges were given, not sampled."""
        wide = torch.promote_types(dtype, torch.float32)
        narrow = ("query", "key", "value", "bias")
        leaves = {
            name: x.to(device, dtype if name in narrow else wide, copy=True).requires_grad_()
            for name, x in self.tensors.items()
        }
        sbm = SBM.unchecked(leaves["Y"], leaves["Z"], leaves["B"])
        qkv = [leaves[name] for name in ("query", "key", "value")]
        sampled = (torch.arange(self.graph.num_edges) % 3 > 0).to(device)
        out, weights = edge_attention(
            *qkv,
            self.graph.to(device),
            sbm,
            estimator,
            backend=backend,
            return_weights=True,
            bias=leaves["bias"] if use_bias else None,
            sampled=sampled if use_sampled else None,
        )
        assert out.dtype == dtype
        out.backward(self.grad.to(device, dtype))
        found = {"out": out, "weights": weights}
        found |= {
            f"grad of {name}": x.grad for name, x in leaves.items() if name != "bias" or use_bias
        }
        return {name: x.detach().double().cpu() for name, x in found.items()}


def random_graph(
    n: int, m: int, heads: int, density: float, generator: torch.Generator
) -> SampledGraph:
    """Random edges; the first query has none, the second one every key."""
    present = torch.rand(n, heads, m, generator=generator) < density
    present[0] = False
    if n > 1:
        present[1] = True
    else:
        present[0, 0] = True
    query, head, key = present.nonzero(as_tuple=True)
    return SampledGraph.from_edge_index(torch.stack([key, query]), n, m, heads, head)


def random_problem(
    n: int, m: int, heads: int, d: int, dv: int, K: int, density: float = 0.3, seed: int = 0
) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph(n, m, heads, density, generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = {
        "query": normal(n, heads, d),
        "key": normal(m, heads, d),
        "value": normal(m, heads, dv),
        "bias": normal(graph.num_edges),
        "Y": normal(n, heads, K).sigmoid(),
        "Z": normal(m, heads, K).sigmoid(),
        "B": normal(heads, K * K).softmax(-1).view(heads, K, K),
    }
    return Problem(tensors, graph, 3 * normal(n, heads, dv))


def check_results(
    problem: Problem, device: str, backend: str, dtype: torch.dtype, **options: object
) -> None:
    """Output, weights and all gradients equal the reference's, on the same rounded inputs."""
    problem = Problem(
        {name: x.to(dtype).double() for name, x in problem.tensors.items()},
        problem.graph,
        problem.grad.to(dtype).double(),
    )
    if dtype in (torch.bfloat16, torch.float16):
        exact = problem.results("cpu", "reference", torch.float64, **options)
    else:
        exact = problem.results("cpu", "reference", dtype, **options)
    found = problem.results(device, backend, dtype, **options)
    tolerance = TOLERANCE[dtype]
    for name, expected in exact.items():
        scale = max(1.0, expected.abs().max().item())
        error = (found[name] - expected).abs().max().item()
        assert error <= tolerance * scale, f"{name}: error {error:g} at a scale of {scale:g}"


def check_gradients(device: str, backend: str, dropout: float = 0.0) -> None:
    """Float64 gradcheck. With dropout the seed is fixed, so that forward and backward must drop the
    same edges."""
    problem = random_problem(5, 6, 2, 3, 4, 2)
    graph = problem.graph.to(device)
    names = ("query", "key", "value", "bias")
    inputs = [problem.tensors[name].to(device).requires_grad_() for name in names]

    def run(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        torch.manual_seed(0)
        return edge_attention(
            query, key, value, graph, dropout=dropout, training=True, backend=backend, bias=bias
        )

    assert torch.autograd.gradcheck(run, inputs)


def check_dropout(device: str, backend: str) -> None:
    """With values that mark their key, the output is the dropped weights: each is 0 or the weight
    over ``1 - p``, and the number of zeros is binomial (6 standard errors: 2e-9)."""
    n, p = 64, 0.3
    every = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    graph = SampledGraph.from_edge_index(every, n, n).to(device)
    zero = torch.zeros(n, 1, 4, device=device)
    value = torch.eye(n, device=device).unsqueeze(1)
    dropped = []
    for _ in range(3):
        out = edge_attention(
            zero, zero, value, graph, None, dropout=p, training=True, backend=backend
        ).squeeze(1)
        kept = out > 0
        torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / n / (1 - p)))
        zeros = (~kept).sum().item()
        assert abs(zeros - p * n * n) < 6 * (p * (1 - p)) ** 0.5 * n
        dropped.append(kept)
    assert not torch.equal(dropped[0], dropped[1])
    share = (dropped[0] & dropped[1]).float().mean().item()
    assert abs(share - (1 - p) ** 2) < 0.05


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fills what torch leaves uninitialised with NaN, or with a wild number."""

    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan") if tensor.is_floating_point() else 2**30 + 12345)

    empty, empty_like, new_empty = torch.empty, torch.empty_like, Tensor.new_empty
    with (
        mock.patch.object(torch, "empty", lambda *a, **k: poison(empty(*a, **k))),
        mock.patch.object(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k))),
        mock.patch.object(Tensor, "new_empty", lambda *a, **k: poison(new_empty(*a, **k))),
    ):
        yield
