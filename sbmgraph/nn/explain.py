"""Which nodes and which sampled edges a prediction rests on.

PyG's explainers mask the edges of a model's input; those that an SBM layer samples belong to no
input, so they need a score of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sbmgraph.checks import check_positive_int, describe
from sbmgraph.graph import SampledGraph
from sbmgraph.nn.conv import SBMConv


class EdgeScore(NamedTuple):
    """One edge of an :class:`Explanation`.

    Attributes:
        layer: Qualified name of the layer in the model.
        head: Head of the layer.
        key: Source node.
        query: Target node.
        score: The edge's score.
    """

    layer: str
    head: int
    key: int
    query: int
    score: float


@dataclass(frozen=True)
class LayerScores:
    r"""The scores of one call of one layer.

    Attributes:
        layer (str): Qualified name of the layer in the model.
        edge_index (Tensor): Key (row 0) and query (row 1) of every edge that the layer attended
            over, int64 of shape :obj:`[2, E]`.
        head (Tensor): Head of every edge, int64 of shape :obj:`[E]`.
        sampled (Tensor): Whether the edge was sampled (and not given), boolean of shape
            :obj:`[E]`.
        edge_score (Tensor): :math:`\partial f / \partial \log w_{ij}` of every edge, of shape
            :obj:`[E]`; see :func:`explain`.
        node_score (Tensor): :math:`\mathbf{x}_j \cdot \partial f / \partial \mathbf{x}_j` of the
            nodes that the layer read keys from, of shape :obj:`[m]`.
    """

    layer: str
    edge_index: Tensor
    head: Tensor
    sampled: Tensor
    edge_score: Tensor
    node_score: Tensor


@dataclass(frozen=True)
class Explanation:
    """What one prediction rests on.

    Attributes:
        prediction (float): The explained number :math:`f`.
        node_score (Tensor): Score of every node, of shape :obj:`[n]`: of the model's first
            floating-point input if there is one, else of the first SBM layer's.
        layers (list): The scores of every SBM layer, in the order of the calls.
    """

    prediction: float
    node_score: Tensor
    layers: list[LayerScores]

    def top_edges(self, k: int = 10) -> list[EdgeScore]:
        """The ``k`` edges with the largest absolute score over all layers, largest first.

        Raises:
            ValueError: If ``k`` is not a positive integer.
        """
        check_positive_int("k", k)
        found = []
        for scores in self.layers:
            best = scores.edge_score.abs().topk(min(k, scores.edge_score.numel())).indices
            columns = (*scores.edge_index[:, best], scores.head[best], scores.edge_score[best])
            for key, query, head, score in zip(*(c.tolist() for c in columns), strict=True):
                found.append(EdgeScore(scores.layer, head, key, query, score))
        return sorted(found, key=lambda edge: -abs(edge.score))[:k]


def explain(
    model: nn.Module,
    *args: Any,
    index: int | None = None,
    target: int | None = None,
    output: Callable[[Any], Tensor] | None = None,
    **kwargs: Any,
) -> Explanation:
    r"""Scores nodes and attended edges for one number :math:`f` that ``model`` predicts.

    The weight of an edge is :math:`w_{ij} = e^{A_{ij}}`, :math:`\alpha_{ij} = w_{ij} / \sum_l
    w_{il}`. Its score is the first-order change of the prediction when that weight grows,

    .. math::
        \frac{\partial f}{\partial \log w_{ij}} = \alpha_{ij} \left( \mathbf{g}_i \cdot
        \mathbf{v}_j - \mathbf{g}_i \cdot \mathbf{o}_i \right), \qquad
        \mathbf{g}_i = \frac{\partial f}{\partial \mathbf{o}_i},

    attention times gradient, against what the query would get from its other edges: positive where
    the edge raises the prediction, 0 for a query's only edge, and summing to 0 over each query's
    edges. A node's score is its input times gradient, the straight-through gradient of the sampling
    included. Scores hold for the graphs that this one run
    samples: pass a ``generator`` that the model takes, or average several explanations.

    The model runs in evaluation mode; its mode, weights and gradients are left as they were.

    Args:
        model (torch.nn.Module): A model with :class:`SBMConv` layers.
        *args: The model's inputs.
        index (int, optional): Row of the output (the node or graph) to explain. (default: the
            sum over rows)
        target (int, optional): Column of the output (the class). (default: the largest of the row,
            or of the summed rows)
        output (Callable, optional): Picks the scalar from the model's output instead of ``index``
            and ``target``.
        **kwargs: The model's named inputs.

    Returns:
        Explanation: Scores of nodes, and of each layer's edges.

    Raises:
        ValueError: If the model has no SBM layer that the prediction depends on, or the row or
            column does not exist.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"'model' must be a torch.nn.Module, got {describe(model)}")
    if output is None:
        output = partial(_pick, index=index, target=target)
    args, inputs = _with_gradient(args)
    named, more = _with_gradient(tuple(kwargs.values()))
    kwargs, inputs = dict(zip(kwargs, named, strict=True)), inputs + more
    with torch.enable_grad(), _evaluation(model), _watch(model) as calls:
        predicted = output(model(*args, **kwargs))
        if not isinstance(predicted, Tensor) or predicted.numel() != 1:
            raise ValueError(f"'output' must return a scalar tensor, got {describe(predicted)}")
        if not calls or not predicted.requires_grad:
            raise ValueError("'model' must predict through an SBMConv layer, got none that ran")
        nodes = [*inputs[:1], *(call.x for call in calls)]
        edges = [group.bias for call in calls for group in call.groups]
        gradients = torch.autograd.grad(
            predicted.sum(), [*nodes, *edges], allow_unused=True, materialize_grads=True
        )
    node_scores = [
        (x * grad).detach().sum(-1) for x, grad in zip(nodes, gradients[: len(nodes)], strict=True)
    ]
    edge_scores = iter(gradients[len(nodes) :])
    of_calls = node_scores[len(inputs[:1]) :]
    layers = [
        _layer_scores(call, [next(edge_scores) for _ in call.groups], node_score)
        for call, node_score in zip(calls, of_calls, strict=True)
    ]
    return Explanation(float(predicted.detach()), node_scores[0], layers)


