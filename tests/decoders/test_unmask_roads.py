"""Codes written in any order by the package's own networks, on every road a question can take."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.backbones import FlatDiffusionConfig, SlotDiffusionConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders import BeamConfig
from genrec_fast.objectives import NextCodeConfig, UniformMaskingConfig
from genrec_fast.recipe.recommender import Recommender

ITEMS = 30
ROWS = [[1, 2, 3], [7], [4, 4, 9, 11, 2]]
SMALL = {"width": 16, "num_heads": 2, "num_layers": 1, "hidden": 16, "max_items": 6}


def model_of(name):
    torch.manual_seed(0)
    config = {"llada_rec": FlatDiffusionConfig, "diffgrm": SlotDiffusionConfig}[name](**SMALL)
    recipe = dataclasses.replace(recipes.get(name), backbone=config)
    codes = torch.randint(4, (ITEMS, 3), generator=torch.Generator().manual_seed(0))
    model = Recommender(recipe, Catalog(item_codes=codes, codebook_sizes=(4, 4, 4)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0)  # so that scores are apart
    return model


@pytest.fixture(params=["llada_rec", "diffgrm"])
def model(request):
    return model_of(request.param)


def same(one, other):
    assert torch.equal(one.items, other.items)
    torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-4)


def test_filters_are_roads_to_the_same_answer(model):
    some = list(range(0, ITEMS, 2))
    mask = torch.zeros(ITEMS, dtype=torch.bool)
    mask[some] = True
    whole = model.recommend(ROWS, 4, allowed=mask, exact=True)
    same(model.recommend(ROWS, 4, candidates=some, exact=True), whole)
    same(model.recommend(ROWS, 4, candidates=[some] * 3, exact=True), whole)
    others = [item for item in range(ITEMS) if item % 2]
    same(model.recommend(ROWS, 4, exclude=[others] * 3, exact=True), whole)
    assert bool((whole.items % 2 == 0).all())
    seen = model.recommend(ROWS, 20, exclude_seen=True)
    for row, found in zip(ROWS, seen.items.tolist(), strict=True):
        assert not set(row) & set(found)


def test_a_filter_that_leaves_one_item_finds_it(model):
    """Of one beam, too: no code is written that leads to none that is allowed."""
    for item in range(0, ITEMS, 7):
        found = model.recommend(ROWS, 1, allowed=[item], num_beams=1)
        assert found.items.tolist() == [[item]] * 3


def test_every_item_is_found_and_the_order_is_that_of_their_scores(model):
    found = model.recommend(ROWS, ITEMS, exact=True)
    assert found.items.sort().values.tolist() == [list(range(ITEMS))] * 3
    assert bool(found.exact.all())
    narrow = model.recommend(ROWS, 3, num_beams=3, exact=True)  # widens
    assert torch.equal(narrow.items, found.items[:, :3])


def test_users_who_are_answered_together_get_what_each_gets_alone(model):
    asked = [
        ([ROWS[0]], {"k": 3}),
        ([ROWS[1]], {"k": 3, "num_beams": 4}),
        (ROWS[1:], {"k": 5, "exclude_seen": True}),
        ([ROWS[2]], {"k": 3, "exact": True}),
        ([ROWS[0]], {"k": 3, "allowed": list(range(9))}),
    ]
    with model.batcher() as batcher:
        futures = [batcher.submit(rows, **options) for rows, options in asked]
        for (rows, options), future in zip(asked, futures, strict=True):
            same(future.result(30), model.recommend(rows, **options))


def test_users_may_have_widths_of_their_own(model):
    widths = torch.tensor([3, 9, 3])
    found = model.recommend(ROWS, 3, num_beams=widths)
    for user, width in enumerate(widths.tolist()):
        alone = model.recommend(ROWS, 3, num_beams=width)
        assert torch.equal(found.items[user], alone.items[user])


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(InvalidValueError, match="k must be"):
        model.recommend(ROWS, 0)
    with pytest.raises(InvalidValueError, match="num_beams must be at least k = 5, got 2"):
        model.recommend(ROWS, 5, num_beams=2)
    with pytest.raises(InvalidValueError, match=r"num_beams must be one number or one per user, got \(5, 5, 5\)"):
        model.recommend(ROWS, 5, num_beams=(5, 5, 5))
    with pytest.raises(InvalidValueError, match="decoder Beam needs Autoregressive"):
        dataclasses.replace(model.recipe, decoder=BeamConfig())
    with pytest.raises(InvalidValueError, match="objective NextCode needs TeacherForced"):
        dataclasses.replace(model.recipe, objective=NextCodeConfig())
    with pytest.raises(UnsupportedError, match="decoder must search the catalog's trie, got Unmask"):
        model.without([1])


def test_a_weight_of_histories_needs_a_network_that_masks_them():
    """Of targets alone every network of masked codes learns."""
    model = model_of("diffgrm")
    batch = model.batch(Batch(Jagged.from_rows(ROWS), torch.tensor([-1, -1, 5, 8, -1, -1, -1, -1, 3])))
    assert bool(UniformMaskingConfig(history_weight=0.0).build()(model, batch).value.isfinite())
    with pytest.raises(InvalidValueError, match="history_weight must be 0 for SlotDiffusion"):
        UniformMaskingConfig().build()(model, batch)
