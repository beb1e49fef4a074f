from __future__ import annotations

import csv
import datetime
import io
import re

import numpy as np
import polars
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_fast import data
from genrec_fast.base.errors import DataError, InvalidValueError

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


def write_both(folder, columns):
    """The same table as CSV and as Parquet; ``None`` is an empty cell."""
    (folder / "interactions.csv").write_text("user,item\na,p\na,q\nb,r\n")
    frame = polars.DataFrame(columns, strict=False)
    for kind in ("csv", "parquet"):
        (folder / f"items.{kind}").unlink(missing_ok=True)
        getattr(frame, f"write_{kind}")(folder / f"items.{kind}")
        yield data.load(folder)
        (folder / f"items.{kind}").unlink()


@pytest.mark.parametrize(
    "titles", [[None, "Pot", ""], [None, None, None], ["", "", ""], [None, 1984, 7], [float("nan"), None, 1.5]]
)
def test_an_item_without_a_title_has_an_empty_one(tmp_path, titles):
    missing = [title is None or title != title for title in titles]
    expected = ["" if gone else str(title) for gone, title in zip(missing, titles, strict=True)]
    cells = [None if gone else title for gone, title in zip(missing, titles, strict=True)]
    for dataset in write_both(tmp_path, {"item": ["p", "q", "r"], "title": cells, "brand": ["Alba", None, "Birk"]}):
        assert dataset.titles == expected
        assert dataset.attributes == ["Alba", "", "Birk"]
        assert dataset.num_items == 3
    polars.DataFrame({"item": ["p", "q", "r"], "title": titles}, strict=False).write_parquet(tmp_path / "items.parquet")
    assert data.load(tmp_path).titles == expected


def test_without_a_column_of_titles_there_are_none(tmp_path):
    for dataset in write_both(tmp_path, {"item": ["p", "q", "r"], "brand": ["Alba", None, "Birk"]}):
        assert dataset.titles is None
    with pytest.raises(
        InvalidValueError, match=r"title \(--title\) must be None or a column of .*interactions.csv, as .* has no file"
    ):
        data.load(tmp_path, title="brand")
    (tmp_path / "items.csv").write_text("item\np\nq\nr\n")
    with pytest.raises(DataError, match=r"items.csv:1: must have a column name, got item; title \(--title\) names"):
        data.load(tmp_path, title="name")


NAMES = [
    "007", "0000000012", "1e3", "1_000", "1.0", "+5", "-1", "NaN", "NA", "null", "None", "inf", "true", "2021-01-01",
    "tea, green", 'a "b" c', '"', '""', "3\" nails", " x ", "Zoë", "日本", "a\nb", "a\r\nb", "a\n\nb, c", "\t",
    "#", "\\N",
]  # fmt: skip


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_names_are_texts_whatever_they_look_like(tmp_path, quoting, end):
    rows = [(name, NAMES[-1 - place], str(place)) for place, name in enumerate(NAMES)]
    text = io.StringIO(newline="")
    csv.writer(text, quoting=quoting, lineterminator=end).writerows([("user", "item", "timestamp"), *rows])
    (tmp_path / "interactions.csv").write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    found = data.load(tmp_path).interactions
    assert found.user_ids == NAMES
    assert [found.item_ids[row[0]] for row in found.items.rows()] == NAMES[::-1]
    frame = polars.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    frame.with_columns(polars.col("timestamp").cast(polars.Int64)).write_parquet(tmp_path / "interactions.parquet")
    (tmp_path / "interactions.csv").unlink()
    found = data.load(tmp_path).interactions
    assert found.user_ids == NAMES
    assert [found.item_ids[row[0]] for row in found.items.rows()] == NAMES[::-1]


def test_blank_lines_are_left_out_and_lines_are_still_those_of_the_file(tmp_path):
    (tmp_path / "interactions.csv").write_text("\nuser,item,timestamp\n\na,x,2\n   \n,,\nb,y,1\r\n\r\na,z,1\n\n\n")
    assert named(data.load(tmp_path)) == [["z", "x"], ["y"]]
    (tmp_path / "interactions.csv").write_text('user,item,timestamp\n\na,"x\n\ny",2\n,,\n\na,x,soon\n')
    with pytest.raises(DataError, match=r"interactions.csv:8: column timestamp must be a finite number, got 'soon'"):
        data.load(tmp_path)
    (tmp_path / "interactions.csv").write_text("user,item,timestamp\n\na,x,1\n\nb,y,2\n")
    (tmp_path / "items.csv").write_text("item,title\n\nx,Ex\n,\n\nx,Ax\n")
    with pytest.raises(DataError, match=r"items.csv:3: item 'x' stands on several lines"):
        data.load(tmp_path)
    (tmp_path / "items.csv").write_text("item,title\n\nx,Ex\n")
    with pytest.raises(DataError, match=r"interactions.csv:5: item 'y' is not in items.csv"):
        data.load(tmp_path)


