"""``genrec-fast train`` on what a stranger has: a folder with interactions alone, columns of other names."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

import genrec_fast as gf
from genrec_fast import data, recipes
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.cli import main
from genrec_fast.data.synthetic import Shop
from genrec_fast.recipe.recommender import load
from genrec_fast.tokenizers import RandomConfig

FAST = ["--train.epochs", "1", "--threads", "1", "--device", "cpu", "--quiet", "--no-test"]
ALONE = ["bert4rec", "gpsd_pretraining", "gru4rec", "kuaiformer", "pinrec", "sasrec", "sasrec_bce", "transitions"]
CODED = [
    *("atspeed", "car", "cost", "diffgrm", "discrec", "dsi", "grid", "hid_vae", "letter", "llada_rec", "marius", "nci"),
    *("nezha", "recbase", "recgpt_fsq", "rpg", "rq_vae", "seater", "specgr", "tiger", "unified_sid_id", "vq_rec"),
    *("vq_vae", "eager", "earn"),
]
MADE_OF_FEATURES = ["apex", "ccfrec", "cobra", "colarec", "h2rec", "liger", "llm2bert4rec", "mmgrec", "s2gr"]
RATED = ["dfgr", "genrank", "gpsd", "hstu_ranking", "mbgen", "mtgr"]
MARIUS = ["--backbone.width", "16", "--backbone.hidden", "16", "--backbone.depth-hidden", "16"]


@pytest.fixture(scope="module")
def shop():
    return Shop(80).dataset(60)


@pytest.fixture
def alone(shop, tmp_path):
    """A folder with interactions alone, in S3-Rec's form."""
    folder = tmp_path / "shop"
    folder.mkdir()
    lines = [
        f"{user} " + " ".join(str(item + 1) for item in row.tolist())
        for user, row in enumerate(shop.interactions.items.rows())
    ]
    (folder / "interactions.txt").write_text("\n".join(lines) + "\n")
    return folder


def train(recipe, folder, *options):
    return main(["train", recipe, "--data", str(folder), "--out", str(folder.parent / "run"), *FAST, *options])


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_learns_from_interactions_alone_or_says_what_it_lacks(alone, name, capsys):
    code = train(name, alone)
    error = capsys.readouterr().err
    assert code == (0 if name in ALONE else 2), error
    if code == 0:
        return
    assert error.count("\n") == 1
    assert not (alone.parent / "run").exists()
    if name in RATED:
        assert "data.load: actions must be None for the format s3rec" in error
        return
    assert f"Recipes for interactions alone: {', '.join(ALONE)}\n" in error
    for text in {
        **dict.fromkeys(CODED, ("must have item features", "item_embeddings.npy", "--semantic-ids FILE")),
        **dict.fromkeys(MADE_OF_FEATURES, ("must have item features", "whose network is made", "item_embeddings.npy")),
        "hstu": ("must have times", "--timestamp", "--backbone.bias position"),
    }.get(name, ("must have times", "--timestamp")):
        assert text in error
    assert ("--backbone" in error) == (name == "hstu")
    assert ("--semantic-ids" in error) == (name in CODED)


