from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import genrec_fast as gf
from genrec_fast.base.batch import Question
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Query
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig, BestFirstConfig
from genrec_fast.decoders.base import Parts, run
from genrec_fast.decoders.best_first_pass import BestFirstCalls, BestFirstPass, filter_of
from genrec_fast.nn.engine.plan import BestFirstPlan
from shared.decoder_suite import DecoderSuite, users_of
from shared.random_model import RandomModel, brute_force
from shared.searches import searches

SEARCHES = searches(most_k=70, tree=True)


def search(model, batch, trie, k, *, normalize="all", **options):
    return BestFirstConfig(normalize=normalize).build().search(model, batch, trie, k, **options)


def plain(model):
    """The same model, whose sessions go level by level."""
    return RandomModel(
        model.codebook_sizes, model.seed, scale=model.scale, steps=model.steps, forbidden=model.forbidden
    )


def beam(model, batch, trie, k, *, normalize="all", **options):
    return BeamConfig(normalize=normalize).build().search(plain(model), batch, trie, k, **options)


def assert_same_answers(found, wanted):
    for name in ("items", "codes", "scores", "exact"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name


@given(SEARCHES)
def test_it_equals_brute_force(case):
    codes, trie, model, batch, k, filters, keep = case
    found = search(model, batch, trie, k, exact=True, **filters)
    _, items, best = brute_force(plain(model), batch, codes, k, keep=keep)
    assert bool(found.exact.all())
    assert torch.equal(found.items, items)
    assert torch.equal(found.scores, best)


@given(SEARCHES, st.sampled_from(["all", "valid"]))
def test_it_equals_a_beam_search_that_widens(case, normalize):
    _, trie, model, batch, k, filters, _ = case
    found = search(model, batch, trie, k, normalize=normalize, exact=True, **filters)
    assert_same_answers(found, beam(model, batch, trie, k, normalize=normalize, exact=True, **filters))
    # Of what is left, nothing is as good as the last item.
    assert bool(((found.bound < found.scores[:, -1]) | (found.bound == -torch.inf)).all())


@given(SEARCHES, st.integers(1, 12), st.sampled_from(["all", "valid"]))
def test_a_budget_leaves_an_honest_bound(case, num_beams, normalize):
    _, trie, model, batch, k, filters, keep = case
    found = search(model, batch, trie, k, normalize=normalize, num_beams=num_beams, **filters)
    wanted = search(model, batch, trie, k, normalize=normalize, exact=True, **filters)
    for user in range(len(batch)):
        shown = found.items[user][found.items[user] >= 0]
        assert bool(keep[user, shown].all())
        assert shown.unique().numel() == shown.numel()
        # As many as there are, whatever the budget.
        assert shown.numel() == int((wanted.items[user] >= 0).sum())
        every = dict(zip(wanted.items[user].tolist(), wanted.scores[user].tolist(), strict=True))
        for item, score in zip(shown.tolist(), found.scores[user].tolist(), strict=False):
            assert every.get(item, score) == score
        lost = wanted.scores[user][~torch.isin(wanted.items[user], shown)]
        assert bool((lost <= found.bound[user]).all())
        if bool(found.exact[user]):
            assert torch.equal(found.items[user], wanted.items[user])


@given(SEARCHES, st.sampled_from([None, 1, 3]))
def test_nobody_depends_on_who_else_is_asked_for(case, num_beams):
    _, trie, model, batch, k, filters, _ = case
    together = search(model, batch, trie, k, num_beams=num_beams, **filters)
    allowed, exclude = filters["allowed"], filters["exclude"]
    for user in range(len(batch)):
        own = {
            "allowed": allowed if allowed is None or allowed.dim() == 1 else allowed[user : user + 1],
            "exclude": None if exclude is None else exclude.slice(user, user + 1),
        }
        alone = search(model, batch.slice(user, user + 1), trie, k, num_beams=num_beams, **own)
        for name in ("items", "codes", "scores", "exact", "bound"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[user]), name


def recommender(name, decoder):
    """Untrained, but not flat: some prefixes are far better than others."""
    recipe = gf.recipes.get(name)
    backbone = {
        "marius": gf.TimelineConfig(width=16, num_heads=2, hidden=32, depth_hidden=32, num_layers=1),
        "tiger": gf.T5Config(width=16, num_layers=2, num_heads=2, head_width=8, hidden=32),
    }[name]
    torch.manual_seed(0)
    codes = torch.randint(0, 6, (90, 4))
    catalog = gf.Catalog(item_codes=codes, codebook_sizes=(6, 6, 6, 6), features=torch.randn(90, 4))
    model = gf.Recommender(dataclasses.replace(recipe, backbone=backbone, decoder=decoder), catalog)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


HISTORIES = [[0, 3, 8], [5], [89, 88, 87, 1], [40, 41], [7, 7, 7]]


@pytest.mark.parametrize("normalize", ["all", "valid"])
@pytest.mark.parametrize("name", ["marius", "tiger"])
@pytest.mark.parametrize("engine", ["native", "modules"])
@pytest.mark.filterwarnings("ignore::genrec_fast.base.errors.SlowPathWarning")
def test_networks_give_the_answers_of_an_exact_beam_search(name, normalize, engine, monkeypatch):
    if engine == "modules":
        for module in ("timeline", "t5"):
            monkeypatch.setattr(f"genrec_fast.backbones.{module}.native_{module}", lambda *_: None)
    model = recommender(name, BestFirstConfig(normalize=normalize))
    other = recommender(name, BeamConfig(num_beams=4, normalize=normalize))
    for options in ({}, {"exclude_seen": True}, {"allowed": list(range(0, 90, 7))}):
        for k in (1, 4, 90):
            found = model.recommend(HISTORIES, k, exact=True, **options)
            wanted = other.recommend(HISTORIES, k, exact=True, **options)
            if engine == "native":  # the same bits for a row of a tree as level by level
                assert_same_answers(found, wanted)
            else:
                assert torch.equal(found.items, wanted.items)
                torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-5)
            assert bool(found.exact.all())