def test_an_index_without_a_name_is_no_attribute(tmp_path):
    (tmp_path / "interactions.csv").write_text(",user,item,\n0,a,x,\n1,a,y,\n")
    (tmp_path / "items.csv").write_text(",item,brand\n0,y,Alba\n1,x,Birk\n")
    dataset = data.load(tmp_path)
    assert named(dataset) == [["x", "y"]]
    assert dataset.attributes == ["Alba", "Birk"]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (['a,3" nails,1', "b,x,2"], 2),
        (["b,x,2", 'a,nails 3",1'], 3),
        (["b,x,2", "a,y,1", 'c,"x" y,1'], 4),
        (["b,x,2", 'a,"y,1', "c,z,1"], 3),
        (["b,x,2", 'a,"y,1', 'c,z",1'], 3),
        (["b,x,2", 'a,"y,1', "d,v,3", 'c,z",1', "e,w,2"], 3),
        (['b, "x, y",2'], 2),
        (['"b,x,2'], 2),
    ],
)
def test_a_stray_quote_is_named_by_its_line(tmp_path, rows, line):
    (tmp_path / "interactions.csv").write_text("user,item,timestamp\n" + "".join(f"{row}\n" for row in rows))
    with pytest.raises(DataError, match=rf"interactions.csv:{line}: .*a cell with a quote in it must be in quotes"):
        data.load(tmp_path)


CELL = st.text(st.sampled_from('ab1 ,"\n\r\t;é'), min_size=1, max_size=4)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELL, CELL, st.integers(0, 9)), min_size=1, max_size=5), st.data())
def test_no_event_vanishes_when_quotes_are_lost(tmp_path, rows, draw):
    """What csv.writer wrote is read as it was, and without some of its quotes as somebody would, or refused."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("user", "item", "timestamp"), *rows])
    path = tmp_path / "interactions.csv"
    path.write_bytes(text.getvalue().encode())
    whole = sorted((user, item) for user, item, _ in rows)

    def events(found):
        pairs = zip(found.items.row_index().tolist(), found.items.values.tolist(), strict=True)
        return sorted((found.user_ids[user], found.item_ids[item]) for user, item in pairs)

    try:
        assert events(data.load(tmp_path).interactions) == whole
    except DataError as error:
        assert "each line up to it is a row" in str(error)  # noqa: PT017 (either is right)
    places = [at for at, letter in enumerate(text.getvalue()) if letter == '"']
    if places:
        at = draw.draw(st.sampled_from(places))
        path.write_bytes((text.getvalue()[:at] + text.getvalue()[at + 1 :]).encode())
        try:
            found = data.load(tmp_path).interactions
        except DataError as error:
            assert re.search(r"interactions.csv:\d+: ", str(error))  # noqa: PT017 (either is right)
        else:
            assert found.num_events == len(rows)


def test_without_times_the_file_is_the_order(tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item\na,x\nb,z\na,y\n")
    dataset = data.load(tmp_path)
    assert dataset.interactions.timestamps is None
    assert named(dataset) == [["x", "y"], ["z"]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "user,thing\na,x\n",
            {},
            r"interactions.csv:1: must have a column item, got user, thing; item \(--item\) names",
        ),
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
        ("user,item\na,x,9,9\n", {}, "interactions.csv:2: must have 2 cells as the header, got 4"),
        ("user,item,timestamp\na,x\n", {}, "interactions.csv:2: must have 3 cells as the header, got 2"),
        ("user,item,user\na,x,b\n", {}, "interactions.csv:1: columns must have names of their own, got user, item, "),
        ("user,item\na,x\n\na,\n", {}, "interactions.csv:4: column item must not be empty"),
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


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user", [None, "a"], r"interactions.parquet: column user must not be empty \(row 0\)"),
        ("user", [1.0, float("nan")], r"interactions.parquet: column user must not be empty \(row 1\)"),
        ("timestamp", [1, None], r"column timestamp must be a finite number, got None \(row 1\)"),
        (
            "timestamp",
            [datetime.date(2020, 1, 1), None],
            r"column timestamp must be a finite number, got None \(row 1\)",
        ),
        (
            "timestamp",
            [datetime.time(5), datetime.time(6)],
            "column timestamp must hold numbers, dates or moments, got",
        ),
        (
            "timestamp",
            [datetime.timedelta(5)] * 2,
            "column timestamp must hold numbers, dates or moments, got Duration",
        ),
    ],
)
def test_malformed_parquet(tmp_path, column, values, message):
    columns = {"user": ["u", "v"], "item": ["a", "b"]} | {column: values}
    polars.DataFrame(columns).write_parquet(tmp_path / "interactions.parquet")
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
