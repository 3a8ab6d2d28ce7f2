"""Which nodes and which sampled edges a prediction rests on.

PyG's explainers mask the edges of a model's input; those that an SBM layer samples belong to no
input, so they need a score of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.utils import scatter

from sbmgraph.checks import check_positive_int, describe
from sbmgraph.record import AttendedEdges, LayerSample, evaluating, record


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
        model (torch.nn.Module): A model with :class:`SBMConv` or other SBM layers.
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
    with torch.enable_grad(), evaluating(model), record(model, weights=True) as samples:
        predicted = output(model(*args, **kwargs))
        if not isinstance(predicted, Tensor) or predicted.numel() != 1:
            raise ValueError(f"'output' must return a scalar tensor, got {describe(predicted)}")
        if not samples or not predicted.requires_grad:
            raise ValueError("'model' must predict through an SBM layer, got none that ran")
        calls = _calls(samples)
        nodes = [*inputs[:1], *(source for _, source, _ in calls)]
        weights = [edges.weights for _, _, attended in calls for edges in attended]
        gradients = torch.autograd.grad(
            predicted.sum(), [*nodes, *weights], allow_unused=True, materialize_grads=True
        )
    node_scores = [
        (x * grad).detach().flatten(1).sum(-1) if x.dim() > 1 else (x * grad).detach()
        for x, grad in zip(nodes, gradients[: len(nodes)], strict=True)
    ]
    of_weights = iter(gradients[len(nodes) :])
    layers = [
        _layer_scores(name, attended, [next(of_weights) for _ in attended], node_score)
        for (name, _, attended), node_score in zip(
            calls, node_scores[len(inputs[:1]) :], strict=True
        )
    ]
    return Explanation(float(predicted.detach()), node_scores[0], layers)


class _Call(NamedTuple):
    layer: str
    source: Tensor
    attended: list[AttendedEdges]


def _calls(samples: Sequence[LayerSample]) -> list[_Call]:
    """The calls of layers; one that averages several graphs makes as many samples."""
    calls: list[_Call] = []
    for sample in samples:
        if sample.source is None:
            continue
        if not calls or calls[-1].source is not sample.source or calls[-1].layer != sample.name:
            calls.append(_Call(sample.name, sample.source, []))
        calls[-1].attended.extend(sample.attended)
    return calls


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


def _layer_scores(
    name: str, attended: list[AttendedEdges], gradients: list[Tensor], node_score: Tensor
) -> LayerScores:
    return LayerScores(
        name,
        torch.cat([edges.graph.edge_index for edges in attended], dim=1),
        torch.cat([edges.graph.head + edges.first_head for edges in attended]),
        torch.cat([edges.sampled for edges in attended]),
        torch.cat(
            [_edge_score(edges, grad) for edges, grad in zip(attended, gradients, strict=True)]
        ),
        node_score,
    )


def _edge_score(edges: AttendedEdges, gradient: Tensor) -> Tensor:
    """The derivative for every edge's logarithmic weight, from that for its share of its query."""
    share = edges.weights.detach() * gradient
    row = edges.graph.row
    total = scatter(share, row, dim_size=edges.graph.num_queries * edges.graph.heads)
    return share - edges.weights.detach() * total[row]
