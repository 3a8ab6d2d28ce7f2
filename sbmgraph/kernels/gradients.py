"""How an operator gets its gradient: first derivatives by an operator of their own, no second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.library import CustomOpDef


def filled(grads: Sequence[Tensor | None], like: Tensor) -> list[Tensor]:
    """What an operator returns for gradients, some of which nobody needs: empty tensors for
    those."""
    return [like.new_empty(0) if grad is None else grad for grad in grads]


def register_gradient(
    forward: CustomOpDef,
    backward: CustomOpDef,
    differentiable: int,
    second: str,
    saves_results: bool = True,
) -> None:
    """Makes ``backward`` the gradient of ``forward``.

    ``backward`` takes the gradient of the first result, the results where they are saved, all
    tensors of ``forward``, its keyword arguments, and ``needs``: whose gradients are wanted. It
    returns a tensor for each differentiable one, empty where not.

    Args:
        forward: Its first ``differentiable`` tensors take gradients, its first result passes them.
        backward: Has no gradient itself.
        differentiable: How many of the first tensors take gradients.
        second: The error that a second derivative raises.
        saves_results: Whether ``backward`` takes the results, of which there are several.
    """

    def save(ctx: Any, inputs: tuple, keyword_only_inputs: dict[str, Any], output: Any) -> None:
        ctx.options = keyword_only_inputs
        ctx.save_for_backward(*(output if saves_results else ()), *inputs)
        ctx.set_materialize_grads(False)

    def gradient(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> tuple:
        inputs = len(ctx.needs_input_grad)
        if grad is None:
            return (None,) * inputs
        needs = list(ctx.needs_input_grad[:differentiable])
        grads = backward(grad, *ctx.saved_tensors, **ctx.options, needs=needs)
        wanted = [found if need else None for found, need in zip(grads, needs, strict=True)]
        return (*wanted, *(None,) * (inputs - differentiable))

    def no_second_derivative(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(second)

    forward.register_autograd(gradient, setup_context=save)
    backward.register_autograd(
        no_second_derivative, setup_context=lambda ctx, inputs, keyword_only_inputs, output: None
    )
