"""The graph tasks: the generators' truth, every model's step, the results file."""

from __future__ import annotations

import json
from dataclasses import asdict

import networkx as nx
import pytest
import torch
from torch.nn import functional as F

from sbmgraph import SBM
from sbmgraph.nn import MembershipNetwork
from sbmgraph.run import Run
from sbmgraph.training.graphs.blocks import block_measures
from sbmgraph.training.graphs.command import main, train, train_all
from sbmgraph.training.graphs.models import ExpanderAttention, Setting
from sbmgraph.training.graphs.module import GraphClassifier, GraphDataModule
from sbmgraph.training.graphs.table import section
from sbmgraph.training.graphs.tasks import DistantPartners, TreeNeighboursMatch


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("depth", [2, 4])
def test_trees_ask_for_the_value_of_the_matching_leaf(depth: int) -> None:
    data = TreeNeighboursMatch(depth).sample(3, seeded())
    size, leaves = 2 ** (depth + 1) - 1, 2**depth
    assert data.x.shape == (3 * size, 2)
    for tree in range(3):
        root = tree * size
        own = data.edge_index[:, data.batch[data.edge_index[0]] == tree]
        graph = nx.DiGraph(own.T.tolist())
        distance = nx.single_target_shortest_path_length(graph, root)
        ends = [node for node, length in dict(distance).items() if length == depth]
        assert nx.is_arborescence(graph.reverse())
        assert len(ends) == leaves
        found = {int(data.x[leaf, 0]): int(data.x[leaf, 1]) - 1 for leaf in ends}
        assert sorted(found) == list(range(1, leaves + 1))
        assert sorted(found.values()) == list(range(leaves))
        assert int(data.y[tree]) == found[int(data.x[root, 0])]
        assert int(data.node[tree]) == root


def test_partners_are_told_apart_only_from_afar() -> None:
    task = DistantPartners(communities=6, size=10, sources=2)
    data = task.sample(2, seeded())
    count = 60
    for i in range(2):
        own = slice(i * count, (i + 1) * count)
        community, shown, y = data.x[own, 0], data.x[own, 1], data.y[own]
        bits = []
        for c in range(6):
            tokens = shown[community == c]
            tokens = tokens[tokens > 0]
            assert tokens.numel() == 2
            assert tokens.unique().numel() == 1
            bits.append(int(tokens[0]) - 1)
        assert y.tolist() == [bits[(int(c) + 3) % 6] for c in community]
    first, second = data.edge_index
    assert torch.equal(data.batch[first], data.batch[second])
    step = (data.x[first, 0] - data.x[second, 0]).abs()
    assert bool((torch.minimum(step, 6 - step) <= 1).all())
    assert {tuple(e) for e in data.edge_index.T.tolist()} == {
        tuple(e) for e in data.edge_index.flip(0).T.tolist()
    }


def test_partner_labels_are_no_function_of_the_neighbourhood() -> None:
    """Nothing within the own community and its neighbours says more than chance."""
    data = DistantPartners().sample(200, seeded())
    own_bit = torch.zeros(200, 8, dtype=torch.int64)
    source = data.x[:, 1] > 0
    own_bit[data.batch[source], data.x[source, 0]] = data.x[source, 1] - 1
    y = data.y.view(200, 8, -1)[:, :, 0]
    for offset in (-1, 0, 1):
        agreement = float((own_bit.roll(offset, dims=1) == y).double().mean())
        assert abs(agreement - 0.5) < 5 * 0.5 / (200 * 8) ** 0.5
    assert torch.equal(own_bit.roll(4, dims=1), y)


@pytest.mark.parametrize(
    "name", ["gcn", "gin", "gat", "gps-dense", "gps-performer", "gps-sbm", "gps-expander"]
)
def test_every_model_trains(name: str, tmp_path) -> None:
    setting = Setting(steps=3, batch_size=2, channels=8, num_clusters=3, test_graphs=4)
    result = train("tree-2", name, 0, setting, Run(tmp_path))
    assert 0.0 <= result["accuracy"] <= 1.0
    assert len(result["loss"]) == 3
    assert all(torch.isfinite(torch.tensor(result["loss"])))
    density = result["density"]
    expected = {"gps-dense": 1.0, "gps-sbm": density, "gps-expander": density}
    assert density == expected.get(name)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == result
    assert (summary["name"], summary["steps"]) == ("graphs_tree-2", 3)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_expander_is_regular_and_inside_each_graph() -> None:
    attention = ExpanderAttention(8, heads=2, cycles=3)
    batch = torch.arange(3).repeat_interleave(torch.tensor([50, 1, 30]))
    pattern = attention.pattern(batch)
    key, query = pattern.edge_index
    assert torch.equal(batch[key], batch[query])
    degree = torch.bincount(query[pattern.head == 0], minlength=81)
    assert int(degree[50]) == 1  # a single node has itself
    assert int(degree.max()) <= 7
    assert float(degree[batch == 0].double().mean()) > 6
    for graph in (0, 2):
        assert nx.is_connected(nx.Graph(pattern.edges_of(0, graph).T.tolist()))
    assert torch.equal(attention.pattern(batch).col, pattern.col)


