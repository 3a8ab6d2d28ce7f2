"""Public functions and layers under mutated arguments: either they give a result (finite, where the
arguments are), or they refuse with the library's own error. Nothing else may pass.

An error is the library's own if it is a ValueError or TypeError that a line of this package raised,
and its message names an argument in quotes and what came. A call with the wrong number or names of
arguments, which Python itself refuses, is not tried.
"""

from __future__ import annotations

import inspect
import random
import re
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sbmgraph.analysis
from sbmgraph import SBM, SampledGraph, sample
from sbmgraph.analysis import density_table
from sbmgraph.nn import (
    GPSBlock,
    MembershipNetwork,
    SBMAttention,
    SBMConv,
    SBMHeads,
    SBMOptions,
    SBMTransformer,
    block_entropy,
    node_entropy,
)
from sbmgraph.ops import edge_attention
from sbmgraph.record import LayerSample

ROOT = str(Path(sbmgraph.__file__).parent)
GRAMMAR = re.compile(
    r"'[\w.]+'.*\b(must|needs)\b.*\bgot\b|must (be among|have the same)", re.DOTALL
)

Call = Callable[[random.Random], Any]


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape)


BATCH = torch.tensor([0, 0, 0, 1, 1])
EDGES = torch.tensor([[0, 1, 4], [1, 2, 3]])

ODD: list[Any] = [
    None, True, False, 0, 1, 2, 3, -1, 2.5, 0.0, 0.3, 1.0, -0.5, float("nan"), float("inf"), 40,
    "", "auto", "softmax", "sum", (), (1, 2), (1, 2, 3), [1], {}, {"a": 1}, object(), torch.float64,
]  # fmt: skip


def mutate(value: Any, rng: random.Random) -> Any:
    """Something else than ``value``, often of its kind."""
    if not isinstance(value, Tensor) or rng.random() < 0.2:
        return rng.choice(ODD) if rng.random() < 0.9 else mutate(numbers(5, 8), rng)
    changes: list[Callable[[Tensor], Any]] = [
        lambda x: x.double() if x.is_floating_point() else x.float(),
        lambda x: x.half() if x.is_floating_point() else x.int(),
        lambda x: x.bool(),
        lambda x: x.to(torch.complex64),
        lambda x: x[:-1],
        lambda x: x[:0],
        lambda x: x.unsqueeze(0),
        lambda x: x.flatten(),
        lambda x: x.sum(),
        lambda x: torch.cat([x, x]),
        lambda x: torch.cat([x, x], dim=-1),
        lambda x: x.flip(0),
        lambda x: -x if x.dtype != torch.bool else ~x,
        lambda x: x * 10**6,
        lambda x: x + 3,
        lambda x: x.masked_fill(torch.rand(x.shape) < 0.2, float("nan")).to(x.dtype),
        lambda x: x.masked_fill(torch.rand(x.shape) < 0.2, float("inf")).to(x.dtype),
        lambda x: x.transpose(0, -1),
        lambda x: x.to("meta"),
        lambda x: x.to_sparse(),
        lambda x: x.numpy() if x.dtype != torch.bfloat16 else x,
        lambda x: x.tolist(),
        lambda x: (x, x),
        lambda x: (x, x, x),
        lambda x: (x, None),
    ]
    try:
        return rng.choice(changes)(value)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return None


