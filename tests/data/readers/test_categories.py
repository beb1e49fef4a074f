"""Categories of items, in every form that published sets have them in, up to those who read them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

import genrec_fast as gf
from genrec_fast import data
from genrec_fast.catalog.categories import categories_by_level
from genrec_fast.cli import main
from genrec_fast.data.readers.categories import as_cell, as_text, category_columns, path_of
from genrec_fast.tokenizers.regularisers import TagSupervisionConfig
from published_sets import SETS

EVENTS = "user,item,timestamp\nann,tea,1\nann,pot,2\nann,cup,3\nbob,cup,1\nbob,tea,2\nbob,pot,3\n"


@pytest.mark.parametrize(
    ("cells", "path"),
    [
        ({"genres": "Comedy|Drama"}, ["Comedy", "Drama"]),
        ({"genres": "(no genres listed)"}, []),
        ({"categories": "Restaurants, Pizza"}, ["Restaurants", "Pizza"]),
        ({"category": "Food, drink and tobacco"}, ["Food, drink and tobacco"]),
        ({"category": "Food > Tea > Green"}, ["Food", "Tea", "Green"]),
        ({"categories": "[['Beauty', 'Hair, long'], ['Gifts']]"}, ["Beauty", "Hair, long"]),
        ({"categories": "'Beauty', 'Hair, long'"}, ["Beauty", "Hair, long"]),
        ({"categories": "[['Clothing, Shoes & Jewelry']]"}, ["Clothing, Shoes & Jewelry"]),
        ({"categories": "['Clothing, Shoes']"}, ["Clothing, Shoes"]),
        ({"feat": "[27, 9]"}, ["27", "9"]),
        ({"categories": "[Toys, Games]"}, ["Toys", "Games"]),
        ({"main_category": "Beauty", "categories": "Beauty|Hair"}, ["Beauty", "Hair"]),
        ({"main_category": "All Beauty", "categories": ""}, ["All Beauty"]),
        ({"first_level_category_name": "UNKNOWN", "second_level_category_name": ""}, []),
        ({"genre:Comedy": "1", "genre:Drama": "0", "genre:War": "1", "genre:unknown": "1"}, ["Comedy", "War"]),
    ],
)
def test_a_cell_of_any_form(cells, path):
    assert path_of(cells) == path


def test_lists_keep_commas_in_their_names():
    cell = as_cell([["Beauty", "Skin, dry"], ["Gifts"]])
    assert path_of({"categories": cell}) == ["Beauty", "Skin, dry"]
    assert as_text(cell) == "Beauty, Skin, dry, Gifts"
    for alone in (["Clothing, Shoes"], [["Clothing, Shoes"]], [["Clothing, Shoes"], []]):
        assert path_of({"categories": as_cell(alone)}) == ["Clothing, Shoes"]
        assert as_text(as_cell(alone)) == "Clothing, Shoes"
    assert as_cell("Beauty") is None
    assert path_of({"categories": as_cell([])}) == []
    assert path_of({"class": "Animation Children's"}, blanks=["class"]) == ["Animation", "Children's"]


def test_columns_from_the_general_to_the_special():
    names = ["title", "second_level_category_name", "genres", "category", "main_category", "first_level_category_name"]
    assert category_columns(names) == [
        "main_category", "category", "genres", "first_level_category_name", "second_level_category_name",
    ]  # fmt: skip
    assert category_columns(["category_2", "category_1", "brand"]) == ["category_1", "category_2"]


@pytest.mark.parametrize("name", [name for name in SETS if name not in ("amazon-2014-ratings", "steam-owned")])
def test_published_sets_have_theirs(name, tmp_path):
    SETS[name](tmp_path)
    dataset = data.load(tmp_path)
    assert all(dataset.categories)
    first = {path[0] for path in dataset.categories}
    usual = {"ml": {"Comedy", "Animation"}, "am": {"Beauty", "All Beauty"}, "ye": {"Bars"}, "st": {"Action"}}
    assert first <= usual.get(name[:2], first)
    assert dataset.catalog.categories == dataset.categories
    assert "categories" in repr(dataset)


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl", "item.json"])
def test_a_file_of_items(ending, tmp_path):
    rows = {"pot": ["Kitchen", "Pots, pans"], "tea": ["Food"], "cup": []}
    (tmp_path / "interactions.csv").write_text(EVENTS)
    if ending == "csv":
        lines = [f'{item},"{"|".join(path)}"' for item, path in rows.items()]
        (tmp_path / "items.csv").write_text("\n".join(["item,category", *lines]))
    elif ending == "parquet":
        frame = pl.DataFrame({"item": list(rows), "categories": list(rows.values())})
        frame.write_parquet(tmp_path / "items.parquet")
    elif ending == "jsonl":
        lines = [json.dumps({"item": item, "categories": path}) for item, path in rows.items()]
        (tmp_path / "items.jsonl").write_text("\n".join(lines))
    else:
        texts = {item: {"title": item, "categories": path} for item, path in rows.items()}
        (tmp_path / "shop.item.json").write_text(json.dumps(texts))
    dataset = data.load(tmp_path)
    assert dict(zip(dataset.interactions.item_ids, dataset.categories, strict=True)) == rows
    kept = data.k_core(dataset, 2)
    assert dict(zip(kept.interactions.item_ids, kept.categories, strict=True)) == rows
    assert any("Pots, pans" in text or "Kitchen|Pots" in text for text in dataset.attributes)


def test_recbole_lcrec_and_s3rec(tmp_path):
    for kind in ("recbole", "lcrec", "s3rec"):
        (tmp_path / kind).mkdir()
    (tmp_path / "recbole" / "a.inter").write_text("user_id:token\titem_id:token\n1\t7\n1\t8\n")
    items = "item_id:token\tname:token_seq\tclass:token_seq\n7\tOne\tWar Drama\n8\tTwo\t\n"
    (tmp_path / "recbole" / "a.item").write_text(items)
    (tmp_path / "lcrec" / "a.inter.json").write_text('{"0": [0, 1]}')
    (tmp_path / "lcrec" / "a.item.json").write_text('{"0": {"categories": ["War", "Drama"]}, "1": {"title": "Two"}}')
    (tmp_path / "s3rec" / "interactions.txt").write_text("1 1 2\n")
    (tmp_path / "s3rec" / "items.tsv").write_text("item_id\ttext\tcategories\n1\tOne\tWar, Drama\n2\tTwo\t\n")
    for kind in ("recbole", "lcrec", "s3rec"):
        assert data.load(tmp_path / kind).categories == [["War", "Drama"], []]
    assert data.load(tmp_path / "recbole").attributes == ["War Drama", ""]
    (tmp_path / "s3rec" / "items.tsv").unlink()
    assert data.load(tmp_path / "s3rec").categories is None


def test_numbers_per_level():
    paths = [["Beauty", "Hair", "Dry"], ["Beauty", "Skin"], [], ["Beauty", "Hair", "Wet"]]
    assert categories_by_level(paths).tolist() == [[0, 0], [1, -1], [-1, -1], [0, 1]]  # all are Beauty
    assert categories_by_level(None) is None
    assert categories_by_level([["a"], ["a"]]) is None
    assert categories_by_level([[], []]) is None


@pytest.fixture
def shop(tmp_path):
    """A folder of 60 items of 3 kinds, with vectors that do not know the kinds."""
    generator = np.random.default_rng(0)
    lines = [f"{user},{item},{time}" for user in range(30) for time, item in enumerate(generator.permutation(60)[:6])]
    (tmp_path / "interactions.csv").write_text("user,item,timestamp\n" + "\n".join(lines))
    kinds = "\n".join(f"{item},item {item},kind {item % 3}" for item in range(60))
    (tmp_path / "items.csv").write_text("item,title,category\n" + kinds)
    np.save(tmp_path / "item_embeddings.npy", generator.standard_normal((60, 8)).astype(np.float32))
    return tmp_path


def test_they_reach_the_report_without_a_flag(shop, tmp_path):
    out = tmp_path / "ids"
    options = ["--tokenizer.codebook-sizes", "4", "4", "--threads", "1", "--quiet"]
    assert main(["tokenize", str(shop), "--out", str(out), *options]) == 0
    found = json.loads((out / "report.json").read_text())
    assert found["levels"][0]["purity"] is not None
    np.save(tmp_path / "own.npy", np.arange(60) // 30)
    own = ["--categories", str(tmp_path / "own.npy")]
    assert main(["tokenize", str(shop), "--out", str(out), *own, *options]) == 0
    told = json.loads((out / "report.json").read_text())
    assert told["levels"][0]["purity"] != found["levels"][0]["purity"]


def test_they_reach_the_regularisers_in_training(shop):
    dataset = data.load(shop)
    tokenizer = gf.RQVAEConfig(
        codebook_sizes=(8, 8), steps=20, hidden_sizes=(8,), latent_dim=4, regularisers=(TagSupervisionConfig(),)
    )
    recipe = dataclasses.replace(
        gf.recipes.tiger(), tokenizer=tokenizer, train=dataclasses.replace(gf.recipes.tiger().train, epochs=1)
    )
    assert gf.train(recipe, dataset, seed=0).catalog.categories == dataset.categories
    with pytest.raises(gf.errors.InvalidValueError, match="TagSupervision: categories must be given"):
        gf.train(recipe, dataclasses.replace(dataset, categories=None), seed=0)
