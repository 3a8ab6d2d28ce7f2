"""The torch operators: registration, tracing, compilation, derivatives."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import sbmgraph.kernels
from sbmgraph import SBM, SampledGraph
from sbmgraph.ops import edge_attention, edge_prob
from tests.ops.checks import Problem, random_problem

H = 2


@pytest.fixture
def problem() -> Problem:
    return random_problem(9, 8, H, 4, 5, 3)


def vertices(problem: Problem, *names: str) -> list[Tensor]:
    return [problem.tensors[name].float().flatten(0, 1).requires_grad_() for name in names]


def factors(problem: Problem) -> list[Tensor]:
    return [problem.tensors[name].float().requires_grad_() for name in ("Y", "Z")]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_attention_operator(problem: Problem, dropout: float) -> None:
    graph = problem.graph
    bias = problem.tensors["bias"].float().requires_grad_()
    sampled = torch.arange(graph.num_edges) % 3 > 0
    inputs = vertices(problem, "query", "key", "value")
    for extra in ((bias, *factors(problem), sampled), (None,) * 4):
        args = (*inputs, *extra, *graph.csr[:4], *graph.csc(), torch.tensor(3))
        options = {"heads": H, "scale": 0.5, "dropout": dropout, "estimator": "logit"}
        opcheck(torch.ops.sbmgraph.edge_attention.default, args, options)


def test_edge_dot_operator(problem: Problem) -> None:
    graph = problem.graph
    args = (*factors(problem), *graph.csr[:4], *graph.csc())
    opcheck(torch.ops.sbmgraph.edge_dot.default, args, {"heads": H})


def test_transpose_operator(problem: Problem) -> None:
    graph = problem.graph
    options = {"heads": H, "num_keys": graph.num_keys}
    opcheck(torch.ops.sbmgraph.transpose.default, (graph.rowptr, graph.col), options)


def test_options_of_every_operator_are_keyword_only() -> None:
    kernels = Path(sbmgraph.kernels.__file__).parent
    for path in kernels.glob("*/operator.py"):
        importlib.import_module(f"sbmgraph.kernels.{path.parent.name}.operator")
    names = [name for name in torch._C._dispatch_get_all_op_names() if "sbmgraph::" in name]
    assert len(names) >= 11
    for name in names:
        schema = getattr(torch.ops.sbmgraph, name.removeprefix("sbmgraph::")).default._schema
        for argument in schema.arguments:
            tensor = str(argument.type) in ("Tensor", "Optional[Tensor]")
            assert argument.kwarg_only != tensor, f"{name}: {argument.name}"


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_compiles_without_a_graph_break(problem: Problem, compiler: str, dropout: float) -> None:
    names = ("query", "key", "value", "Y", "Z", "B")
    inputs = [problem.tensors[name].float().requires_grad_() for name in names]

    def loss(graph: SampledGraph, *inputs: Tensor) -> Tensor:
        query, key, value, Y, Z, B = inputs
        sbm = SBM.unchecked(Y, Z, B)
        out = edge_attention(query, key, value, graph, sbm, dropout=dropout, training=True)
        return out.square().sum()

    torch._dynamo.reset()
    found = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend=compiler)):
        torch.manual_seed(0)
        found.append(torch.autograd.grad(function(problem.graph, *inputs), inputs))
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager)


def test_second_derivative_is_a_clear_error(problem: Problem) -> None:
    inputs = [problem.tensors[name].float().requires_grad_() for name in ("query", "key", "value")]
    out = edge_attention(*inputs, problem.graph, backend="fused")
    (grad,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative.*backend='reference'"):
        grad.sum().backward()
    sbm = SBM.unchecked(*(problem.tensors[x].float().requires_grad_() for x in ("Y", "Z", "B")))
    (grad,) = torch.autograd.grad(
        edge_prob(sbm, problem.graph).square().sum(), sbm.key_membership, create_graph=True
    )
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


def test_only_needed_gradients_are_computed(problem: Problem) -> None:
    query, key, value = (problem.tensors[name].float() for name in ("query", "key", "value"))
    full = [x.clone().requires_grad_() for x in (query, key, value)]
    edge_attention(*full, problem.graph, backend="fused").sum().backward()
    for index in range(3):
        inputs = [query, key, value]
        inputs[index] = inputs[index].clone().requires_grad_()
        edge_attention(*inputs, problem.graph, backend="fused").sum().backward()
        assert torch.equal(inputs[index].grad, full[index].grad)