@pytest.mark.parametrize("normalize", ["all", "valid"])
@pytest.mark.parametrize("name", ["marius", "tiger"])
def test_one_call_is_what_the_rounds_are(name, normalize):
    """Items, scores, bounds and rows of the network, whatever the budget and the filter."""
    model = recommender(name, BestFirstConfig(normalize=normalize))
    batch, trie = model.batch(Question(Jagged.from_rows(HISTORIES))), model.trie
    allowed = torch.rand(5, 90, generator=torch.Generator().manual_seed(2)) < 0.4
    for budget in (None, 1, 5, 40):
        for k in (1, 6, 95):
            for filtered in (None, allowed):
                query = Query(k=k, allowed=filtered)
                plan = BestFirstPlan(k, budget, normalize, filter_of(trie, query), least_rows=3, share=2)
                with torch.inference_mode(), model.answering():
                    session = model.backbone.prefill(batch)
                    passes = [kind(session, 5, trie, query, plan) for kind in (BestFirstCalls, BestFirstPass)]
                    one, other = (run(running) for running in passes)
                assert_same_answers(one, other)
                assert torch.equal(one.bound, other.bound)
                assert torch.equal(passes[0].expanded, passes[1].expanded)


def test_it_is_saved_and_loaded(tmp_path):
    model = recommender("marius", BestFirstConfig(normalize="valid", num_beams=7))
    model.save(tmp_path)
    again = gf.load(tmp_path)
    assert again.decoder.config == BestFirstConfig(normalize="valid", num_beams=7)
    assert_same_answers(again.recommend(HISTORIES, 5), model.recommend(HISTORIES, 5))


def test_a_prefix_of_one_item_is_certain_at_no_cost():
    """One semantic ID below each first code: with "valid" nothing behind the first level is asked of the network."""
    trie = build_trie(torch.tensor([[0, 1, 1], [1, 0, 0], [2, 1, 0], [3, 3, 3]]))
    model, batch = RandomModel((4, 4, 4), tree=True), users_of(2, 4, 0)
    for normalize in ("valid", "all"):
        running = BestFirstConfig(normalize=normalize).build().begin(Parts(model, trie), batch, Query(k=2))
        found = run(running)
        assert bool((running.expanded == 0).all()) == (normalize == "valid")
        assert_same_answers(found, beam(model, batch, trie, 2, normalize=normalize, exact=True))


def test_messages_name_argument_rule_and_value():
    trie = build_trie(torch.tensor([[0, 1], [1, 0]]), codebook_sizes=(2, 2))
    model, batch = RandomModel((2, 2), tree=True), users_of(2, 2, 0)
    with pytest.raises(InvalidValueError, match=r"best_first: k must be at least 1, got 0"):
        search(model, batch, trie, 0)
    with pytest.raises(InvalidValueError, match=r"best_first: num_beams must be at least 1, got 0"):
        search(model, batch, trie, 1, num_beams=0)
    with pytest.raises(InvalidTypeError, match=r"best_first: num_beams must be an int, got \(5, 5\)"):
        search(model, batch, trie, 1, num_beams=(5, 5))
    with pytest.raises(InvalidTypeError, match=r"best_first: num_beams must be an int, got a tensor"):
        search(model, batch, trie, 1, num_beams=torch.tensor([5, 5]))
    with pytest.raises(InvalidTypeError, match=r"best_first: backbone must be Autoregressive, got int"):
        search(3, batch, trie, 1)
    with pytest.raises(UnsupportedError, match=r"best_first: .* must be a TreeSession .*, got RandomSession"):
        search(plain(model), batch, trie, 1)
    with pytest.raises(InvalidValueError, match=r"BestFirstConfig: num_beams must be at least 1, got 0"):
        BestFirstConfig(num_beams=0)


class TestSuite(DecoderSuite):
    decoder = BestFirstConfig().build()

    def backbone(self):
        return RandomModel((8, 8, 8), 3, tree=True)
