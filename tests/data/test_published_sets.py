"""Every published set, in miniature: read by its folder, by its file, and taken to recommendations."""

from __future__ import annotations

import json

import numpy as np
import pytest

from genrec_fast import data
from genrec_fast.base.errors import DataError
from genrec_fast.cli import main
from published_sets import NUM_ITEMS, NUM_USERS, SETS, events

UNTIMED = ("steam-owned",)
UNTITLED = ("amazon-2014-ratings", "kuairand")
FAST = ["--train.epochs", "1", "--threads", "1", "--device", "cpu", "--quiet"]


def pairs(dataset):
    found = dataset.interactions
    rows = zip(found.items.row_index().tolist(), found.items.values.tolist(), strict=True)
    return [(found.user_ids[user], found.item_ids[item]) for user, item in rows]


@pytest.mark.parametrize("name", SETS)
def test_a_folder_of_it_is_read_as_it_is(name, tmp_path):
    SETS[name](tmp_path)
    dataset = data.load(tmp_path)
    assert (dataset.num_users, dataset.num_items) == (NUM_USERS, NUM_ITEMS)
    assert dataset.interactions.num_events == len(events())
    if name in UNTIMED:
        assert dataset.interactions.timestamps is None
    else:
        first = {user: time for user, _, _, time in sorted(events(), key=lambda one: -one[3])}
        times = dataset.interactions.timestamps[dataset.interactions.items.offsets[:-1]]
        assert np.allclose(times, next(iter(first.values())), atol=86_400 if name == "steam" else 0.5)
        order = sorted(events(), key=lambda one: one[3])
        user = dataset.interactions.user_ids[0]
        number = int("".join(filter(str.isdigit, user))) - name.startswith("ml-")
        items = [item for who, item, _, _ in order if who == number]
        shown = [int("".join(filter(str.isdigit, item))) for who, item in pairs(dataset) if who == user]
        assert shown == [item + name.startswith("ml-") for item in items]
    if name in UNTITLED:
        assert dataset.titles is None
    else:
        assert all(title.startswith("Amélie") for title in dataset.titles)
        place = dataset.interactions.item_ids.index({"ml": "4", "am": "B000003", "ye": "b3"}.get(name[:2], "3"))
        assert "3" in dataset.titles[place]
    said = {"ml": "Comedy", "am": "Beauty", "ye": "Bars, Food", "st": "Action, Indie", "ku": ""}[name[:2]]
    if name not in (*UNTIMED, "amazon-2014-ratings"):
        assert all(said in attributes for attributes in dataset.attributes)


@pytest.mark.parametrize("name", SETS)
def test_from_a_folder_of_it_to_recommendations(name, tmp_path, capsys):
    SETS[name](tmp_path / "set")
    assert main(["train", "sasrec", "--data", str(tmp_path / "set"), "--out", str(tmp_path / "run"), *FAST]) == 0
    item = json.loads((tmp_path / "run" / "items.json").read_text())["item_ids"][0]
    capsys.readouterr()
    assert main(["recommend", str(tmp_path / "run"), "--history", item, "-k", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("name", SETS)
def test_its_file_is_enough(name, tmp_path):
    SETS[name](tmp_path)
    whole = data.load(tmp_path)
    place = tmp_path / "data" if (tmp_path / "data").is_dir() else tmp_path
    names = ("ratings", "u.data", "reviews", "All_", "big_", "log_standard", "review", "users_items")
    path = next(path for word in names for path in sorted(place.iterdir()) if word in path.name)
    alone = data.load(path)
    if name != "kuairand":  # of two files
        assert alone.interactions.item_ids == whole.interactions.item_ids
        assert alone.titles == whole.titles
    assert alone.interactions.num_events > 0


def test_events_without_a_time_are_left_out_of_kuairec_alone_and_said(tmp_path):
    SETS["kuairec"](tmp_path)
    with pytest.warns(UserWarning, match=r"1 of 51 events of .*small_matrix.csv have no time and are left out"):
        assert data.load(tmp_path / "data" / "small_matrix.csv").interactions.num_events == 50
    (tmp_path / "own.csv").write_text("user,item,timestamp\na,x,1\na,y,\n")
    with pytest.raises(DataError, match=r"own.csv:3: column timestamp must be a finite number, got ''"):
        data.load(tmp_path / "own.csv")


def test_ratings_are_known_by_each_sets_own_name(tmp_path):
    for name in SETS:
        if name not in ("steam", "steam-owned"):
            SETS[name](tmp_path / name)
            limit = {"kuairand": 1, "kuairec": 0.75, "ml-10m": 2.5}.get(name, 3)
            kept = data.load(tmp_path / name, min_rating=limit).interactions.num_events
            assert kept == sum(stars >= 3 for _, _, stars, _ in events()), name
