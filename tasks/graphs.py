"""Long-range node classification on generated graphs: SBM attention beside local, dense, linear and
fixed sparse attention.

    python tasks/graphs.py --config tasks/configs/graphs.yaml

writes ``tasks/results/graphs.json`` after every run, and picks up where it stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

# Read when torch loads OpenMP: threads that wait by spinning slow a busy machine down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torch_geometric
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GAT, GCN, GIN, GINConv, GPSConv

import sbmgraph
from sbmgraph import SampledGraph, record
from sbmgraph.nn import GPSBlock, split_membership
from sbmgraph.ops import edge_attention

# Data #############################################################################################


class GraphBatch(NamedTuple):
    """A batch of generated graphs.

    Attributes:
        x: Two token numbers of every node, of shape ``[n, 2]``.
        edge_index: Edges, of shape ``[2, E]``.
        batch: Graph of each node, of shape ``[n]``.
        node: The nodes to classify, of shape ``[t]``.
        y: Their classes, of shape ``[t]``.
    """

    x: Tensor
    edge_index: Tensor
    batch: Tensor
    node: Tensor
    y: Tensor


@dataclass(frozen=True)
class TreeNeighboursMatch:
    """The over-squashing task of Alon & Yahav (ICLR 2021, Section 4.1).

    In a complete binary tree every leaf holds a key and a value, both permutations; the root holds
    one key and must answer with the value of the leaf that holds the same. Edges lead from child
    to parent, so local message passing has to squeeze :math:`2^{depth}` pairs into one vector.
    """

    depth: int

    @property
    def name(self) -> str:
        return f"tree-{self.depth}"

    @property
    def num_tokens(self) -> int:
        return 2**self.depth + 1

    @property
    def num_classes(self) -> int:
        return 2**self.depth

    @property
    def local_layers(self) -> int:
        return self.depth + 1

    def sample(self, num_graphs: int, generator: torch.Generator) -> GraphBatch:
        leaves, size = 2**self.depth, 2 ** (self.depth + 1) - 1
        keys, values = (
            torch.rand(num_graphs, leaves, generator=generator).argsort(dim=1) for _ in range(2)
        )
        wanted = torch.randint(leaves, (num_graphs,), generator=generator)
        x = torch.zeros(num_graphs, size, 2, dtype=torch.int64)
        x[:, 0, 0] = wanted + 1
        x[:, leaves - 1 :, 0] = keys + 1
        x[:, leaves - 1 :, 1] = values + 1
        y = values[keys == wanted.unsqueeze(1)]
        child = torch.arange(1, size)
        tree = torch.stack([child, (child - 1) // 2])
        root = torch.arange(num_graphs) * size
        edge_index = (tree.unsqueeze(1) + root.view(1, -1, 1)).flatten(1)
        batch = torch.arange(num_graphs).repeat_interleave(size)
        return GraphBatch(x.flatten(0, 1), edge_index, batch, root, y)


@dataclass(frozen=True)
class DistantPartners:
    """Planted partition whose communities need to know of one another from afar.

    Communities form a ring: edges are dense inside one, sparse between neighbours, absent
    otherwise. Each has a random bit that only a few of its nodes, the sources, show. The class of
    every node is the bit of the community on the other side of the ring.
    """

    communities: int = 8
    size: int = 12
    sources: int = 2
    inside: float = 0.4
    between: float = 0.03

    name = "partners"
    num_classes = 2

    @property
    def num_tokens(self) -> int:
        return max(self.communities, 3)

    @property
    def local_layers(self) -> int:
        return self.communities // 2 + 3

    def sample(self, num_graphs: int, generator: torch.Generator) -> GraphBatch:
        count = self.communities * self.size
        community = torch.arange(self.communities).repeat_interleave(self.size)
        step = (community.unsqueeze(1) - community).abs()
        step = torch.minimum(step, self.communities - step)
        prob = (step == 0) * self.inside + (step == 1) * self.between
        chosen = torch.rand(num_graphs, count, count, generator=generator) < prob.triu(1)
        graph, i, j = chosen.nonzero(as_tuple=True)
        i, j = i + graph * count, j + graph * count
        edge_index = torch.stack([torch.cat([i, j]), torch.cat([j, i])])

        bit = torch.randint(2, (num_graphs, self.communities), generator=generator)
        order = torch.rand(num_graphs, self.communities, self.size, generator=generator)
        source = order.argsort(dim=2) < self.sources
        shown = torch.where(source, bit.unsqueeze(2) + 1, 0).flatten()
        x = torch.stack([community.repeat(num_graphs), shown], dim=1)
        y = bit.roll(self.communities // 2, dims=1).repeat_interleave(self.size, dim=1).flatten()
        batch = torch.arange(num_graphs).repeat_interleave(count)
        return GraphBatch(x, edge_index, batch, torch.arange(y.numel()), y)


Task = TreeNeighboursMatch | DistantPartners
TASKS: dict[str, Task] = {
    **{f"tree-{depth}": TreeNeighboursMatch(depth) for depth in range(2, 8)},
    "partners": DistantPartners(),
}

# Models ###########################################################################################


class ExpanderAttention(nn.Module):
    """Attention over a fixed expander (the union of random cycles, as in Exphormer: Shirzad et
    al., ICML 2023) and self-loops, on the same sparse operation as SBM attention."""

    def __init__(self, channels: int, heads: int, cycles: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.heads, self.cycles, self.seed = heads, cycles, seed
        self.lin_in = nn.Linear(channels, 3 * channels)
        self.lin_out = nn.Linear(channels, channels)

    def reset_parameters(self) -> None:
        self.lin_in.reset_parameters()
        self.lin_out.reset_parameters()

    def pattern(self, batch: Tensor) -> SampledGraph:
        """Every node's neighbours on random cycles through its graph, and itself; the same for
        batches of the same sizes."""
        generator = torch.Generator().manual_seed(self.seed)
        node = torch.arange(batch.numel())
        edges = [torch.stack([node, node])]
        ptr = torch.searchsorted(batch, torch.arange(int(batch[-1]) + 2))
        for _ in range(self.cycles):
            order = torch.rand(batch.numel(), generator=generator, dtype=torch.float64)
            tour = (batch + order).argsort()
            following = node + 1
            following[ptr[1:] - 1] = ptr[:-1]
            cycle = torch.stack([tour, tour[following]])
            edges += [cycle, cycle.flip(0)]
        return SampledGraph.from_edge_index(
            torch.cat(edges, dim=1), heads=self.heads, query_batch=batch, key_batch=batch
        )

    def forward(self, x: Tensor, batch: Tensor, **kwargs: Any) -> Tensor:
        query, key, value = self.lin_in(x).view(x.size(0), 3, self.heads, -1).unbind(1)
        out = edge_attention(query, key, value, self.pattern(batch))
        assert isinstance(out, Tensor)
        return self.lin_out(out.flatten(1))


def gps(layer: Callable[..., nn.Module], channels: int, heads: int, **kwargs: Any) -> nn.Module:
    """One GPS layer with GIN as its local part."""
    mlp = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))
    return layer(channels, GINConv(mlp), heads=heads, **kwargs)


class GraphTransformer(nn.Module):
    """A stack of GPS layers."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, edge_index, batch)
        return x