def mutated(arguments: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    out = dict(arguments)
    for name in rng.sample(sorted(out), k=min(rng.choice((0, 1, 1, 1, 2)), len(out))):
        out[name] = mutate(out[name], rng)
        rng.odd_values = getattr(rng, "odd_values", False) or not finite(out[name])
    return out


def finite(value: Any) -> bool:
    """Whether all numbers of an argument are."""
    if isinstance(value, tuple | list):
        return all(finite(part) for part in value)
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.is_meta:
        return True
    return bool(torch.isfinite(value.to_dense()).all())


OPTIONS: dict[str, Any] = {
    "num_clusters": 3, "membership": "sigmoid", "affinity": "clusters", "temperature": None,
    "learn_temperature": False, "shared_membership": True, "cluster_init": "kaiming",
    "init_density": 0.3, "max_density": None, "exploration": 0.01, "explore_in_evaluation": False,
    "law": "bernoulli", "algorithm": "auto", "backend": "auto", "estimator": "logit",
    "num_samples": 1,
}  # fmt: skip


def some_options(rng: random.Random) -> dict[str, Any]:
    names = rng.sample(sorted(OPTIONS), k=3)
    return {"num_clusters": 3, **{name: OPTIONS[name] for name in names}}


def layer(kind: type, arguments: dict[str, Any], rng: random.Random) -> Any:
    """A layer, whose own arguments are mutated every third time."""
    arguments = {**arguments, **some_options(rng)}
    return kind(**(mutated(arguments, rng) if rng.random() < 0.3 else arguments))


def factors() -> dict[str, Any]:
    return {
        "query_membership": torch.rand(5, 2, 3),
        "key_membership": torch.rand(5, 2, 3),
        "affinity": torch.rand(2, 3, 3) / 9,
        "query_batch": BATCH,
        "key_batch": BATCH,
    }


def call_sbm(rng: random.Random) -> Any:
    sbm = SBM(**mutated(factors(), rng))
    return sbm.expected_density()


def call_sample(rng: random.Random) -> Any:
    arguments = {
        "sbm": SBM(**factors()), "law": "bernoulli", "algorithm": "auto", "exploration": 0.1,
        "generator": torch.Generator(), "layout": "auto",
    }  # fmt: skip
    return sample(**mutated(arguments, rng)).density()


def call_edge_attention(rng: random.Random) -> Any:
    sbm = SBM(**factors())
    arguments = {
        "query": numbers(5, 2, 4), "key": numbers(5, 2, 4), "value": numbers(5, 2, 3),
        "graph": sample(sbm), "sbm": sbm, "estimator": "logit", "scale": 0.5, "dropout": 0.1,
        "training": True, "backend": "auto",
    }  # fmt: skip
    return edge_attention(**mutated(arguments, rng))


def call_from_edge_index(rng: random.Random) -> Any:
    arguments = {
        "edge_index": EDGES, "num_queries": 5, "num_keys": 5, "heads": 2,
        "query_batch": BATCH, "key_batch": BATCH,
    }  # fmt: skip
    return SampledGraph.from_edge_index(**mutated(arguments, rng)).density()


def call_options(rng: random.Random) -> Any:
    return SBMOptions(**mutated(OPTIONS, rng))


def call_membership(rng: random.Random) -> Any:
    net = layer(MembershipNetwork, {"channels": 4, "heads": 2}, rng)
    inputs = mutated({"query": numbers(5, 2, 4), "key": numbers(5, 2, 4)}, rng)
    return net(**inputs).expected_density()


def call_entropy(rng: random.Random) -> Any:
    measure = rng.choice((node_entropy, block_entropy))
    return measure(**mutated({"sbm": SBM(**factors())}, rng))


def call_heads(rng: random.Random) -> Any:
    heads = layer(SBMHeads, {"channels": 4, "heads": 2, "dropout": 0.1}, rng)
    inputs = {
        "query": numbers(5, 2, 4), "key": numbers(5, 2, 4), "value": numbers(5, 2, 3),
        "batch": BATCH, "scale": 0.5, "dropout": 0.1, "generator": None, "pe": None,
        "given": None, "bias": None, "batch_size": None,
    }  # fmt: skip
    return heads(**mutated(inputs, rng))


def call_conv(rng: random.Random) -> Any:
    conv = layer(
        SBMConv,
        {"in_channels": 8, "out_channels": 4, "heads": 2, "edge_dim": 1, "dropout": 0.1,
         "concat": True, "bias": True, "local_heads": 0, "pe_channels": 2, "bias_init": "zeros"},
        rng,
    )  # fmt: skip
    inputs = {
        "x": numbers(5, 8), "batch": BATCH, "edge_index": EDGES, "edge_attr": numbers(3, 1),
        "pe": numbers(5, 2), "generator": None, "size": None,
    }  # fmt: skip
    return conv(**mutated(inputs, rng))


def call_attention(rng: random.Random) -> Any:
    attention = layer(SBMAttention, {"channels": 8, "heads": 2, "head_channels": None}, rng)
    if rng.random() < 0.5:
        return attention(**mutated({"x": numbers(5, 8), "batch": BATCH, "generator": None}, rng))
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    return attention(**mutated({"x": numbers(2, 4, 8), "mask": mask, "pe": None}, rng))


def call_gps(rng: random.Random) -> Any:
    arguments = {
        "channels": 8, "conv": None, "heads": 2, "dropout": 0.1, "norm": "layer_norm",
        "attn_kwargs": some_options(rng),
    }  # fmt: skip
    if rng.random() < 0.3:
        name = rng.choice(("channels", "heads", "dropout"))
        arguments[name] = mutate(arguments[name], rng)
    inputs = {"x": numbers(5, 8), "batch": BATCH, "generator": None}
    return GPSBlock(**arguments)(edge_index=EDGES, **mutated(inputs, rng))


def call_transformer(rng: random.Random) -> Any:
    arguments = {
        "vocab_size": 9, "num_classes": 2, "channels": 8, "heads": 2, "num_layers": 1,
        "ffn_channels": 8, "max_length": 6, "dropout": 0.1, "pooling": "mean", "num_documents": 1,
        "embedding_std": 1.0, "position_std": None, "classifier_channels": None,
    }  # fmt: skip
    model = layer(SBMTransformer, arguments, rng)
    tokens = torch.tensor([1, 2, 3, 4, 5])
    inputs = {"tokens": tokens, "batch": BATCH, "generator": None, "position": None}
    if rng.random() < 0.5:
        mask = torch.tensor([[True] * 4, [True, True, False, False]])
        inputs = {"tokens": torch.ones(2, 4, dtype=torch.int64), "mask": mask}
    return model(**mutated(inputs, rng))


MEASURES = [
    value for name, value in vars(sbmgraph.analysis).items()
    if name in sbmgraph.analysis.__all__ and inspect.isfunction(value) and name != "write_graph"
]  # fmt: skip


def call_analysis(rng: random.Random) -> Any:
    """Any function of :mod:`sbmgraph.analysis`; numbers may be missing (NaN) in what it gives."""
    function = rng.choice(MEASURES)
    sbm = SBM(**factors())
    graph = sample(sbm)
    runs = [LayerSample("layer", torch.nn.Identity(), sbm, graph, 0.1, (), None)]
    known = {
        "sbm": sbm, "graph": graph, "layers": [graph], "runs": runs, "head": 0, "graph_index": 0,
        "weights": numbers(graph.num_edges).abs(), "mass": torch.rand(3, 3), "node": 1,
        "degree": torch.arange(4), "classes": torch.tensor([0, 1, 1]), "tokens": ["a", "b", "c"],
        "order": torch.tensor([2, 0, 1]), "exploration": 0.1, "table": density_table(runs),
        "strength": 0.2,
    }  # fmt: skip
    arguments = {
        parameter.name: known.get(parameter.name, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name in known or parameter.default is not parameter.empty
    }
    arguments = mutated(arguments, rng)
    if isinstance(arguments.get("graph"), int):
        return None  # the former name of an index
    function(**arguments)
    return None


CALLS: tuple[Call, ...] = (
    call_sbm, call_sample, call_edge_attention, call_from_edge_index, call_options,
    call_membership, call_entropy, call_heads, call_conv, call_attention, call_gps,
    call_transformer, call_analysis,
)  # fmt: skip


def fault(call: Call, seed: int) -> str | None:
    """What is wrong with one call, if anything."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    try:
        out = call(rng)
    except (ValueError, TypeError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if not frame.filename.startswith(ROOT):
            return f"{type(error).__name__} from outside, {frame.filename}:{frame.lineno}: {error}"
        if not GRAMMAR.search(str(error)):
            return f"not in the grammar: {error}"
        return None
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}, {frame.filename}:{frame.lineno}: {error}"
    if not finite(out) and not getattr(rng, "odd_values", False):
        return "a result that is not finite"
    return None


def run(count: int, start: int) -> None:
    found: dict[str, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            call = CALLS[number % len(CALLS)]
            wrong = fault(call, start + number)
            if wrong is not None:
                found.setdefault(f"{call.__name__}: {wrong[:300]}", start + number)
    assert not found, "\n".join(f"seed {seed}: {wrong}" for wrong, seed in found.items())


def test_mutated_calls_are_right_or_refused() -> None:
    run(2_000, 0)


@pytest.mark.slow
@pytest.mark.long
def test_many_mutated_calls_are_right_or_refused() -> None:
    run(50_000, 10_000)
