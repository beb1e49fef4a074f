from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_fast import data
from genrec_fast.base.errors import DataError, InvalidTypeError, InvalidValueError


def test_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError) as caught:
        data.load(tmp_path)
    message = str(caught.value)
    for part in ("interactions.txt", "*.inter.json", "*.inter (", "interactions.csv", "It holds nothing"):
        assert part in message


def test_folder_with_something_else_lists_it(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"It holds photo.jpg"):
        data.load(tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"data.load: folder must be an existing folder or file, got .*nowhere"):
        data.load(tmp_path / "nowhere")


def test_format_is_detected_and_can_be_forced(tmp_path):
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\nu\ta\n")
    (tmp_path / "interactions.txt").write_text("1 5 6\n")
    (tmp_path / "x.inter.json").write_text('{"0": [0, 1, 2]}')
    (tmp_path / "interactions.csv").write_text("user,item\nu,a\nu,b\nu,c\nu,d\n")
    assert data.load(tmp_path).num_items == 1
    assert data.load(tmp_path, format="recbole").num_items == 1
    assert data.load(tmp_path, format="s3rec").num_items == 2
    assert data.load(tmp_path, format="lcrec").num_items == 3
    assert data.load(tmp_path, format="table").num_items == 4


def test_forced_format_that_is_not_there(tmp_path):
    (tmp_path / "interactions.txt").write_text("1 5 6\n")
    with pytest.raises(DataError, match=r"must hold one of: recbole: \*\.inter .*It holds interactions.txt"):
        data.load(tmp_path, format="recbole")
    with pytest.raises(InvalidValueError, match="format must be one of recbole, lcrec, table, s3rec, got 'csv'"):
        data.load(tmp_path, format="csv")


def test_options_of_another_format_are_refused(tmp_path):
    (tmp_path / "interactions.txt").write_text("1 5 6\n")
    with pytest.raises(InvalidValueError, match=r"data.load: min_rating must be None for the format s3rec"):
        data.load(tmp_path, min_rating=3)
    with pytest.raises(InvalidValueError, match=r"data.load: user must be None for the format s3rec"):
        data.load(tmp_path, user="customer")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"user": ""}, InvalidValueError, "user must be the name of a column, got ''"),
        ({"title": 3}, InvalidTypeError, "title must be the name of a column, got 3"),
        ({"user": "item_id"}, InvalidValueError, "must be different columns, got item_id, item_id, timestamp, rating"),
        ({"item": "u", "rating": "u"}, InvalidValueError, "must be different columns, got user_id, u, timestamp, u"),
        (
            {"title": "name"},
            InvalidValueError,
            r"title \(--title\) must be None or a column of .*x.inter, as .* has no file of items",
        ),
    ],
)
def test_names_that_are_no_columns(tmp_path, options, error, message):
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\nu\ta\n")
    with pytest.raises(error, match=f"^data.load: .*{message}"):
        data.load(tmp_path, **options)


def test_several_candidates_are_named(tmp_path):
    for name in ("a.inter", "b.inter"):
        (tmp_path / name).write_text("user_id:token\titem_id:token\nu\ta\n")
    with pytest.raises(DataError, match=r"\*\.inter must fit one file, got a.inter, b.inter"):
        data.load(tmp_path)


# What files of each format are made of: junk that looks almost right finds more than random bytes do.
PIECES = {
    "interactions.txt": ["1", "2", "3", "0", "-1", " ", "\n", "\t", "x", "1.5", "9" * 30, "é", "²", "٣", "\r\n"],
    "items.tsv": ["item_id", "slug", "\t", "\n", "1", "2", "3", "word", "é", '"', "\r\n", "99999999"],
    "a.inter": ["user_id:token", "item_id:token", "timestamp:float", "rating:float", "\t", "\n", "u", "1", "nan"],
    "a.item": ["item_id:token", "\t", "title:token_seq", "\n", "a", "b", "u", ":token", ""],
    "a.inter.json": [*"{}[],:012\n", '"0"', '"1"', "-1", "1.5", "null", "true", "NaN", "9" * 20, '"é"', "1e5"],
    "a.index.json": [*"{}[],:", '"0"', '"1"', '"<a_1>"', '"<b_2>"', '"<a_"', "3", "-3", "null"],
    "a.item.json": [*"{}[],:", '"0"', '"title"', '"x"', "null", "1"],
    "semantic_ids.json": [*"{}[],:", '"0"', '"1"', '"<a_1>"', "5", "99999999999"],
    "interactions.csv": ["user", "item", "timestamp", "rating", ",", "\n", "u", "1", '"', "é", "2020-01-01", "nan"],
    "items.csv": ["item", "title", ",", "\n", "a", "u", "1", '"', "é"],
}  # fmt: skip
GOOD = {
    "interactions.txt": "1 1 2 3\n2 2 1\n",
    "a.inter": "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\nu\tb\t2\n",
    "a.inter.json": '{"0": [0, 1], "1": [1, 0]}',
    "interactions.csv": "user,item,timestamp\nu,a,1\nu,b,2\n",
}
BESIDE = {
    "interactions.txt": ["items.tsv", "semantic_ids.json"],
    "a.inter": ["a.item", "semantic_ids.json"],
    "a.inter.json": ["a.index.json", "a.item.json"],
    "interactions.csv": ["items.csv", "semantic_ids.json"],
}


