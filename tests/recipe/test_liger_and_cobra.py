"""Systems that write codes and compare vectors, asked as every other is."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.base.errors import UnsupportedError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.recipe.recommender import Recommender, load

ITEMS, SIZES = 40, (4, 5)
HISTORIES = [[1, 2, 3], [4], [7, 7, 19, 0], [39, 2]]


def model(name):
    recipe = recipes.get(name)
    small = {"width": 16, "num_heads": 2, "num_layers": 1, "hidden": 32, "text_hidden": (8,)}
    generator = torch.Generator().manual_seed(0)
    catalog = Catalog(
        item_codes=torch.stack([torch.randint(size, (ITEMS,), generator=generator) for size in SIZES], 1).int(),
        codebook_sizes=SIZES,
        features=torch.randn(ITEMS, 6, generator=generator),
        counts=torch.arange(ITEMS).clamp(max=2),
    )
    torch.manual_seed(0)
    return Recommender(dataclasses.replace(recipe, backbone=dataclasses.replace(recipe.backbone, **small)), catalog)


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


def test_tables_of_all_items_do_not_grow():
    some = model("liger")
    with pytest.raises(UnsupportedError, match="backbone must have no weights for each item"):
        some.extended(dataclasses.replace(some.catalog))


@pytest.mark.parametrize("name", ["liger", "cobra"])
def test_without_some_items(name):
    some = model(name)
    gone = some.recommend(HISTORIES, 4).items[:, 0].unique()
    left = some.without(gone).recommend(HISTORIES, ITEMS - 10)
    assert not bool(torch.isin(left.items, gone).any())
