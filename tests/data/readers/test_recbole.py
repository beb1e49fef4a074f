from __future__ import annotations

import json

import numpy as np
import pytest

from genrec_fast import data
from genrec_fast.base.errors import DataError, InvalidValueError

INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
b\tx\t5\t30
a\ty\t2\t20
b\ty\t4\t10
b\tz\t1\t10
a\tx\t5\t10.5
"""
ITEM = (
    "item_id:token\tmovie_title:token_seq\tyear:token\tclass:token_seq\n"
    "w\tWings\t1927\tWar\nx\tX Files\t1998\tSci-Fi\ny\tYes\t\t\nz\tZ\t1969\tThriller\n"
)


def write(folder, inter=INTER, item=None):
    (folder / "ml.inter").write_text(inter)
    if item is not None:
        (folder / "ml.item").write_text(item)


def named(dataset):
    return [
        [dataset.interactions.item_ids[i] for i in row]
        for row in (r.tolist() for r in dataset.interactions.items.rows())
    ]


def test_events_are_sorted_by_time_and_ties_keep_their_order(tmp_path):
    write(tmp_path)
    dataset = data.load(tmp_path)
    assert dataset.name == "ml"
    assert dataset.interactions.user_ids == ["b", "a"]
    assert named(dataset) == [["y", "z", "x"], ["x", "y"]]
    assert dataset.interactions.timestamps.tolist() == [10, 10, 30, 10.5, 20]
    assert dataset.interactions.item_ids == ["x", "y", "z"]
    assert dataset.titles is None


def test_item_file_gives_all_items_titles_and_order(tmp_path):
    write(tmp_path, item=ITEM)
    np.save(tmp_path / "item_embeddings.npy", np.eye(4, dtype=np.float16))
    (tmp_path / "semantic_ids.json").write_text(json.dumps({str(i): [i, 0] for i in range(4)}))
    dataset = data.load(tmp_path)
    assert dataset.interactions.item_ids == ["w", "x", "y", "z"]
    assert dataset.titles == ["Wings", "X Files", "Yes", "Z"]
    assert dataset.attributes == ["1927 | War", "1998 | Sci-Fi", " | ", "1969 | Thriller"]
    assert dataset.features.shape == (4, 4)
    assert dataset.item_codes.tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]


def test_min_rating(tmp_path):
    write(tmp_path)
    assert named(data.load(tmp_path, min_rating=4)) == [["y", "x"], ["x"]]
    with pytest.raises(InvalidValueError, match="min_rating must leave some events, got 6 which leaves none"):
        data.load(tmp_path, min_rating=6)
    write(tmp_path, "user_id:token\titem_id:token\na\tx\n")
    with pytest.raises(InvalidValueError, match=r"min_rating must be None, as .*ml.inter has no column rating"):
        data.load(tmp_path, min_rating=1)


def test_without_times_the_file_is_the_order(tmp_path):
    write(tmp_path, "item_id:token\tuser_id:token\nx\ta\nz\tb\ny\ta\n\n")
    dataset = data.load(tmp_path)
    assert dataset.interactions.timestamps is None
    assert named(dataset) == [["x", "y"], ["z"]]


@pytest.mark.parametrize(
    ("inter", "message"),
    [
        ("user_id:token\titem_id:token\na\tx\nb\n", "ml.inter:3: must have 2 cells as the header, got 1"),
        ("user_id\titem_id:token\na\tx\n", r"ml.inter:1: a column of the header must be name:type .* got 'user_id'"),
        ("user_id:text\titem_id:token\na\tx\n", r"with type token\|token_seq\|float\|float_seq, got 'user_id:text'"),
        ("user_id:token\tuser_id:token\na\tx\n", "columns must have names of their own, got user_id:token"),
        (
            "user_id:token\tproduct:token\na\tx\n",
            r"ml.inter:1: must have a column item_id, got user_id, product; item \(--item\) names another",
        ),
        ("user_id:token\titem_id:token\n", "ml.inter: has no lines"),
        (
            "user_id:token\titem_id:token\ttimestamp:float\na\tx\t1\na\ty\tsoon\n",
            "ml.inter:3: column timestamp must be a finite number, got 'soon'",
        ),
        (
            "user_id:token\titem_id:token\ttimestamp:float\na\tx\tnan\n",
            "ml.inter:2: column timestamp must be a finite number, got 'nan'",
        ),
        ("", "ml.inter: the file is empty"),
        ("user_id:token\titem_id:token\na\tx\n\ty\n", "ml.inter:3: column user_id must not be empty"),
        ("user_id:token\titem_id:token\na\t\n", "ml.inter:2: column item_id must not be empty"),
    ],
)
def test_malformed_interactions(tmp_path, inter, message):
    write(tmp_path, inter)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            ITEM.replace("z\tZ", "y\tZ"),
            "ml.item:4: item 'y' stands on several lines|ml.inter:5: item 'z' is not in ml.item",
        ),
        (ITEM.replace("z\tZ", "q\tZ"), "ml.inter:5: item 'z' is not in ml.item"),
        (ITEM + "short\n", "ml.item:6: must have 4 cells as the header, got 1"),
        (ITEM + "\tNobody\t\t\n", "ml.item:6: column item_id must not be empty"),
    ],
)
def test_malformed_items(tmp_path, item, message):
    write(tmp_path, item=item)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


def test_an_item_without_a_title_has_an_empty_one(tmp_path):
    write(tmp_path, item="item_id:token\ttitle:token_seq\nx\t\ny\tYes\nz\t\n")
    assert data.load(tmp_path).titles == ["", "Yes", ""]


def test_blank_lines_and_quotes_mean_nothing(tmp_path):
    write(tmp_path, '\nuser_id:token\titem_id:token\n\na\t"x\n \t \nb\t5" y\n\n', 'item_id:token\n5" y\n\n"x\n')
    dataset = data.load(tmp_path)
    assert dataset.interactions.item_ids == ['5" y', '"x']
    assert named(dataset) == [['"x'], ['5" y']]
    write(tmp_path, "\n\nuser_id:token\titem_id:token\n\na\n")
    with pytest.raises(DataError, match=r"ml.inter:5: must have 2 cells as the header, got 1"):
        data.load(tmp_path)


def test_columns_of_other_names(tmp_path):
    inter = INTER.replace("user_id", "customer").replace("item_id", "sku").replace("rating", "stars")
    write(tmp_path, inter.replace("timestamp", "when"), ITEM.replace("item_id", "sku").replace("class", "subtitle"))
    names = {"user": "customer", "item": "sku", "timestamp": "when", "rating": "stars"}
    dataset = data.load(tmp_path, **names, title="year", min_rating=2, actions=("rating>=5", "when<20"))
    assert named(dataset) == [["y", "x"], ["x", "y"]]
    assert dataset.interactions.timestamps.tolist() == [10, 30, 10.5, 20]
    assert dataset.interactions.actions.tolist() == [[False, True], [True, False], [True, True], [False, False]]
    assert dataset.titles == ["1927", "1998", "", "1969"]
    for option, wrong in (("timestamp", "date"), ("rating", "score")):
        with pytest.raises(
            DataError, match=rf"ml.inter:1: must have a column {wrong}, .*{option} \(--{option}\) names"
        ):
            data.load(tmp_path, **names | {option: wrong})
    with pytest.raises(DataError, match=r"ml.item:1: must have a column name, got sku, .*title \(--title\) names"):
        data.load(tmp_path, **names, title="name")


def test_vectors_without_an_item_file_follow_first_appearance(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "item_embeddings.npy", np.zeros((4, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"item_embeddings.npy: has 4 items, but ml.inter has 3"):
        data.load(tmp_path)