def junk(name):
    pieces = st.lists(st.sampled_from(PIECES[name]), max_size=30).map(lambda parts: "".join(parts).encode())
    return st.one_of(pieces, st.binary(max_size=60))


def read(folder, main):
    try:
        dataset = data.load(folder)
    except DataError:
        return
    assert dataset.num_users == len(dataset.interactions.user_ids)
    assert dataset.num_items < 1_000  # a wild number in a file must not become a wild amount of memory


fuzz = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("main", list(GOOD))
@fuzz
@given(draw=st.data())
def test_junk_is_a_data_error_or_reads(tmp_path, main, draw):
    (tmp_path / main).write_bytes(draw.draw(junk(main)))
    read(tmp_path, main)


@pytest.mark.parametrize("main", list(GOOD))
@fuzz
@given(draw=st.data())
def test_junk_beside_good_interactions_is_a_data_error_or_reads(tmp_path, main, draw):
    (tmp_path / main).write_text(GOOD[main])
    beside = draw.draw(st.sampled_from(BESIDE[main]))
    for name in BESIDE[main]:
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / beside).write_bytes(draw.draw(junk(beside)))
    read(tmp_path, main)


@pytest.mark.parametrize("main", list(GOOD))
@fuzz
@given(draw=st.data())
def test_good_files_with_one_wound_are_a_data_error_or_read(tmp_path, main, draw):
    whole = GOOD[main].encode()
    at, end = sorted((draw.draw(st.integers(0, len(whole))), draw.draw(st.integers(0, len(whole)))))
    (tmp_path / main).write_bytes(whole[:at] + draw.draw(st.binary(max_size=3)) + whole[end:])
    read(tmp_path, main)


@fuzz
@given(at=st.integers(0, 143), gone=st.integers(0, 144), instead=st.binary(max_size=2))
def test_wounded_vectors_are_a_data_error_or_read(tmp_path, at, gone, instead):
    (tmp_path / "interactions.txt").write_text("1 1 2\n")
    np.save(tmp_path / "item_embeddings.npy", np.eye(2, dtype=np.float32))
    whole = (tmp_path / "item_embeddings.npy").read_bytes()
    assert len(whole) == 144
    (tmp_path / "item_embeddings.npy").write_bytes(whole[:at] + instead + whole[at + gone :])
    read(tmp_path, "interactions.txt")


def test_parquet_cut_short_anywhere_is_a_data_error(tmp_path):
    polars = pytest.importorskip("polars")
    path = tmp_path / "interactions.parquet"
    polars.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "timestamp": [1, 2]}).write_parquet(path)
    whole = path.read_bytes()
    assert data.load(tmp_path).num_items == 2
    for end in range(0, len(whole), 37):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"interactions.parquet: polars cannot read it: "):
            data.load(tmp_path)


def test_deeply_nested_and_endless_json(tmp_path):
    for text, reason in [("[" * 100_000, "nested too deeply"), ('{"0": [' + "9" * 5_000 + "]}", "not usable JSON")]:
        (tmp_path / "a.inter.json").write_text(text)
        with pytest.raises(DataError, match=reason):
            data.load(tmp_path)


def test_published_ids_may_be_plain_integers(tmp_path):
    (tmp_path / "interactions.txt").write_text("1 1 2\n")
    (tmp_path / "semantic_ids.json").write_text(json.dumps({"0": [5, 6], "1": ["<a_7>", "8"]}))
    assert data.load(tmp_path).item_codes.tolist() == [[5, 6], [7, 8]]