class _Group(NamedTuple):
    graph: SampledGraph
    sampled: Tensor
    bias: Tensor


class _Call(NamedTuple):
    layer: str
    heads: int
    x: Tensor
    groups: list[_Group]


@contextmanager
def _watch(model: nn.Module) -> Generator[list[_Call], None, None]:
    """Notes what every SBM layer reads, and adds a zero that takes a gradient to the score of each
    edge that it attends over."""
    calls: list[_Call] = []

    def begin(name: str, layer: SBMConv, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else kwargs["x"]
        source = x[0] if isinstance(x, tuple) else x
        if not source.requires_grad:
            source.requires_grad_()
        calls.append(_Call(name, layer.heads, source, []))

    def attend(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        graph = kwargs["graph"]
        sampled = kwargs["sampled"]
        if sampled is None:
            sampled = torch.full_like(graph.col, kwargs["sbm"] is not None, dtype=torch.bool)
        value = args[2]
        zero = value.new_zeros(graph.num_edges, dtype=torch.promote_types(value.dtype, torch.float))
        zero.requires_grad_()
        calls[-1].groups.append(_Group(graph, sampled, zero))
        bias = zero if kwargs["bias"] is None else kwargs["bias"] + zero
        return args, {**kwargs, "bias": bias}

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, SBMConv):
            hook = partial(begin, name)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            handles.append(module.attention.register_forward_pre_hook(attend, with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluation(model: nn.Module) -> Generator[None, None, None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _with_gradient(args: tuple) -> tuple[tuple, list[Tensor]]:
    """Copies of the floating-point inputs that take a gradient."""
    copies = [
        arg.detach().clone().requires_grad_()
        if isinstance(arg, Tensor) and arg.is_floating_point()
        else arg
        for arg in args
    ]
    taken = [copy for copy in copies if isinstance(copy, Tensor) and copy.is_floating_point()]
    return tuple(copies), taken


def _pick(out: Any, index: int | None, target: int | None) -> Tensor:
    """The entry of a model's output [rows, classes] (or [rows]) that is explained."""
    if not isinstance(out, Tensor) or out.dim() not in (1, 2):
        raise ValueError(
            "'output' must pick a scalar where the model does not return a matrix, "
            f"got {describe(out)}"
        )
    table = out.unsqueeze(-1) if out.dim() == 1 else out
    for name, value, size in (("index", index, table.size(0)), ("target", target, table.size(1))):
        if value is not None and not 0 <= value < size:
            raise ValueError(f"'{name}' must be None or in [0, {size}), got {value!r}")
    row = table.sum(0) if index is None else table[index]
    return row[row.argmax() if target is None else target]


def _layer_scores(call: _Call, gradients: list[Tensor], node_score: Tensor) -> LayerScores:
    heads, start = [], 0
    for group in call.groups:
        heads.append(group.graph.head + start)
        start = (start + group.graph.heads) % call.heads
    return LayerScores(
        call.layer,
        torch.cat([group.graph.edge_index for group in call.groups], dim=1),
        torch.cat(heads),
        torch.cat([group.sampled for group in call.groups]),
        torch.cat(gradients),
        node_score,
    )