class NodeClassifier(nn.Module):
    """Embeddings of a node's two tokens, a body over the graph, a classifier."""

    def __init__(self, task: Task, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(task.num_tokens, channels) for _ in range(2))
        self.body = body
        self.classifier = nn.Linear(channels, task.num_classes)

    def forward(self, data: GraphBatch) -> Tensor:
        x = sum(embed(data.x[:, i]) for i, embed in enumerate(self.embeddings))
        x = self.body(x, data.edge_index, batch=data.batch)
        return self.classifier(x[data.node])


@dataclass
class Setting:
    """Everything of a run but its task, model and seed.

    Attributes:
        steps: Optimizer steps, each on fresh graphs.
        batch_size: Graphs a step.
        learning_rate: Peak of a one-cycle schedule of Adam.
        membership_lr: The same for the membership networks of SBM attention.
        channels: Channels of the nodes.
        heads: Attention heads.
        attention_layers: Layers of models with global attention; the others get enough layers to
            reach the relevant nodes.
        num_clusters: Blocks of SBM attention.
        init_density: Expected density of SBM attention at the start, if not its default.
        density_penalty: Weight of SBM attention's expected density in the loss.
        test_graphs: Graphs in the test set.
    """

    steps: int = 500
    batch_size: int = 32
    learning_rate: float = 3e-3
    membership_lr: float = 3e-3
    channels: int = 32
    heads: int = 2
    attention_layers: int = 2
    num_clusters: int = 16
    init_density: float | None = None
    density_penalty: float = 1e-2
    test_graphs: int = 512