def test_semantic_ids_do_not_stand_in_for_features_that_a_network_is_made_of(alone, shop, capsys):
    assert [name for name in recipes.names() if recipes.get(name).made_of_features] == MADE_OF_FEATURES
    (alone / "semantic_ids.json").write_text(json.dumps({str(item): [item // 9, item % 9] for item in range(80)}))
    for name in ("liger", "cobra"):
        assert train(name, alone) == 2
        error = capsys.readouterr().err
        assert f"--data must have item features for {name}, whose network is made of them, got none in {alone}" in error
        assert not (alone.parent / "run").exists()
        recipe = dataclasses.replace(recipes.get(name), tokenizer=RandomConfig(codebook_sizes=(9, 9)))
        with pytest.raises(InvalidValueError, match=f"^train: data must have item features for {name}, whose network"):
            gf.train(recipe, dataclasses.replace(shop, features=None), show_progress=False)


def test_items_that_are_not_trained_need_a_model_to_start_from(rated_shop, capsys):
    first, second = rated_shop.parent / "first", rated_shop.parent / "second"
    small = ["--backbone.width", "16", "--backbone.qk-dim", "8", "--backbone.v-dim", "8"]
    assert train("gpsd", rated_shop, *small) == 2
    assert capsys.readouterr().err == (
        "genrec-fast: train: --start must be a trained model for gpsd, as its items' embeddings are not trained "
        "(backbone.items.learned_ids is False) and would stay as they were drawn, got None\n"
    )
    assert not (rated_shop.parent / "run").exists() or not list((rated_shop.parent / "run").glob("*.json*"))
    assert train("gpsd_pretraining", rated_shop, *small, "--out", str(first)) == 0
    assert train("gpsd", rated_shop, *small, "--start", str(first), "--out", str(second)) == 0
    assert torch.equal(load(second).backbone.items.weight, load(first).backbone.items.weight)
    assert train("gpsd", rated_shop, *small, "--start", "", "--out", str(second)) == 2
    assert train("gpsd", rated_shop, *small, "--start", str(rated_shop), "--out", str(second)) == 2


def test_what_the_message_names_works(alone, capsys):
    """IDs made of interactions alone, and the flags: every word of the message is a road to a trained model."""
    assert train("marius", alone, *MARIUS) == 2
    command = re.search(r"'genrec-fast (tokenize .*?)'", capsys.readouterr().err)[1]
    ids = alone.parent / "ids"
    options = ["--quiet", "--tokenizer.codebook-sizes", "4", "4"]
    assert main([*command.replace("--out IDS", f"--out {ids}").split(), *options]) == 0
    codes = ["--semantic-ids", str(ids / "item_codes.json")]
    capsys.readouterr()
    assert train("marius", alone, *MARIUS, *codes) == 0
    assert "item features: none, and marius does without them (--layout.no-use-features)" in capsys.readouterr().out
    assert train("hstu", alone, "--backbone.bias", "position", "--out", str(alone.parent / "hstu")) == 0
    (alone / "semantic_ids.json").write_text((ids / "item_codes.json").read_text())
    assert train("tiger", alone, "--no-published-ids") == 2
    assert "or give neither --no-published-ids nor settings of the tokenizer, as" in capsys.readouterr().err
    published = ["--backbone.num-layers", "1", "--out", str(alone.parent / "published")]
    assert train("tiger", alone, *published) == 0
    assert "semantic IDs: those beside the data, in place of the tokenizer" in capsys.readouterr().out
    model = load(alone.parent / "published")
    assert torch.equal(model.catalog.item_codes, torch.from_numpy(np.load(ids / "item_codes.npy")))


def test_a_draft_starts_from_its_target(alone, shop, capsys):
    np.save(alone / "item_embeddings.npy", shop.features.numpy())
    small = ["--backbone.num-layers", "1"]
    target = str(alone.parent / "target")
    codes = ["--tokenizer.codebook-sizes", "4", "4"]
    assert train("atspeed", alone, *small, *codes) == 2
    assert "--start must be a trained model, as DraftAlignment compares with it, got None" in capsys.readouterr().err
    assert train("tiger", alone, *small, *codes, "--out", target) == 0
    (alone / "item_embeddings.npy").unlink()
    assert train("atspeed", alone, *small, "--start", target) == 0
    one, other = load(alone.parent / "run"), load(target)
    assert torch.equal(one.catalog.item_codes, other.catalog.item_codes)
    assert torch.equal(one.recommend([[1, 2]], 5).items, other.recommend([[1, 2]], 5).items)


def test_features_beside_the_interactions_are_enough(alone, shop):
    np.save(alone / "item_embeddings.npy", shop.features.numpy())
    assert train("marius", alone, *MARIUS, "--tokenizer.codebook-sizes", "4", "4") == 0


def test_a_tokenizer_without_features_names_those_that_need_none(alone, capsys):
    out = ["--out", str(alone.parent / "ids"), "--quiet"]
    assert main(["tokenize", str(alone), *out]) == 2
    error = capsys.readouterr().err
    assert "tokenize: source must hold item features for this kind, got none" in error
    assert "--encoder" in error and "Kinds without features: atomic, collaborative, random" in error


@pytest.fixture
def rated_shop(shop, tmp_path):
    """A table with times and ratings."""
    folder = tmp_path / "rated"
    folder.mkdir()
    lines = ["user,item,timestamp,rating"]
    for user, row in enumerate(shop.interactions.items.rows()):
        lines += [f"{user},{item},{60 * place},{1 + (item + place) % 5}" for place, item in enumerate(row.tolist())]
    (folder / "interactions.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def own(shop, tmp_path):
    """A table with columns of other names, times in milliseconds."""
    folder = tmp_path / "own"
    folder.mkdir()
    events = shop.interactions
    users, items = events.items.row_index().tolist(), events.items.values.tolist()
    rows = zip(users, items, events.timestamps.tolist(), strict=True)
    text = "".join(f"{user},{item:03d},{(1.6e9 + time) * 1000:.0f},{item % 5 + 1}\n" for user, item, time in rows)
    (folder / "sales.csv").write_text("customer,sku,when,stars\n" + text)
    return folder


def test_columns_of_other_names_reach_every_command(own, tmp_path, capsys):
    names = ["--user", "customer", "--item", "sku", "--timestamp", "when"]
    out = tmp_path / "run"
    assert main(["train", "sasrec", "--data", str(own), "--out", str(out), *FAST[:-1], *names]) == 0
    test = json.loads((out / "test.json").read_text())
    assert test["num_users"] == 60
    capsys.readouterr()
    assert main(["evaluate", str(out), "--data", str(own), "--json", *names]) == 0
    assert json.loads(capsys.readouterr().out)["recall"] == test["recall"]
    assert main(["recommend", str(out), "--history", "007", "012", "-k", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    kind = ["--kind", "collaborative", "--tokenizer.codebook-sizes", "4", "4", "--quiet"]
    assert main(["tokenize", str(own), "--out", str(tmp_path / "ids"), *kind, *names]) == 0
    assert np.load(tmp_path / "ids" / "item_codes.npy").shape[0] == len(
        json.loads((out / "items.json").read_text())["item_ids"]
    )
    capsys.readouterr()
    for command in (
        ["train", "sasrec", "--data", str(own), "--out", str(tmp_path / "other"), *FAST],
        ["evaluate", str(out), "--data", str(own)],
        ["tokenize", str(own), "--out", str(tmp_path / "other"), *kind],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert (
            "sales.csv:1: must have a column user, got customer, sku, when, stars; user (--user) names another" in error
        )
        assert main([*command, *names[:4], "--timestamp", "day"]) == 2
        assert "must have a column day, got customer, sku, when, stars; timestamp (--timestamp) names" in (
            capsys.readouterr().err
        )
    assert main(["tokenize", str(tmp_path / "ids" / "item_codes.npy"), "--out", str(tmp_path / "x"), *names]) == 2
    assert "tokenize: user, item, timestamp must not be given for" in capsys.readouterr().err


def test_ratings_and_a_unit_of_time_can_be_named(own, tmp_path, capsys):
    names = ["--user", "customer", "--item", "sku", "--timestamp", "when", "--rating", "stars", "--time-unit"]
    run = ["train", "hstu_ranking", "--data", str(own), "--out", str(tmp_path / "run"), *FAST]
    assert main([*run, *names, "ms"]) == 0
    capsys.readouterr()
    assert main([*run, *names, "s"]) == 2  # other times are other data
    assert "one of the same training" in capsys.readouterr().err
    assert main([*run, *names[:-3]]) == 2
    assert "must have a column rating, got customer, sku, when, stars; rating (--rating) names another" in (
        capsys.readouterr().err
    )


def test_names_of_columns_where_there_are_none_are_refused(alone, capsys):
    assert train("sasrec", alone, "--user", "customer") == 2
    assert "data.load: --user must be None for the format s3rec of" in capsys.readouterr().err


def test_a_file_and_every_way_to_choose_of_it_reach_every_command(shop, tmp_path, capsys):
    """A table without a header, by its path: liked events of the core, asked by time."""
    events = shop.interactions
    rows = zip(events.items.row_index().tolist(), events.items.values.tolist(), events.timestamps.tolist(), strict=True)
    path = tmp_path / "events.dat"
    path.write_text("".join(f"{user}::{item}::{1 + item % 5}::{1.6e9 + time:.0f}\n" for user, item, time in rows))
    chosen = ["--data", str(path), "--columns", "user", "item", "rating", "timestamp", "--min-rating", "2"]
    chosen += ["--k-core", "3", "--time-split", "70%", "85%"]
    out = tmp_path / "run"
    assert main(["train", "sasrec", "--out", str(out), *FAST[:-1], *chosen]) == 0
    assert "Dataset events" in capsys.readouterr().out
    kept = data.load(path, columns=("user", "item", "rating", "timestamp"), min_rating=2, k_core=3)
    test = json.loads((out / "test.json").read_text())
    assert test["num_users"] == len(data.time_split(kept.interactions, "70%", "85%").test)
    assert test["num_users"] < kept.num_users < 61
    assert main(["evaluate", str(out), "--json", *chosen]) == 0
    assert json.loads(capsys.readouterr().out)["recall"] == test["recall"]
    assert main(["evaluate", str(out), *chosen[:-2], "someday", "85%"]) == 2
    assert (
        "time_split: the first of --time-split must be a date or time such as 2014-06-01, a share"
        in capsys.readouterr().err
    )
    ids = ["--out", str(tmp_path / "ids"), "--kind", "random", "--quiet", "--tokenizer.codebook-sizes", "4", "4"]
    assert main(["tokenize", str(path), *chosen[2:], *ids]) == 0
    assert len(np.load(tmp_path / "ids" / "item_codes.npy")) == kept.num_items


def test_published_ids_are_used_whatever_says_which_item_they_are(tmp_path, capsys):
    """LETTER's files beside a table of names: its numbers, its IDs, its titles."""
    folder = tmp_path / "letter"
    folder.mkdir()
    lines = [f"u{user},B{(user * 7 + place * 3) % 20:03d},{place}\n" for user in range(15) for place in range(6)]
    (folder / "interactions.csv").write_text("user,item,timestamp\n" + "".join(lines))
    numbers = {f"B{item:03d}": (item * 3) % 20 for item in range(20)}
    (folder / "x.item2id").write_text("".join(f"{name}\t{number}\n" for name, number in numbers.items()))
    codes = {str(number): [f"<a_{number % 5}>", f"<b_{number // 5}>"] for number in numbers.values()}
    (folder / "x.index.json").write_text(json.dumps(codes))
    (folder / "x.item.json").write_text(json.dumps({str(number): {"title": f"T{number}"} for number in range(20)}))
    out = tmp_path / "run"
    assert main(["train", "tiger", "--data", str(folder), "--out", str(out), *FAST, "--backbone.num-layers", "1"]) == 0
    said = capsys.readouterr().out
    assert "semantic IDs 2 levels of 5, 4 codes" in said and "in place of the tokenizer" in said
    model = load(out)
    for item, name in enumerate(model.item_ids):
        assert model.catalog.item_codes[item].tolist() == [numbers[name] % 5, numbers[name] // 5]
        assert model.title(item) == f"T{numbers[name]}"
