from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders import BeamConfig, BlendConfig, MemberConfig, RetrieveConfig, ScanCodesConfig, ScanConfig
from genrec_fast.decoders.base import run
from genrec_fast.decoders.blend import Weights
from genrec_fast.recipe.recommender import Recommender, load

SIZES, ITEMS = (4, 5), 20
CODES = torch.stack([torch.arange(ITEMS) // 5, torch.arange(ITEMS) % 5], 1)
SMALL = gf.TimelineConfig(width=16, num_heads=2, num_layers=1, num_depth_layers=1, hidden=16, depth_hidden=16)
CAUSAL = gf.CausalConfig(width=16, num_heads=2, num_layers=1, max_items=20)
HISTORIES = [[1, 2, 3], [4], [7, 7, 19, 0]]


def catalog(**known):
    return Catalog(item_codes=CODES.int(), codebook_sizes=SIZES, counts=torch.arange(ITEMS), **known)


def model(**settings):
    members = settings.pop("members", (MemberConfig(backbone=CAUSAL, decoder=RetrieveConfig()),))
    decoder = BlendConfig(decoder=BeamConfig(num_beams=10), members=members, **settings)
    recipe = dataclasses.replace(gf.recipes.marius(), layout=gf.PlainConfig(), backbone=SMALL, decoder=decoder)
    recipe = dataclasses.replace(recipe, objective=gf.objectives.NextCodeConfig())
    torch.manual_seed(0)
    return Recommender(recipe, catalog()).eval()


def whole_scores(some):
    """Every item's score by each of the two systems, float64 ``[B, N]``."""
    with some.answering():
        batch = some.batch(Batch(Jagged.from_rows(HISTORIES)))
        written = BeamConfig().build().search(some.backbone, batch, some.trie, ITEMS, num_beams=ITEMS)
        first = torch.zeros(len(HISTORIES), ITEMS).scatter(1, written.items, written.scores)
        second = some.member_1.embed_users(batch) @ some.member_1.item_table().t()
    return first.double(), second.double()


@pytest.mark.parametrize("confidence", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("weights", [(), (3.0, 1.0), (1.0, 0.0)])
def test_whole_lists_are_blended_as_distributions(confidence, weights):
    some = model(weights=weights, confidence=confidence, temperature=2.0)
    shares = [(scores / 2.0).softmax(1) for scores in whole_scores(some)]
    own = torch.tensor(weights or (1.0, 1.0)).double()
    sure = torch.stack([1 + (p * p.log()).sum(1) / torch.tensor(float(ITEMS)).double().log() for p in shares])
    weight = own[:, None] * sure**confidence
    expected = sum(w[:, None] * p for w, p in zip(weight / weight.sum(0), shares, strict=True))
    found = some.recommend(HISTORIES, k=ITEMS, num_beams=ITEMS)
    torch.testing.assert_close(found.scores, expected.sort(descending=True).values.float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(expected.gather(1, found.items).float(), found.scores, rtol=1e-4, atol=1e-6)


def test_places_are_joined_by_reciprocal_ranks():
    some = model(by="place", num_candidates=6)
    found = some.recommend(HISTORIES, k=6)
    with some.answering():
        batch = some.batch(Batch(Jagged.from_rows(HISTORIES)))
        lists = some.decoder.lists(some, batch, Query(k=6))
    for user in range(len(HISTORIES)):
        scores = {}
        for one in lists:
            for place, item in enumerate(one.items[user].tolist(), 1):
                scores[item] = scores.get(item, 0.0) + 0.5 / (60 + place)
        best = sorted(scores, key=lambda item: (-torch.tensor(scores[item]).float().item(), item))
        assert found.items[user].tolist() == best[:6]


def test_filters_hold_for_every_list():
    some = model()
    allowed = torch.arange(ITEMS) % 2 == 0
    found = some.recommend(HISTORIES, k=8, allowed=allowed, exclude_seen=True)
    for row, history in zip(found.items.tolist(), HISTORIES, strict=True):
        shown = [item for item in row if item >= 0]
        assert shown and all(item % 2 == 0 and item not in history for item in shown)


def test_a_list_that_lacks_nothing_is_said_to_be_whole():
    allowed = torch.arange(ITEMS) < 6
    assert bool(model(num_candidates=ITEMS).recommend(HISTORIES, k=6, allowed=allowed, num_beams=ITEMS).exact.all())
    assert not bool(model(num_candidates=3).recommend(HISTORIES, k=3).exact.any())
    lists_of_all_items = model(num_candidates=ITEMS).recommend(HISTORIES, k=6, num_beams=ITEMS)
    assert bool(lists_of_all_items.exact.all())


def test_lists_without_a_trie_need_none():
    """12 levels: more than a trie has."""
    many = Catalog(item_codes=CODES[:, :1].repeat(1, 12).int(), codebook_sizes=(4,) * 12)
    heads = gf.ParallelHeadsConfig(width=16, num_heads=2, num_layers=1, hidden=16)
    decoder = BlendConfig(
        decoder=ScanCodesConfig(), members=(MemberConfig(backbone=CAUSAL, decoder=RetrieveConfig()),), by="place"
    )
    some = Recommender(dataclasses.replace(gf.recipes.rpg(), backbone=heads, decoder=decoder), many).eval()
    assert some.trie is None
    assert bool((some.recommend(HISTORIES, k=4).items >= 0).all())
    assert model().trie is not None


def test_the_lists_own_shares_and_confidence():
    decoder = BlendConfig(decoder=BeamConfig(), confidence=1.0).build(None)
    scores = torch.tensor([[0.0, 0.0], [0.0, -100.0], [1.0, -torch.inf], [-torch.inf, -torch.inf]])
    items = torch.tensor([[0, 1], [0, 1], [4, -1], [-1, -1]])
    shares, sure = decoder.said(Ranked(items, items[..., None].int(), scores, torch.ones(4) > 0, torch.zeros(4)))
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.5], [1, 0], [1, 0], [0, 0]]).double())
    torch.testing.assert_close(sure, torch.tensor([0.0, 1.0, 1.0, 0.0]).double())