LOCAL = {"gcn": GCN, "gin": GIN, "gat": GAT}
MODELS = (*LOCAL, "gps-dense", "gps-performer", "gps-sbm", "gps-expander")


def build_body(name: str, task: Task, setting: Setting) -> nn.Module:
    """The graph part of a model.

    Raises:
        ValueError: If the name is unknown.
    """
    channels, heads = setting.channels, setting.heads
    if name in LOCAL:
        return LOCAL[name](
            channels, channels, task.local_layers, channels, norm="batch_norm", jk="cat"
        )
    layers: list[nn.Module] = []
    for seed in range(setting.attention_layers):
        if name == "gps-sbm":
            options: dict[str, Any] = {"num_clusters": setting.num_clusters}
            if setting.init_density is not None:
                options["init_density"] = setting.init_density
            layer = gps(GPSBlock, channels, heads, attn_kwargs=options)
        elif name == "gps-expander":
            layer = gps(GPSBlock, channels, heads)
            layer.attn = ExpanderAttention(channels, heads, seed=seed)
        elif name == "gps-dense":
            layer = gps(GPSConv, channels, heads, attn_type="multihead")
        elif name == "gps-performer":
            layer = gps(GPSConv, channels, heads, attn_type="performer")
        else:
            raise ValueError(f"'models' must hold names among {list(MODELS)}, got {name!r}")
        layers.append(layer)
    return GraphTransformer(layers)


# Training #########################################################################################


@dataclass
class Result:
    """One trained model.

    Attributes:
        task, model, seed: What was trained.
        accuracy: Test accuracy.
        majority: Test accuracy of the best constant answer.
        density: Mean fraction of node pairs in the global attention of the test set; 1 for dense
            attention, none where there is no such matrix.
        steps, parameters: Their numbers.
        seconds: Wall-clock time of training.
        peak_mib: Peak resident memory of training above that before it.
        loss: Training loss at the start, and every tenth of the steps.
    """

    task: str
    model: str
    seed: int
    accuracy: float
    majority: float
    density: float | None
    steps: int
    parameters: int
    seconds: float
    peak_mib: float | None
    loss: list[float] = field(default_factory=list)