def test_results_are_written_resumed_and_rendered(tmp_path, capsys) -> None:
    path = tmp_path / "graphs.json"
    setting = Setting(steps=2, batch_size=2, channels=8, test_graphs=2)
    options = {"tasks": ["tree-2"], "models": ["gcn"], "setting": setting, "output": str(path),
               "runs": str(tmp_path / "runs"), "command": "python tasks/graphs.py"}  # fmt: skip
    train_all(**options, seeds=[1])
    first = json.loads(path.read_text())["runs"]
    train_all(**options, seeds=[1, 2])
    runs = json.loads(path.read_text())["runs"]
    assert runs[0] == first[0]
    assert [run["seed"] for run in runs] == [1, 2]
    assert runs[0]["peak_mib"] is None or runs[0]["peak_mib"] >= 0
    table = section(path)
    assert "| tree-2 | gcn |" in table
    assert table.count("\n- `python ") == 1
    assert "| tree-2 | gps-sbm | not run |" in table
    assert "| tree-7 | all | not run |" in table
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["graphs.json", "runs"]


def test_variants_are_trained_besides_and_their_blocks_measured(tmp_path) -> None:
    path = tmp_path / "graphs.json"
    setting = Setting(steps=2, batch_size=2, channels=8, num_clusters=3, test_graphs=2)
    variants = {"softmax": {"sbm": {"membership": "softmax"}, "num_clusters": 4}}
    train_all(tasks=["partners"], models=["gps-dense"], seeds=[1], setting=setting,
              variants=variants, output=str(path), runs=str(tmp_path / "runs"))  # fmt: skip
    dense, varied = json.loads(path.read_text())["runs"]
    assert dense["block_strength"] is None
    assert varied["model"] == "gps-sbm-softmax"
    assert varied["options"]["sbm"] == {"membership": "softmax"}
    assert varied["options"]["num_clusters"] == 4
    assert 0 <= varied["block_strength"] <= 1
    assert -1 <= varied["block_agreement"] <= 1
    assert "| partners | gps-sbm-softmax |" in section(path)


def test_measures_of_heads_whose_blocks_are_the_communities() -> None:
    """A planted model in the place of what layers infer: strength near 1 and agreement 1."""
    setting = Setting(batch_size=2, channels=8, num_clusters=8, test_graphs=2)
    module = GraphClassifier("partners", "gps-sbm", asdict(setting))
    data = GraphDataModule("partners", setting)
    community = next(iter(data.test_dataloader())).x[:, 0]
    member = F.one_hot(community, 8).float().unsqueeze(1).expand(-1, 2, -1).contiguous()

    def planted(network, args, kwargs, sbm):
        return SBM(
            member, member, 0.5 * torch.eye(8).repeat(2, 1, 1), sbm.query_batch, sbm.key_batch
        )

    for part in module.modules():
        if isinstance(part, MembershipNetwork):
            part.register_forward_hook(planted, with_kwargs=True)
    found = block_measures(module, data)
    assert found["block_agreement"] == pytest.approx(1)
    assert found["block_strength"] > 0.9


def test_bad_input(tmp_path) -> None:
    with pytest.raises(ValueError, match="'models' must hold names among"):
        train_all(models=["gcnn"])
    with pytest.raises(ValueError, match="'tasks' must hold names among"):
        train_all(tasks=["tree-9"])
    with pytest.raises(ValueError, match="'overrides' must map tasks"):
        train_all(overrides={"tree-2": {"step": 3}})
    torn = tmp_path / "torn.json"
    torn.write_text('{"runs": [')
    with pytest.raises(ValueError, match="must be a JSON file of results"):
        section(torn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "[tree-9]"], "'tasks' must hold names among"),
        (["--setting.steps", "0"], "'steps' must be an integer >= 1"),
        (["--config", "grphs"], "config: expected a file or one of"),
    ],
)
def test_one_way_to_fail(tmp_path, capsys, arguments, message) -> None:
    output = ["--output", str(tmp_path / "x.json"), "--runs", str(tmp_path / "runs")]
    try:
        code = main([*arguments, *output])
    except SystemExit as error:  # what the parser itself refuses
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
