"""SBM attention where tensors have no values to sample from: ``torch.func``, shape inference,
tracing and export."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C._functorch import (
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
    peek_interpreter_stack,
)
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch_geometric.utils import softmax

from sbmgraph.graph import SampledGraph
from sbmgraph.sbm import SBM


def check_traceable(layer: str) -> None:
    """Refuses what would write one sampled graph, or none, into a program.

    Raises:
        ValueError: Under ``torch.export``, ``torch.onnx`` or ``torch.jit.trace``.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        _refuse_program(layer)


@torch.compiler.assume_constant_result  # or Dynamo wraps the error in a page of its own
def _refuse_program(layer: str) -> NoReturn:
    raise ValueError(
        f"'{layer}' must run in Python (torch.compile included), got torch.export, torch.onnx or "
        "torch.jit.trace: what it computes follows the values of its input (sampled graphs, "
        "lengths of sequences), which no exported program can hold"
    )


def has_no_values(x: Tensor) -> bool:
    """Whether ``x`` is for shape inference alone: on the meta device, or fake."""
    return x.is_meta or isinstance(x, FakeTensor)


def in_transform() -> bool:
    """Whether a ``torch.func`` transform is active."""
    return peek_interpreter_stack() is not None


def plain(x: Any) -> Any:
    """The values of ``x`` below all ``torch.func`` transforms, without gradient.

    Raises:
        ValueError: Under ``vmap``.
    """
    while isinstance(x, Tensor) and is_functorch_wrapped_tensor(x):
        if is_batchedtensor(x):
            raise ValueError(
                "'torch.vmap' must not map an SBM layer, got a batched tensor: put samples end to "
                "end and tell them apart by 'batch'"
            )
        x = get_unwrapped(x)
    return x.detach() if isinstance(x, Tensor) else x


@contextmanager
def sampling_model(sbm: SBM) -> Generator[SBM, None, None]:
    """Inside of ``torch.func`` transforms: leaves them, and gives the values of ``sbm`` to sample
    from."""
    factors = [plain(x) for x in (sbm.query_membership, sbm.key_membership, sbm.affinity)]
    query_batch, key_batch = (plain(x) for x in (sbm.query_batch, sbm.key_batch))
    with temporarily_clear_interpreter_stack():
        query, key, affinity = factors
        yield SBM.unchecked(query, key, affinity, query_batch, key_batch, sbm.num_graphs)


def refuse_script(layer: str) -> NoReturn:
    """Raises a :class:`ValueError`: TorchScript can hold no SBM layer."""
    raise ValueError(
        f"'{layer}' must run in Python, got torch.jit.script: TorchScript cannot sample graphs; "
        "use torch.compile"
    )


def edge_attention_plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    graph: SampledGraph,
    sbm: SBM | None,
    bias: Tensor | None,
    sampled: Tensor | None,
    estimator: str,
    scale: float | None,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """:func:`~sbmgraph.ops.edge_attention` and its weights in operations of torch alone, which
    every transform of ``torch.func`` but ``vmap`` can differentiate; memory is
    :math:`\\mathcal{O}(E (d + K))`."""
    scale = max(query.size(-1), 1) ** -0.5 if scale is None else scale
    source, target = graph.vertex_index
    accumulate = torch.promote_types(query.dtype, torch.float32)
    flat = [x.flatten(0, 1).to(accumulate) for x in (query, key, value)]
    score = (flat[0][target] * flat[1][source]).sum(-1) * scale
    absent = torch.zeros_like(score, dtype=torch.bool)
    if bias is not None:  # edges with a bias of minus infinity are as if they were not there
        absent = bias == -torch.inf
        score = score + bias.to(accumulate).masked_fill(absent, 0.0)
    if sbm is not None:
        rate = torch.einsum("nhk,hkl->nhl", sbm.query_membership, sbm.affinity).flatten(0, 1)
        prob = (rate[target] * sbm.key_membership.flatten(0, 1)[source]).sum(-1)
        gate = 1.0 + prob - prob.detach()
        if sampled is not None:
            gate = torch.where(sampled, gate, gate.detach())
        score = score * gate if estimator == "logit" else score + _ClipGradient.apply(gate) - 1.0
    num_vertices = flat[0].size(0)
    lowest = torch.finfo(score.dtype).min
    alpha = softmax(score.masked_fill(absent, lowest), target, num_nodes=num_vertices)
    alpha = alpha.masked_fill(absent, 0.0)
    message = flat[2][source] * torch.dropout(alpha, dropout, dropout > 0).unsqueeze(-1)
    out = message.new_zeros(num_vertices, value.size(-1)).index_add(0, target, message)
    return out.view(query.size(0), query.size(1), -1).to(query.dtype), alpha


class _ClipGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clamp(-1, 1)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent
