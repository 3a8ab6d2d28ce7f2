"""The operator of tile attention: registration, tracing, compilation, derivatives, backends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from sbmgraph.kernels.options import Factors, Options
from sbmgraph.kernels.tile import operator, reference
from tests.kernels.tile.checks import NAMES, TOLERANCE, Problem, random_problem

SEED = torch.tensor(5)


@pytest.fixture
def problem() -> Problem:
    return random_problem([9, 4], [8, 40])


def leaves(problem: Problem, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [problem.tensors[name].to(dtype).requires_grad_() for name in NAMES]


def attend(problem: Problem, options: Options) -> Callable[..., Tensor]:
    """The output as a function of the five tensors."""

    def run(*inputs: Tensor) -> Tensor:
        factors = Factors(*inputs[3:])
        return operator.attention(*inputs[:3], factors, problem.bits, options, SEED)[0]

    return run


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_is_a_proper_operator(problem: Problem, dropout: float, gate: bool) -> None:
    *vertices, rate, member = leaves(problem)
    factors = (rate, member) if gate else (None, None)
    options = {"scale": 0.5, "dropout": dropout, "estimator": "logit"}
    args = (*vertices, *factors, *problem.bits[:4], SEED)
    opcheck(torch.ops.sbmgraph.tile_attention.default, args, options)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("estimator", ["logit", "mask"])
def test_gradients_equal_the_dense_truth(dtype: torch.dtype, estimator: str) -> None:
    problem = random_problem([9, 4], [8, 40]).rounded(dtype)
    options = Options(0.5, 0.3, int(SEED), estimator)
    inputs = leaves(problem, dtype)
    out = attend(problem, options)(*inputs)
    grads = torch.autograd.grad(out, inputs, problem.grad.to(dtype))
    truth = problem.truth(options)
    for name, mine in zip(("out", *NAMES), (out, *grads), strict=True):
        exact, rtol = truth[name], 2 * TOLERANCE[dtype]
        atol = rtol * max(1.0, exact.abs().max().item())
        torch.testing.assert_close(mine.detach().double(), exact, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradcheck(problem: Problem, dropout: float) -> None:
    """Of queries, keys and values; the gate is no derivative of the output."""
    inputs = leaves(problem, torch.float64)
    run = attend(problem, Options(0.5, dropout, 0, "logit"))
    fixed = [x.detach() for x in inputs[3:]]
    assert torch.autograd.gradcheck(lambda *qkv: run(*qkv, *fixed), inputs[:3])


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_compiles_without_a_graph_break(problem: Problem, compiler: str, dropout: float) -> None:
    inputs = leaves(problem)
    run = attend(problem, Options(0.5, dropout, 0, "logit"))

    def loss(*inputs: Tensor) -> Tensor:
        return run(*inputs).square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=compiler)
    found = [torch.autograd.grad(function(*inputs), inputs) for function in (loss, compiled)]
    for eager, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, eager)


def test_second_derivative_is_a_clear_error(problem: Problem) -> None:
    inputs = leaves(problem)
    out = attend(problem, Options(0.5, 0.0, 0, "logit"))(*inputs)
    (grad,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative.*backend='reference'"):
        grad.sum().backward()


def test_only_needed_gradients_are_computed(problem: Problem) -> None:
    run = attend(problem, Options(0.5, 0.0, 0, "mask"))
    every = leaves(problem)
    run(*every).sum().backward()
    for index in range(5):
        inputs = [x.detach() for x in every]
        inputs[index].requires_grad_()
        run(*inputs).sum().backward()
        assert torch.equal(inputs[index].grad, every[index].grad)


def test_float64_is_the_references(problem: Problem) -> None:
    inputs = [x.detach() for x in leaves(problem, torch.float64)]
    options = Options(0.5, 0.3, int(SEED), "logit")
    expected = reference.forward(*inputs[:3], problem.bits, options)[0]
    assert torch.equal(attend(problem, options)(*inputs), expected)
