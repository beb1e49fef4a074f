from __future__ import annotations

import datetime
import sys

import numpy as np
import pytest

from genrec_fast import data
from genrec_fast.errors import DataError, InvalidValueError, UnsupportedError

polars = pytest.importorskip("polars")

CSV = "user,item,timestamp,rating\nb,007,30,5\na,y,20,2\nb,y,10,4\nb,z,10,1\na,007,10.5,5\n"


def named(dataset):
    return [
        [dataset.interactions.item_ids[i] for i in row]
        for row in (r.tolist() for r in dataset.interactions.items.rows())
    ]


def test_csv_keeps_names_as_they_stand_and_sorts_by_time(tmp_path):
    (tmp_path / "interactions.csv").write_text(CSV)
    dataset = data.load(tmp_path)
    assert dataset.interactions.user_ids == ["b", "a"]
    assert named(dataset) == [["y", "z", "007"], ["007", "y"]]
    assert dataset.interactions.timestamps.tolist() == [10, 10, 30, 10.5, 20]
    assert named(data.load(tmp_path, min_rating=4)) == [["y", "007"], ["007"]]
    with pytest.raises(InvalidValueError, match="min_rating must leave some events, got 9 which leaves none"):
        data.load(tmp_path, min_rating=9)


def test_parquet_with_other_names_and_integer_ids(tmp_path):
    frame = polars.DataFrame({"customer": [3, 3, 1], "sku": [10, 20, 10], "when": [2, 1, 5]})
    frame.write_parquet(tmp_path / "sales.parquet")
    dataset = data.load(tmp_path, user="customer", item="sku", timestamp="when")
    assert dataset.interactions.user_ids == ["3", "1"]
    assert named(dataset) == [["20", "10"], ["10"]]


def test_zones_and_plain_dates(tmp_path):
    times = "1970-01-01T02:00:00+02:00", "1970-01-02", "1970-01-01T00:00:05Z"
    (tmp_path / "interactions.csv").write_text("user,item,timestamp\n" + "".join(f"u,{t[9]},{t}\n" for t in times))
    assert data.load(tmp_path).interactions.timestamps.tolist() == [0, 5, 86400]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_dates_become_seconds(tmp_path, kind):
    day = [datetime.datetime(1970, 1, 2), datetime.datetime(1970, 1, 1, 0, 0, 1)]
    frame = polars.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "timestamp": day})
    if kind == "csv":
        frame = frame.with_columns(polars.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S"))
        frame.write_csv(tmp_path / "interactions.csv")
    else:
        frame.write_parquet(tmp_path / "interactions.parquet")
    dataset = data.load(tmp_path)
    assert dataset.interactions.timestamps.tolist() == [1, 86400]
    assert named(dataset) == [["b", "a"]]


def test_items_table_gives_all_items_titles_and_order(tmp_path):
    (tmp_path / "interactions.csv").write_text(CSV)
    (tmp_path / "items.csv").write_text('item,name,kind\nz,"Zed, the",k\ny,Why,\nnever,Never,k\n007,Bond,spy\n')
    np.save(tmp_path / "item_embeddings.npy", np.eye(4, dtype=np.float32))
    (tmp_path / "semantic_ids.json").write_text('{"0": [1], "1": [2], "2": [3], "3": [4]}')
    dataset = data.load(tmp_path, title="name")
    assert dataset.interactions.item_ids == ["z", "y", "never", "007"]
    assert dataset.titles == ["Zed, the", "Why", "Never", "Bond"]
    assert dataset.attributes == ["k", "", "k", "spy"]
    assert dataset.item_codes.tolist() == [[1], [2], [3], [4]]
    assert named(dataset) == [["y", "z", "007"], ["007", "y"]]


def test_without_times_the_file_is_the_order(tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item\na,x\nb,z\na,y\n")
    dataset = data.load(tmp_path)
    assert dataset.interactions.timestamps is None
    assert named(dataset) == [["x", "y"], ["z"]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("user,thing\na,x\n", {}, "interactions.csv:1: must have a column item, got user, thing"),
        ("user,item\na,x\n", {"timestamp": "when"}, "interactions.csv:1: must have a column when, got user, item"),
        (
            "user,item,timestamp\na,x,1\na,y,soon\n",
            {},
            "interactions.csv:3: column timestamp must be a finite number, got 'soon'",
        ),
        (
            "user,item,timestamp\na,x,1\na,y,nan\n",
            {},
            "interactions.csv:3: column timestamp must be a finite number, got 'nan'",
        ),
        ("user,item\na,x\n,y\n", {}, "interactions.csv:3: column user must not be empty"),
        ("user,item\n", {}, "interactions.csv: has no lines"),
        ("", {}, "interactions.csv: the file is empty"),
        ("user,item\na,x,9,9\n", {}, "interactions.csv: polars cannot read it: "),
        (
            "user,item,rating\na,x,good\n",
            {"min_rating": 1},
            "interactions.csv:2: column rating must be a finite number, got 'good'",
        ),
    ],
)
def test_malformed_csv(tmp_path, text, options, message):
    (tmp_path / "interactions.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path, **options)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("item,title\ny,a\nz,b\n", "interactions.csv:2: item '007' is not in items.csv"),
        ("item,title\ny,a\ny,b\n", "items.csv:2: item 'y' stands on several lines"),
        ("title\ny\n", "items.csv:1: must have a column item, got title"),
    ],
)
def test_malformed_items(tmp_path, items, message):
    (tmp_path / "interactions.csv").write_text(CSV)
    (tmp_path / "items.csv").write_text(items)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


def test_columns_that_hold_no_names(tmp_path):
    polars.DataFrame({"user": [[1], [2]], "item": ["a", "b"]}).write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match=r"column user must hold texts or numbers, got List"):
        data.load(tmp_path)


def test_rating_asked_for_but_absent(tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item\na,x\n")
    with pytest.raises(InvalidValueError, match=r"min_rating must be None, as .*interactions.csv has no column rating"):
        data.load(tmp_path, min_rating=1)


def test_missing_extra_names_the_command(tmp_path, monkeypatch):
    (tmp_path / "interactions.csv").write_text(CSV)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(
        UnsupportedError, match=r"needs polars, which is not installed; pip install 'genrec-fast\[tables\]'"
    ):
        data.load(tmp_path)
