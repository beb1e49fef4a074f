"""A catalog that moves: items appended to a model that answers, and taken from it."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.backbones import T5Config
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.catalog.changed import ChangedTrie
from genrec_fast.catalog.trie import Trie
from genrec_fast.decoders import BestFirstConfig
from genrec_fast.recipe.recommender import Recommender, load
from toy import toy_recipe

SIZES, OLD, NEW = (8, 8, 8), 50, 10
CODES = torch.stack([torch.randint(0, s, (OLD + NEW,), generator=torch.Generator().manual_seed(s)) for s in SIZES], 1)


def catalog(begin=0, end=OLD + NEW, **columns):
    return Catalog(
        item_codes=CODES[begin:end].int(),
        codebook_sizes=SIZES,
        **{"counts": torch.arange(begin, end), "item_ids": [f"thing {i}" for i in range(begin, end)]} | columns,
    )


def tiger(items):
    recipe = dataclasses.replace(
        recipes.get("tiger"),
        backbone=T5Config(width=16, num_heads=2, head_width=8, num_layers=1, hidden=32, num_user_tokens=4, max_items=6),
    )
    torch.manual_seed(0)
    return Recommender(dataclasses.replace(recipe, batching=dataclasses.replace(recipe.batching, max_items=6)), items)


def same(one, other):
    names = ("items", "codes", "scores", "exact", "bound", "basis")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


HISTORIES = [[1, 2, 3], [4], [7, 7], []]


def best_first(model):
    model.decoder = BestFirstConfig(normalize="valid").build()
    return model


def test_a_best_first_search_is_without_what_is_gone():
    model = tiger(catalog())
    gone = model.recommend(HISTORIES, k=3).items[0].tolist()
    for one in (model.without(gone), model.without(gone[:1]).without(gone[1:])):
        for options in ({}, {"exclude_seen": True}, {"candidates": [list(range(40, 60))] * len(HISTORIES)}):
            wanted = one.recommend(HISTORIES, k=5, exact=True, **options)
            found = best_first(tiger(catalog()).without(gone)).recommend(HISTORIES, k=5, **options)
            assert torch.equal(found.items, wanted.items)
            assert not set(gone) & set(found.items.flatten().tolist())


def test_a_best_first_search_asks_for_a_merge():
    model = best_first(tiger(catalog(0, OLD)).extended(catalog(OLD)))
    with pytest.raises(UnsupportedError, match=r"10 items appended; merge\(\) it first"):
        model.recommend(HISTORIES, k=5)
    model.merge()
    wanted = tiger(catalog()).recommend(HISTORIES, k=5, exact=True)
    assert torch.equal(model.recommend(HISTORIES, k=5).items, wanted.items)


def test_a_model_of_more_items_answers_as_one_built_with_them():
    old = tiger(catalog(0, OLD))
    before = old.recommend(HISTORIES, k=5)
    model, whole = old.extended(catalog(OLD)), tiger(catalog())
    asked = [*HISTORIES, [OLD + 1, 3], [f"thing {OLD + 9}"]]
    assert type(model.trie) is ChangedTrie
    for options in ({}, {"exact": True}, {"exclude_seen": True}, {"candidates": [list(range(40, 60))] * len(asked)}):
        assert same(model.recommend(asked, k=5, **options), whole.recommend(asked, k=5, **options))
    during = model.recommend(asked, k=20)
    model.merge()
    assert type(model.trie) is Trie
    assert same(during, model.recommend(asked, k=20))
    assert bool((during.items >= OLD).any())
    assert same(before, old.recommend(HISTORIES, k=5))
    assert (old.num_items, model.num_items, model.named(during)[0][0].item) == (
        OLD,
        OLD + NEW,
        f"thing {int(during.items[0, 0])}",
    )


def test_a_merged_model_is_saved(tmp_path):
    model = tiger(catalog(0, OLD)).extended(catalog(OLD))
    found = model.recommend(HISTORIES, k=5)
    model.save(tmp_path / "model")
    assert same(found, load(tmp_path / "model").recommend(HISTORIES, k=5))


def test_without_some_items():
    old = tiger(catalog())
    gone = old.recommend(HISTORIES, k=3, exact=True).items.unique()
    model = old.without(gone)
    found = model.recommend(HISTORIES, k=5, exact=True)
    assert not bool(torch.isin(found.items, gone).any())
    exclude = [gone.tolist()] * len(HISTORIES)
    assert same(found, old.recommend(HISTORIES, k=5, exact=True, exclude=exclude))
    again = model.without(found.items[0]).recommend(HISTORIES, k=5, exclude_seen=True)
    assert not bool(torch.isin(again.items, torch.cat([gone, found.items[0]])).any())


def test_gone_items_are_not_saved_as_if_they_were_there(tmp_path):
    with pytest.raises(UnsupportedError, match=r"Trie.save: trie must have all its items"):
        tiger(catalog()).without([0]).save(tmp_path / "model")


def test_no_question_is_lost_while_models_are_swapped():
    server_module = pytest.importorskip("genrec_fast.serving.live")
    from genrec_fast.serving.config import ServeConfig

    first = tiger(catalog(0, OLD))
    server = server_module.Server(first, ServeConfig())
    expected = first.recommend([[1, 2, 3]], k=5), tiger(catalog()).recommend([[1, 2, 3]], k=5)
    found, failed, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            live = server.live
            try:
                found.append(live.batcher.recommend([[1, 2, 3]], k=5, timeout=60))
            except Exception as error:  # noqa: BLE001 - a closed batcher is asked again, as Server.ask does
                if live is server.live:
                    failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(found) < 5:
        pass
    model = first.extended(catalog(OLD))
    assert server.swap(model) == 1
    swapped = len(found)
    merging = threading.Thread(target=model.merge)
    merging.start()
    while len(found) < swapped + 8:
        pass
    stop.set()
    for thread in (*threads, merging):
        thread.join()
    assert server.close()
    assert failed == []
    answers = [answer.items.tolist() for answer in expected]
    assert all(answer.items.tolist() in answers for answer in found)
    assert found[-1].items.tolist() == answers[1]
    assert type(model.trie) is Trie


@pytest.mark.parametrize(
    ("new", "error", "text"),
    [
        ([[0, 0, 0]], InvalidTypeError, "extended: new must be a Catalog"),
        (catalog(OLD, item_ids=None), InvalidValueError, "extended: new must have item_ids like the catalog, got None"),
        (catalog(10), InvalidValueError, r"new must have names of its own, got 'thing 10'"),
        (dataclasses.replace(catalog(OLD), codebook_sizes=(8, 8, 9)), InvalidValueError, r"the codebook sizes \(8, 8"),
    ],
)
def test_items_that_do_not_fit_are_refused(new, error, text):
    with pytest.raises(error, match=text):
        tiger(catalog(0, OLD)).extended(new)


def test_what_is_gone_stays_gone_in_every_catalog_made_of_it():
    some = catalog(features=torch.ones(OLD + NEW, 2)).without([3, 59])
    more = catalog(OLD, item_ids=[f"more {i}" for i in range(NEW)], features=torch.ones(NEW, 2)).without([0])
    changed = [some.with_features(None), some.with_codes(CODES.flip(1).int(), SIZES), some.to("cpu"), some]
    for one in changed:
        assert (~one.trie.kept).nonzero().flatten().tolist() == [3, 59]
        assert not {3, 59} & set(one.by_popularity[0].tolist())
        assert len(one.by_popularity[0]) == OLD + NEW - 2
    both = some.extended(more)
    assert (~both.trie.kept).nonzero().flatten().tolist() == [3, 59, 60]
    assert some.with_features(None).trie is some.trie


def test_codes_that_do_not_fit_the_first_items_dtype_are_kept():
    narrow = Catalog(item_codes=torch.tensor([[0], [1]], dtype=torch.uint8), codebook_sizes=(300,))
    wide = narrow.extended(Catalog(item_codes=torch.tensor([[299]]), codebook_sizes=(300,)))
    assert wide.item_codes.tolist() == [[0], [1], [299]]
    assert wide.trie.lookup(torch.tensor([[299]])).tolist() == [2]
    same = narrow.extended(Catalog(item_codes=torch.tensor([[255]]), codebook_sizes=(300,)))
    assert same.item_codes.dtype == torch.uint8


def test_a_model_that_searches_no_trie_is_refused():
    codes = torch.arange(6, dtype=torch.int32)[:, None]
    model = Recommender(toy_recipe(), Catalog(item_codes=codes, codebook_sizes=(6,)))
    for change in (lambda: model.extended(catalog(OLD)), lambda: model.without([0])):
        with pytest.raises(UnsupportedError, match="decoder must search the catalog's trie, got"):
            change()


def test_new_items_are_read_without_vectors_of_their_own():
    recipe = recipes.marius()
    backbone = dataclasses.replace(
        recipe.backbone, width=16, num_heads=2, num_layers=1, num_depth_layers=1, hidden=16, depth_hidden=16
    )
    torch.manual_seed(0)
    layout = dataclasses.replace(recipe.layout, use_features=False)
    model = Recommender(dataclasses.replace(recipe, backbone=backbone, layout=layout), catalog(0, OLD)).eval()
    more = model.extended(catalog(OLD))
    gone = more.without(range(OLD, OLD + NEW))
    assert torch.equal(model.recommend(HISTORIES, k=5).items, gone.recommend(HISTORIES, k=5).items)
    with torch.no_grad():
        model.backbone.items.weight[:, ::2] += 1.0
    new = [[OLD + 3], [OLD + NEW - 1, OLD]]
    before = more.recommend(new, k=5)
    with torch.no_grad():
        model.backbone.items.weight[:, ::2] -= 1.0
    assert same(before, more.recommend(new, k=5))  # which no vector of another item has a part in
    assert int(more.recommend(HISTORIES, k=OLD + NEW, exact=True).items.max()) == OLD + NEW - 1


def test_a_backbone_with_weights_for_each_item_is_refused():
    model = tiger(catalog(0, OLD))
    model.backbone.of_items = torch.nn.Embedding(OLD, 2)
    with pytest.raises(UnsupportedError, match="backbone must have no weights for each item"):
        model.extended(catalog(OLD))
