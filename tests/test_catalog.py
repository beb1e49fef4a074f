from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.base.files import write_text
from genrec_fast.catalog.catalog import Catalog

CODES = torch.tensor([[0, 1], [1, 0], [2, 2]])
FEATURES = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("known", "error", "text"),
    [
        ({"codebook_sizes": (3, 2.5)}, InvalidTypeError, "codebook_sizes must be an int"),
        ({"codebook_sizes": (3, 1 << 64)}, InvalidValueError, "codebook_sizes must be at most"),
        ({"codebook_sizes": 3}, InvalidTypeError, "codebook_sizes must be a tuple of int"),
        ({"features": 0}, InvalidTypeError, "features must be a float tensor"),
        ({"features": FEATURES.int()}, InvalidTypeError, "features must be a float tensor"),
        ({"features": FEATURES[0]}, InvalidValueError, r"features must be \[N, F\], got \[4\]"),
        ({"features": FEATURES[:2]}, InvalidValueError, "features must have one row per item = 3, got 2"),
        ({"item_codes": CODES.float()}, InvalidTypeError, "item_codes must be integers"),
        ({"codebook_sizes": (3, 3, 3)}, InvalidValueError, r"item_codes must be \[N, 3\]"),
        ({"codebook_sizes": (3, 2)}, InvalidValueError, r"item_codes of level 1 must be in \[0, 2\), got 2 for item 2"),
        ({"item_ids": ["a"]}, InvalidValueError, "titles|item_codes must have one row per item = 1, got 3"),
        ({"counts": torch.ones(3)}, InvalidTypeError, "counts must be integers"),
        ({"num_items": 4}, InvalidValueError, "item_codes must have one row per item = 4, got 3"),
        ({"num_items": -1}, InvalidValueError, "num_items must be at least 0, got -1"),
    ],
)
def test_what_does_not_fit_is_named(known, error, text):
    with pytest.raises(error, match=f"Catalog: ({text})"):
        Catalog(**{"item_codes": CODES, "codebook_sizes": (3, 3), **known})


def test_a_catalog_of_nothing_is_refused():
    with pytest.raises(InvalidValueError, match="num_items must be at least 1, got none"):
        Catalog()
    with pytest.raises(InvalidValueError, match="item_codes must be given for a trie, got None"):
        _ = Catalog(num_items=3).trie


def test_other_codes_make_another_catalog():
    catalog = Catalog(item_codes=CODES, codebook_sizes=(3, 3), titles=["x", "y", "z"])
    first = catalog.trie
    other = catalog.with_codes(CODES.flip(0), (3, 3))
    assert catalog.trie is first
    assert other.trie is not first
    assert other.titles == catalog.titles
    assert other.trie.lookup(CODES[:1]).tolist() != first.lookup(CODES[2:]).tolist()
    assert catalog.to("cpu") is catalog


def test_a_saved_catalog_comes_back(tmp_path):
    catalog = Catalog(
        item_codes=CODES,
        codebook_sizes=(3, 3),
        features=FEATURES,
        counts=torch.tensor([4, 0, 1]),
        item_ids=["a", "b", "c"],
        titles=["A", "", "C"],
        categories=[["x"], [], ["y", "z"]],
    )
    assert catalog.save(tmp_path) == ["catalog.safetensors", "items.json"]
    _ = catalog.trie
    assert catalog.save(tmp_path) == ["catalog.safetensors", "items.json", "trie.safetensors"]
    again = Catalog.load(tmp_path)
    for name in ("item_codes", "features", "counts"):
        assert torch.equal(getattr(again, name), getattr(catalog, name))
    for name in ("item_ids", "titles", "texts", "categories", "codebook_sizes", "num_items"):
        assert getattr(again, name) == getattr(catalog, name)
    assert again.trie.lookup(CODES).tolist() == catalog.trie.lookup(CODES).tolist()
    write_text(tmp_path / "items.json", "[]")
    with pytest.raises(CorruptFileError, match=r"items\.json is missing, cut short or altered"):
        Catalog.load(tmp_path)


def test_a_trie_that_another_catalog_left_behind_is_not_taken(tmp_path):
    catalog = Catalog(item_codes=CODES, codebook_sizes=(3, 3))
    _ = catalog.trie
    catalog.save(tmp_path)
    other = catalog.with_codes(CODES.flip(0), (3, 3))
    other.save(tmp_path)  # its own trie was not made
    again = Catalog.load(tmp_path)
    assert again.trie.lookup(CODES).tolist() == other.trie.lookup(CODES).tolist()
    _ = other.trie
    other.save(tmp_path)
    catalog.trie.save(tmp_path / "trie.safetensors")
    with pytest.raises(CorruptFileError, match=r"trie\.safetensors must be this catalog's, got another file"):
        Catalog.load(tmp_path)


def test_a_catalog_of_a_trie_alone_is_saved_and_comes_back(tmp_path):
    trie = Catalog(item_codes=CODES, codebook_sizes=(3, 3)).trie
    catalog = Catalog.of_trie(trie)
    assert catalog.to("cpu").trie is trie
    catalog.save(tmp_path)
    assert Catalog.load(tmp_path).trie.lookup(CODES).tolist() == trie.lookup(CODES).tolist()


def test_names_follow_the_catalog():
    catalog = Catalog(num_items=2)
    assert catalog.numbers == {"0": 0, "1": 1}
    assert dataclasses.replace(catalog, item_ids=["b", "a"]).numbers == {"b": 0, "a": 1}


def test_tags_are_categories_with_those_above_them():
    known = [["food", "tea"], [], ["toys", "tea", "red"], ["food"], ["food", "tea"]]  # "red" alone tells nothing
    tags = Catalog(num_items=5, categories=known).tags
    assert tags.dtype == torch.int64
    assert tags.tolist() == [[0, 0], [-1, -1], [1, 1], [0, -1], [0, 0]]


@pytest.mark.parametrize("categories", [None, [[], []]])
def test_without_categories_there_are_no_tags(categories):
    assert Catalog(num_items=2, categories=categories).tags is None
