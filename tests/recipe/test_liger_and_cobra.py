"""Systems that write codes and compare vectors, asked as every other is."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.recipe.recommender import Recommender, load

ITEMS, SIZES = 40, (4, 5)
HISTORIES = [[1, 2, 3], [4], [7, 7, 19, 0], [39, 2]]


def catalog(begin=0, end=ITEMS, **columns):
    generator = torch.Generator().manual_seed(0)
    whole = {
        "item_codes": torch.stack([torch.randint(size, (ITEMS,), generator=generator) for size in SIZES], 1).int(),
        "features": torch.randn(ITEMS, 6, generator=generator),
        "counts": torch.arange(ITEMS).clamp(max=2),
    }
    return Catalog(codebook_sizes=SIZES, **{name: part[begin:end] for name, part in whole.items()} | columns)


def model(name, items=None):
    recipe = recipes.get(name)
    small = {"width": 16, "num_heads": 2, "num_layers": 1, "hidden": 32, "text_hidden": (8,)}
    torch.manual_seed(0)
    known = {field.name for field in dataclasses.fields(recipe.backbone)}
    small = {setting: value for setting, value in small.items() if setting in known}
    recipe = dataclasses.replace(recipe, backbone=dataclasses.replace(recipe.backbone, **small))
    return Recommender(recipe, catalog() if items is None else items)


@pytest.mark.parametrize("name", ["liger", "cobra"])
def test_a_batcher_gives_each_user_what_a_call_of_his_own_gives(name):
    some = model(name)
    asked = [
        ([row], {"k": k, **options})
        for row in HISTORIES
        for k, options in ((3, {}), (6, {"exclude_seen": True}), (2, {"allowed": torch.arange(ITEMS) % 3 == 0}))
    ]
    with some.batcher() as batcher:
        futures = [batcher.submit(rows, **options) for rows, options in asked]
        found = [future.result(60) for future in futures]
    for (rows, options), ranked in zip(asked, found, strict=True):
        alone = some.recommend(rows, **options)
        assert torch.equal(ranked.items, alone.items)
        torch.testing.assert_close(ranked.scores, alone.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["liger", "cobra"])
def test_saved_and_loaded(name, tmp_path):
    some = model(name).eval()
    some.save(tmp_path / "model")
    one, other = (system.recommend(HISTORIES, 5) for system in (some, load(tmp_path / "model")))
    assert torch.equal(one.items, other.items)
    assert torch.equal(one.scores, other.scores)


def test_items_that_never_occurred_are_found():
    """Item 0 has no count: its semantic ID was learned by nobody, and it is a candidate of everybody all the same."""
    some = model("liger")
    found = some.recommend(HISTORIES, ITEMS, num_beams=ITEMS)
    few = some.recommend(HISTORIES, 3, num_beams=3)
    best = [row.tolist() for row in found.items]
    for user, row in enumerate(few.items.tolist()):
        places = [best[user].index(item) for item in row]
        assert places == sorted(places)
        assert min(places) <= best[user].index(0)


OLD = 28
NEVER = {"counts": torch.zeros(ITEMS - OLD, dtype=torch.int64)}


def alike(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("items", "codes", "scores", "exact"))


@pytest.mark.parametrize("name", ["liger", "cobra", "specgr"])
def test_a_model_of_more_items_answers_as_one_built_with_them(name):
    """The weights are those of training, the vectors of the new items are made of their features."""
    old, new = model(name, catalog(0, OLD)), catalog(OLD, ITEMS, **NEVER)
    before = old.recommend(HISTORIES[:3], 5)
    whole = model(name, catalog(0, OLD).extended(new))
    whole.load_state_dict(old.state_dict())
    more = old.extended(new)
    if name == "specgr":
        with pytest.raises(UnsupportedError, match=rf"{ITEMS - OLD} items appended; merge\(\) it first"):
            more.recommend(HISTORIES, 5)
        more.merge()
    asked = [*HISTORIES, [OLD + 3, 1], [ITEMS - 1]]
    questions = [{}, {"exclude_seen": True}, {"num_beams": 20}, {"allowed": torch.arange(ITEMS) % 3 == 0}]
    answers = [more.recommend(asked, 5, **options) for options in questions]
    assert all(
        alike(found, whole.recommend(asked, 5, **options)) for found, options in zip(answers, questions, strict=True)
    )
    every = more.recommend(asked, ITEMS, num_beams=ITEMS).items
    assert bool((every >= OLD).any(1).all())
    more.merge()
    assert all(
        alike(found, more.recommend(asked, 5, **options)) for found, options in zip(answers, questions, strict=True)
    )
    assert alike(before, old.recommend(HISTORIES[:3], 5))
    assert (old.num_items, more.num_items) == (OLD, ITEMS)


@pytest.mark.parametrize("name", ["liger", "cobra"])
def test_what_never_occurred_is_a_candidate_where_it_was_appended(name):
    """An item that is like one in the first place is at least in the second."""
    old = model(name, catalog(0, OLD))
    best = old.recommend(HISTORIES[:1], 1).items[0, 0]
    twin = {"item_codes": old.catalog.item_codes[best][None], "features": old.catalog.features[best][None]}
    more = old.extended(catalog(OLD, OLD + 1, **twin, counts=torch.zeros(1, dtype=torch.int64)))
    assert more.recommend(HISTORIES[:1], 2).items[0].tolist() == [int(best), OLD]
    assert not bool((more.without([OLD]).recommend(HISTORIES[:1], 5).items == OLD).any())


@pytest.mark.parametrize("name", ["liger", "cobra"])
def test_networks_share_their_weights(name):
    old = model(name, catalog(0, OLD))
    more = old.extended(catalog(OLD))
    again = more.extended(catalog(0, 2))
    assert all(a is b for a, b in zip(old.backbone.parameters(), again.backbone.parameters(), strict=True))
    assert (len(old.backbone.item_table()), len(again.backbone.item_table())) == (OLD, ITEMS + 2)
    before = again.recommend([[OLD, 1]], 5)
    with torch.no_grad():
        next(iter(old.backbone.texts.parameters())).mul_(-1.5)
    assert not torch.equal(before.scores, again.recommend([[OLD, 1]], 5).scores)
    assert not any(part.training for part in again.modules())


def test_an_extended_model_is_in_the_dtype_that_it_had():
    old = model("liger", catalog(0, OLD)).double()
    more = old.extended(catalog(OLD))
    assert more.backbone.texts.features.dtype == torch.float64
    assert {part.dtype for part in more.backbone.parameters()} == {torch.float64}


def test_an_extended_model_is_saved(tmp_path):
    more = model("liger", catalog(0, OLD)).extended(catalog(OLD))
    found = more.recommend(HISTORIES, 5)
    more.save(tmp_path / "model")
    assert alike(found, load(tmp_path / "model").recommend(HISTORIES, 5))


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"features": None}, "extended: new must have features like the catalog, got None"),
        ({"features": torch.ones(ITEMS - OLD, 5)}, "features"),
    ],
)
def test_items_that_lack_what_the_network_reads_are_refused(columns, text):
    with pytest.raises(InvalidValueError, match=text):
        model("liger", catalog(0, OLD)).extended(catalog(OLD, **columns))


def test_networks_with_parts_of_their_own_are_refused():
    old = model("liger", catalog(0, OLD))
    old.backbone.register_buffer("marks", torch.zeros(OLD), persistent=False)
    with pytest.raises(UnsupportedError, match="backbone must be what its config builds"):
        old.extended(catalog(OLD))
    old = model("liger", catalog(0, OLD))
    old.backbone.of_items = torch.nn.Embedding(OLD, 2)
    with pytest.raises(UnsupportedError, match="backbone must have no weights for each item"):
        old.extended(catalog(OLD))


@pytest.mark.parametrize("name", ["liger", "cobra"])
def test_without_some_items(name):
    some = model(name)
    gone = some.recommend(HISTORIES, 4).items[:, 0].unique()
    left = some.without(gone).recommend(HISTORIES, ITEMS - 10)
    assert not bool(torch.isin(left.items, gone).any())
