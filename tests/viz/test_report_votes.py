"""A classifier's prediction in the report is a vote over sampled graphs."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

from sbmgraph.nn import SBMTransformer
from sbmgraph.record import evaluating
from sbmgraph.viz.report import ReportInput, report_html
from sbmgraph.viz.report.run import run_item


class Undecided(nn.Module):
    """A real encoder whose scores are set call by call, so that the vote is known."""

    def __init__(self, says: list[int], classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = SBMTransformer(
            9, classes, channels=16, heads=1, num_clusters=4, max_length=8
        )
        self.says, self.seeds, self.classes = list(says), [], classes

    def forward(self, tokens, batch=None, generator=None):
        self.seeds.append(generator.initial_seed())
        self.encoder(tokens, batch=batch, generator=generator)
        scores = torch.full((1, self.classes), -1.0)
        scores[0, self.says[len(self.seeds) - 1]] = 1.0
        return scores


ITEM = ReportInput([torch.arange(6)], "class 1")


def index_of(page: str) -> dict:
    return json.loads(re.search(r'id="index">(.*?)</script>', page, re.S)[1])


def test_the_most_frequent_class_wins_and_not_that_of_the_graph_shown():
    model = Undecided([0, 1, 1, 0, 1, 1, 2, 1, 1])
    vote = index_of(report_html(model, [ITEM]))["inputs"][0]["vote"]
    assert vote["counts"] == {"1": 6, "0": 2, "2": 1}
    assert next(iter(vote["counts"])) == "1"
    assert vote["shown"] == "0"
    likely = torch.tensor([-1.0, 1.0, -1.0]).softmax(0)
    assert vote["probability"] == pytest.approx(float(6 * likely[1] + 3 * likely[0]) / 9)
    assert len(set(model.seeds)) == 9


@pytest.mark.parametrize("number", [1, 4])
def test_the_number_of_votes_can_be_chosen(number):
    model = Undecided([2] * number)
    assert run_item(model, ITEM, 0, 0, number).vote.counts == {"2": number}


def test_votes_repeat_with_the_seed_and_the_graph_shown_is_the_first():
    torch.manual_seed(0)
    model = SBMTransformer(9, 3, channels=16, heads=1, num_clusters=4, max_length=8)
    first, again = (run_item(model, ITEM, 0, 5, 4) for _ in range(2))
    assert first.vote == again.vote
    alone = run_item(model, ITEM, 0, 5, 1)
    assert torch.equal(alone.samples[0][0].graph.col, first.samples[0][0].graph.col)
    assert alone.vote.shown == first.vote.shown


def test_a_model_of_tokens_has_no_vote():
    class PerToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = Undecided([0] * 99)
            self.calls = 0

        def forward(self, tokens, batch=None, generator=None):
            self.calls += 1
            self.encoder(tokens, batch=batch, generator=generator)
            return torch.zeros(tokens.numel(), 3)

    model = PerToken()
    assert run_item(model, ITEM, 0, 0, 9).vote is None
    assert model.calls == 1


def test_bad_numbers_of_votes_are_named():
    with pytest.raises(ValueError, match="'num_votes' must be an integer >= 1, got 0"):
        report_html(Undecided([0]), [ITEM], num_votes=0)


def test_every_module_keeps_its_own_mode():
    """A frozen submodule in evaluation stays in it when the rest trains."""
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    model.train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
