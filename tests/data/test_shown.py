"""What ``print`` shows of data, catalogs and models: what matters, on a screen."""

from __future__ import annotations

import torch

import genrec_fast as gf
from genrec_fast import data
from genrec_fast.data.synthetic import Shop


def on_a_screen(thing):
    text = repr(thing)
    assert len(text.splitlines()) <= 20
    assert max(map(len, text.splitlines())) <= 120
    return text


def test_a_dataset(tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item,timestamp\na,x,2020-01-01\na,y,2020-02-01\nb,x,2021-05-05\n")
    (tmp_path / "items.csv").write_text(f"item,title,brand\nx,{'long ' * 40},\ny,,\nz,,\n")
    (tmp_path / "x.index.json").write_text(
        '{"0": ["<a_1>", "<b_2>"], "1": ["<a_1>", "<b_2>"], "2": ["<a_0>", "<b_0>"]}'
    )
    text = on_a_screen(dataset := data.load(tmp_path))
    for part in (
        "users        2, each 1 to 2 (median 1) events",
        "items        3, each in 0 to 2 (median 1) events",
        "times        2020-01-01 to 2021-05-05",
        "titles       such as 'long long",
        "; 2 items have none",
        "attributes   all empty",
        "features     none",
        "semantic IDs 2 levels of 2, 3 codes; 1 beyond the first of theirs",
    ):
        assert part in text
    assert on_a_screen(dataset.interactions) == "Interactions(2 users, 3 items, 3 events, 2020-01-01 to 2021-05-05)"
    assert on_a_screen(dataset.catalog) == "Catalog(3 items, titles, texts, semantic IDs of 2 levels of 2, 3 codes)"


def test_what_is_empty_or_large():
    shop = Shop(seed=0, num_items=80).dataset(num_users=300)
    on_a_screen(shop)
    assert "questions" in on_a_screen(data.leave_one_out(shop.interactions).test)
    nobody = data.Interactions(gf.Jagged.from_rows([]), None, [], ["x"])
    assert "0 users, 1 items, 0 events" in on_a_screen(nobody)
    on_a_screen(data.Dataset("none", nobody))


def test_a_model_and_its_trie():
    catalog = gf.Catalog(item_codes=torch.randint(0, 4, (30, 8)), codebook_sizes=(4,) * 8)
    assert "num_items=30" in on_a_screen(catalog.trie)
    assert on_a_screen(catalog) == "Catalog(30 items, semantic IDs of 8 levels of 4 codes)"
    text = on_a_screen(
        gf.Recommender(gf.recipes.sasrec(), gf.Catalog(item_codes=torch.arange(9)[:, None], codebook_sizes=(9,)))
    )
    for part in ("Recommender sasrec", "9, without titles", "items are atoms", "parameters, float32, cpu", "Causal("):
        assert part in text