def train(task: Task, name: str, seed: int, setting: Setting) -> Result:
    """Trains and tests one model."""
    warm_up(task, name, setting)
    start_bytes = memory("VmRSS")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = NodeClassifier(task, build_body(name, task, setting), setting.channels)
    others, membership = split_membership(model)
    optimizer = torch.optim.Adam([{"params": others}, {"params": membership}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [setting.learning_rate, setting.membership_lr],
        total_steps=setting.steps,
        pct_start=0.1,
    )
    losses = []
    start = time.perf_counter()
    for step in range(setting.steps):
        data = task.sample(setting.batch_size, generator)
        with record(model) as runs:
            loss = F.cross_entropy(model(data), data.y)
        if step % max(setting.steps // 10, 1) == 0:
            losses.append(round(float(loss.detach()), 4))
        if len(runs):
            loss = loss + setting.density_penalty * runs.expected_density()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - start
    peak_bytes = memory("VmHWM")
    accuracy, majority, density = test(model, task, name, setting)
    return Result(
        task.name,
        name,
        seed,
        accuracy,
        majority,
        density,
        setting.steps,
        sum(parameter.numel() for parameter in model.parameters()),
        round(seconds, 2),
        None if peak_bytes is None else round((peak_bytes - (start_bytes or 0)) / 2**20, 1),
        losses,
    )


@torch.no_grad()
def test(
    model: nn.Module, task: Task, name: str, setting: Setting
) -> tuple[float, float, float | None]:
    """Accuracy, majority accuracy and attention density on the test set."""
    model.eval()
    generator = torch.Generator().manual_seed(2**31)
    predicted, truth, densities = [], [], []
    for _ in range(0, setting.test_graphs, setting.batch_size):
        data = task.sample(setting.batch_size, generator)
        with record(model) as runs:
            predicted.append(model(data).argmax(dim=-1))
        truth.append(data.y)
        densities += [float(run.graph.density().mean()) for run in runs]
    y = torch.cat(truth)
    accuracy = float((torch.cat(predicted) == y).float().mean())
    majority = float(torch.bincount(y).max() / y.numel())
    if name == "gps-expander":
        attentions = [module for module in model.modules() if isinstance(module, ExpanderAttention)]
        patterns = [attention.pattern(data.batch) for attention in attentions]
        densities = [float(pattern.density().mean()) for pattern in patterns]
    density = 1.0 if name == "gps-dense" else statistics.mean(densities) if densities else None
    return accuracy, majority, density


def warm_up(task: Task, name: str, setting: Setting) -> None:
    """One step of two graphs, so that no run's time holds the loading of compiled code."""
    model = NodeClassifier(task, build_body(name, task, setting), setting.channels)
    data = task.sample(2, torch.Generator().manual_seed(0))
    F.cross_entropy(model(data), data.y).backward()


def memory(name: str) -> int | None:
    """Resident bytes of this process, now (``VmRSS``) or at most so far (``VmHWM``); none where
    the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def train_apart(*args: Any) -> Result:
    """:func:`train` in a process of its own, so that memory is that of one run.

    The process comes from a server that has run nothing yet: torch's threads do not outlive a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sbmgraph.nn", "torch_geometric.nn"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(train, *args).result()


# Results ##########################################################################################


def main(
    tasks: list[str] = list(TASKS),  # noqa: B006
    models: list[str] = list(MODELS),  # noqa: B006
    seeds: list[int] = [1, 2, 3],  # noqa: B006
    setting: Setting = Setting(),  # noqa: B008
    overrides: dict[str, dict[str, Any]] = {},  # noqa: B006
    output: str = "tasks/results/graphs.json",
) -> None:
    """Trains every model on every task, one seed after the other, and writes the results.

    Args:
        tasks: Names of tasks.
        models: Names of models.
        seeds: Seeds of the runs.
        setting: Everything else of a run.
        overrides: Entries of the setting that a task has otherwise, by the task's name.
        output: JSON file of the results; runs that are in it already are not repeated.
    """
    for name, values, choices in (("tasks", tasks, TASKS), ("models", models, MODELS)):
        unknown = [value for value in values if value not in choices]
        if unknown:
            raise ValueError(f"'{name}' must hold names among {list(choices)}, got {unknown}")
    known = {entry.name for entry in fields(Setting)}
    for task, override in overrides.items():
        if task not in TASKS or not known.issuperset(override):
            raise ValueError(
                f"'overrides' must map tasks to entries among {sorted(known)}, got {override} "
                f"for {task!r}"
            )
    path = Path(output)
    before = load(path) if path.exists() else {"runs": [], "commands": []}
    results = before["runs"]
    commands = list(dict.fromkeys([*before["commands"], shlex.join(["python", *sys.argv])]))
    done = {(run["task"], run["model"], run["seed"], run["steps"]) for run in results}
    for task in tasks:
        own = replace(setting, **overrides.get(task, {}))
        for seed in seeds:
            for model in models:
                if (task, model, seed, own.steps) in done:
                    continue
                result = train_apart(TASKS[task], model, seed, own)
                results.append(vars(result))
                save(path, results, commands, setting, overrides)
                print(_line(result), flush=True)
    print(section(path))


def save(
    path: Path,
    results: list[dict[str, Any]],
    commands: list[str],
    setting: Setting,
    overrides: dict[str, Any],
) -> None:
    """Writes the results, whole or not at all."""
    content = {
        "commands": commands,
        "setting": vars(setting),
        "overrides": overrides,
        "threads": torch.get_num_threads(),
        "versions": {
            "sbmgraph": sbmgraph.__version__,
            "torch": torch.__version__,
            "torch_geometric": torch_geometric.__version__,
        },
        "runs": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def load(path: Path) -> dict[str, Any]:
    """Reads the results.

    Raises:
        ValueError: If the file is not one that :func:`save` wrote.
    """
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' must be a JSON file of results, got {error}") from None
    for key in ("runs", "commands"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"'{path}' must hold a list of '{key}', got another JSON")
    return content


REMARKS = """\
*partners*: the class of a node is a bit that a few nodes of a far community show. *tree-d*: the
root of a binary tree of depth d finds the one leaf with its key (Alon & Yahav, ICLR 2021). Budgets
are of minutes on two busy cores: that a model is at chance here says that it did not learn in so
few steps, not that it cannot.

SBM attention solves *partners* with a small part of the pairs, since what a node must look at is a
block. On the trees it starts dense, because one leaf decides and none is known yet to be the one;
at depth 3 it ends with half of the pairs, at depths 4 and 5 it keeps nine tenths. There it loses a
little against dense attention where both learn: in evaluation a leaf that is missing from the
sample cannot be read, and only the root receives a loss, so that edge probabilities learn from the
few edges which that one query happened to sample. Whether a run leaves the plateau at chance
depends on the seed: at depth 4 dense attention does on two of three, SBM and linear attention on
all; at depth 5 dense and SBM attention on two of three each, linear attention on none. At depths 6
and 7 nothing learns within 600 steps."""


def section(path: Path) -> str:
    """The results as a section of Markdown: mean ± standard deviation over seeds."""
    content = load(path)
    lines = [
        "## Long-range node classification on generated graphs",
        "",
        REMARKS,
        "",
        "Accuracy is the test set's, mean ± standard deviation over seeds; density that of the "
        f"global attention; CPU threads: {content['threads']}. Each command adds to what is there:",
        "",
        *(f"- `{command}`" for command in content["commands"]),
        "",
        "| task | model | accuracy (%) | seeds | density (%) | steps | seconds | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        own = [run for run in content["runs"] if run["task"] == task]
        if not own:
            lines.append(f"| {task} | all | not run | | | | | |")
            continue
        majority = statistics.mean(run["majority"] for run in own)
        lines.append(f"| {task} | majority class | {100 * majority:.1f} | | | | | |")
        for model in MODELS:
            runs = [run for run in own if run["model"] == model]
            lines.append(f"| {task} | {model} | {_cells(runs)} |")
    return "\n".join(lines) + "\n"


def _cells(runs: list[dict[str, Any]]) -> str:
    if not runs:
        return "not run | | | | | "
    accuracy = _spread([100 * run["accuracy"] for run in runs])
    density = [run["density"] for run in runs if run["density"] is not None]
    peak = [run["peak_mib"] for run in runs if run["peak_mib"] is not None]
    cells = [
        accuracy,
        str(len(runs)),
        _spread([100 * value for value in density]) if density else "–",
        str(max(run["steps"] for run in runs)),
        f"{statistics.mean(run['seconds'] for run in runs):.0f}",
        f"{max(peak):.0f}" if peak else "–",
    ]
    return " | ".join(cells)


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _line(result: Result) -> str:
    density = "" if result.density is None else f", density {result.density:.1%}"
    return (
        f"{result.task} {result.model} seed {result.seed}: {result.accuracy:.1%}{density}, "
        f"{result.seconds:.0f} s"
    )


if __name__ == "__main__":
    from jsonargparse import CLI

    CLI(main, as_positional=False)
