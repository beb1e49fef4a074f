"""How many drafts are cheapest: by a clock that the tests wind."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.decoders import SpeculativeConfig
from genrec_fast.decoders.draft_costs import DraftCost

HISTORIES = gf.Jagged.from_rows([torch.tensor(row) for row in ([0, 3, 8], [5], [39, 2])])


class Clock:
    """Moves by what a network costs."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def recommender(**settings):
    small = {"num_heads": 1, "num_layers": 1, "num_depth_layers": 1}
    torch.manual_seed(0)
    recipe = dataclasses.replace(
        gf.recipes.marius(),
        backbone=gf.TimelineConfig(width=16, **small),
        decoder=SpeculativeConfig(num_beams=4, draft=gf.TimelineConfig(width=8, **small), **settings),
    )
    codes = torch.randint(0, 5, (40, 4))
    catalog = gf.Catalog(item_codes=codes, codebook_sizes=(5, 5, 5, 5), features=torch.randn(40, 4))
    return gf.Recommender(recipe, catalog).eval()


def priced(monkeypatch, clock, a_pass, a_draft):
    """Every pass of the target costs something, and every prefix that is drafted."""
    from genrec_fast.decoders.drafted_search import DraftedSearch

    read, drafted = DraftedSearch._read_ahead, DraftedSearch._drafted

    def reads(search):
        clock.now += a_pass
        read(search)

    def drafts(search):
        found = drafted(search)
        clock.now += a_draft * sum(int((some.nodes >= 0).sum()) for some in found)
        return found

    monkeypatch.setattr(DraftedSearch, "_read_ahead", reads)
    monkeypatch.setattr(DraftedSearch, "_drafted", drafts)


def costs_of(model, clock, **options):
    with model.answering():
        return model.decoder.costs(model, gf.Question(HISTORIES), k=3, rounds=1, clock=clock, **options)


def test_dear_passes_ask_for_many_drafts_and_dear_drafts_for_few(monkeypatch):
    model, clock = recommender(), Clock()
    with monkeypatch.context() as patch:
        priced(patch, clock, a_pass=1.0, a_draft=0.0)
        dear_passes = costs_of(model, clock)
    with monkeypatch.context() as patch:
        priced(patch, clock, a_pass=0.0, a_draft=1.0)
        dear_drafts = costs_of(model, clock)
    assert [cost.drafts_per_beam for cost in dear_passes] == [0, 1, 2, 3, 4]
    passes = [cost.passes for cost in dear_passes[1:]]
    assert [cost.seconds for cost in dear_passes[1:]] == passes
    assert passes == sorted(passes, reverse=True)
    assert passes[0] > passes[-1]
    assert model.decoder.cheapest(dear_passes).config.drafts_per_beam == 1 + passes.index(min(passes))
    assert model.decoder.cheapest(dear_drafts).config.drafts_per_beam == 1
    assert all(cost.accepted >= 0 for cost in dear_passes)


def test_ties_go_to_fewer_drafts_and_the_search_without_is_no_choice():
    decoder = recommender().decoder
    costs = [DraftCost(0, 0.1), DraftCost(3, 1.0), DraftCost(2, 1.0), DraftCost(1, 2.0)]
    assert decoder.cheapest(costs).config == dataclasses.replace(decoder.config, drafts_per_beam=2)
    with pytest.raises(InvalidValueError, match="costs must hold a search with drafts, got none"):
        decoder.cheapest(costs[:1])


def test_answers_do_not_depend_on_what_was_measured(tmp_path):
    model = recommender()
    before = model.recommend([[0, 3, 8], [5]], 3)
    model.decoder = model.decoder.cheapest([DraftCost(4, 1.0)])
    model.recipe = dataclasses.replace(model.recipe, decoder=model.decoder.config)
    model.save(tmp_path)
    again = gf.load(tmp_path)
    assert again.decoder.config.drafts_per_beam == 4
    for name in ("items", "scores", "exact", "bound"):
        assert torch.equal(getattr(again.recommend([[0, 3, 8], [5]], 3), name), getattr(before, name))


def test_the_least_of_some_rounds_counts():
    model = recommender()
    seconds = iter([0, 9, 0, 9, 0, 5, 0, 7, 0, 4, 0, 8])  # two searches, first not counted, then two rounds
    with model.answering():
        costs = model.decoder.costs(
            model, gf.Question(HISTORIES), drafts_per_beam=(2,), rounds=2, k=3, clock=Ticks(seconds)
        )
    assert [cost.seconds for cost in costs] == [4, 7]


class Ticks:
    """What a search begins and ends at; the first round ends unseen."""

    def __init__(self, values):
        self.values, self.calls = values, 0

    def __call__(self):
        return float(next(self.values))


def test_wrong_numbers_are_named():
    model = recommender()
    for value, error, message in (
        ((0,), InvalidValueError, "speculative: drafts_per_beam must be at least 1, got 0"),
        ((), InvalidValueError, "speculative: drafts_per_beam must be at least one number, got none"),
        (("a",), InvalidTypeError, "speculative: drafts_per_beam must be an int, got"),
    ):
        with pytest.raises(error, match=message):
            costs_of(model, Clock(), drafts_per_beam=value)