def test_weights_are_learned_from_what_users_took_next(tmp_path):
    some = model(num_candidates=ITEMS)
    question = Batch(Jagged.from_rows(HISTORIES * 20))
    generator = torch.Generator().manual_seed(0)
    first, second = (scores.softmax(1) for scores in whole_scores(some))
    source = torch.rand(60, generator=generator) < 0.4  # whose distribution a target is drawn from
    drawn = [torch.multinomial(p.repeat(20, 1) ** 2, 1, generator=generator).squeeze(1) for p in (first, second)]
    targets = torch.where(source, *drawn)
    weights = some.decoder.learn(some, question, targets, rounds=5000)
    assert sum(weights) == pytest.approx(1.0)
    likely = torch.stack([p.repeat(20, 1).gather(1, targets[:, None]).squeeze(1) for p in (first, second)], 1)
    grid = torch.linspace(0, 1, 1001).double()
    values = (likely[:, :1] * grid + likely[:, 1:] * (1 - grid)).log().mean(0)
    assert weights[0] == pytest.approx(float(grid[values.argmax()]), abs=0.02)
    assert torch.equal(some.list_weights.values, torch.tensor(weights, dtype=torch.float64))
    some.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert torch.equal(again.list_weights.values, some.list_weights.values)
    assert torch.equal(again.recommend(HISTORIES, 5).items, some.recommend(HISTORIES, 5).items)


def test_what_cannot_be_learned_is_refused():
    some = model(num_candidates=1)
    with pytest.raises(InvalidValueError, match=r"blend: targets must be \[1\], got \[2\]"):
        some.decoder.learn(some, Batch(Jagged.from_rows([[1]])), torch.tensor([1, 2]))
    alone = some.batch(Batch(Jagged.from_rows([[1]])))
    shown = {int(item) for one in some.decoder.lists(some, alone, Query(k=1)) for item in one.items}
    missing = next(item for item in range(ITEMS) if item not in shown)
    with pytest.raises(InvalidValueError, match="a target must be in a list"):
        some.decoder.learn(some, Batch(Jagged.from_rows([[1]])), torch.tensor([missing]))


def test_a_batcher_answers_alike():
    some = model()
    with some.batcher() as batcher:
        futures = [batcher.submit([row], 4) for row in HISTORIES]
        found = [future.result(30).items[0] for future in futures]
    assert torch.equal(torch.stack(found), some.recommend(HISTORIES, 4).items)


def test_nobody_asks_where_there_is_no_trie():
    members = (MemberConfig(backbone=CAUSAL, decoder=RetrieveConfig()),)
    decoder = BlendConfig(decoder=RetrieveConfig(), members=members).build()
    network = CAUSAL.build(catalog()).eval()
    parts = {
        "backbone": network,
        "member_1": network,
        "list_weights": Weights((1.0, 1.0)),
        "trie": None,
        "layout": None,
    }
    found = run(decoder.begin(SimpleNamespace(**parts), Batch(Jagged.from_rows([])), Query(k=3)))
    assert found.items.shape == (0, 3)


def test_bad_blends_are_refused():
    member, some = MemberConfig(backbone=CAUSAL, decoder=ScanConfig()), model()
    with pytest.raises(InvalidValueError, match="weights must give 2 lists, got 3"):
        BlendConfig(decoder=BeamConfig(), members=(member,), weights=(1, 1, 1))
    with pytest.raises(InvalidValueError, match="exact must be False"):
        some.recommend(HISTORIES, 3, exact=True)
    inner = BlendConfig(decoder=BeamConfig())
    with pytest.raises(UnsupportedError, match="a member's decoder must have no networks, got Blend"):
        BlendConfig(decoder=inner).build(catalog())
    batch = some.batch(Batch(Jagged.from_rows([[1]])))
    with pytest.raises(InvalidTypeError, match="blend: system must have list_weights, got Parts without"):
        inner.build(catalog()).search(some.backbone, batch, some.trie, 2)
    assert Weights((1.0, 3.0)).values.tolist() == [0.25, 0.75]
