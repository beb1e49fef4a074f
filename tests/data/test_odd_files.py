"""Files that are not what their name says, half there, or made by something else: each ends in an error that helps."""

from __future__ import annotations

import gzip
import json
import os

import numpy as np
import polars as pl
import pytest

from genrec_fast import data
from genrec_fast.base.errors import DataError, InvalidTypeError, InvalidValueError

GOOD = "user,item,timestamp,rating\n" + "".join(f"u{t % 4},i{t % 7},{1500000000 + t},{1 + t % 5}\n" for t in range(28))
PACKED = gzip.compress(GOOD.encode())


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", "", r"a.csv: the file is empty"),
        ("a.csv", "\n \n", r"a.csv: the file is empty"),
        ("a.csv", "user,item,timestamp\n", "a.csv: has no lines"),
        ("a.csv", "item\n1\n", r"a.csv:1: must have a column user, got item; user \(--user\) names another"),
        ("a.csv", "user,item\na;b\n", "a.csv:2: must have 2 cells as the header, got 1"),
        ("a.csv", "user,item,item\na,b,c\n", "a.csv:1: columns must have names of their own"),
        ("a.csv", "user,item\n,b\n", "a.csv:2: column user must not be empty"),
        ("a.csv", "user,item\na,\0\n", r"a.csv:2: a zero byte, .*--encoding utf-16-le"),
        ("a.csv", GOOD.encode("utf-16-le"), r"a.csv:1: a zero byte, .*--encoding utf-16-le"),
        ("a.csv", "user,item\né,b\n".encode("latin-1"), r"a.csv:2: not UTF-8: byte 0xe9; .*--encoding latin-1"),
        ("a.csv", GOOD.replace("\n", "\r"), "a.csv:1: not csv: a carriage return within a line"),
        ("a.csv", "user,item,timestamp\na,b,nan\n", "a.csv:2: column timestamp must be a finite number, got 'nan'"),
        (
            "a.csv",
            "user,item,timestamp\na,b,1\na,c,1e300\n",
            r"a.csv:3: times must be below 2\^62 seconds, got 1e",
        ),
        ("a.csv", "user,item,timestamp\na,b,2020-13-45\n", "a.csv:2: column timestamp must be a number or an ISO time"),
        ("a.csv.gz", PACKED[:40], r"a.csv.gz: cannot be read: Compressed file ended"),
        ("a.csv.gz", PACKED[:-6] + b"abcdef", r"a.csv.gz: cannot be read: CRC check failed"),
        ("a.csv.gz", gzip.compress(PACKED), "a.csv.gz: must be a table as text, but is packed by gzip twice"),
        ("a.csv", b"PK\x03\x04" + bytes(20), "a.csv: must be a table as text, but is a zip archive or a spreadsheet"),
        ("a.pdf", b"%PDF-1.7 \xff", "a.pdf: must be a table as text, but is a PDF"),
        ("a.db", b"SQLite format 3\0", "a.db: must be a table as text, but is a database of SQLite"),
        ("a.csv", b"PAR1" + bytes(20), r"a.csv: .* is a Parquet file, whose name must end in .parquet"),
        ("a.jsonl", '[{"user": 1, "item": 2}]', "a.jsonl:1: must be an object, one a line, got list"),
        (
            "a.json",
            json.dumps({"user": 1, "item": 2}, indent=1),
            "a.json:1: not JSON: .*stand on a line of its own",
        ),
        ("a.json", json.dumps([{"user": 1}], indent=1), "a.json:1: not JSON: .*stand on a line of its own"),
        (
            "a.jsonl",
            '{"user": {"id": 1}, "item": 2}\n',
            "a.jsonl:1: column user must hold texts or numbers",
        ),
        ("a.jsonl", '{"user": 1, "item": 2}\n{"user": 1, "item": [2]}\n', "a.jsonl:2: column item must hold texts or"),
        ("a.jsonl", '{"user": "\\ud800", "item": 2}\n', "a.jsonl:1: column user holds a letter that is no text"),
        ("a.jsonl", '{"user": 1, "item": 2}\n{"user"\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", "{}\n", "a.jsonl: the file is empty"),
        ("a.parquet", b"PAR1" + bytes(90) + b"PAR1", "a.parquet: polars cannot read it"),
        ("a.inter", "user_id\titem_id\n1\t2\n", "a.inter:1: a column of the header must be name:type"),
        ("a.inter.json", '{"0": []}', "a.inter.json: must hold some items, but the lists of all 1 users are empty"),
        ("a.inter.json", '{"\\ud800": [1]}', "a.inter.json: holds a letter that is no text"),
        ("a.txt", "1 2\n".encode("utf-16"), "a.txt:1: not UTF-8: byte 0xff at position 0; save it as UTF-8"),
        ("a.txt", "1 -2\n", "a.txt:1: an item must be an integer from 1, got '-2'"),
    ],
)
def test_a_file_of_events(name, content, text, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=text):
        data.load(tmp_path / name)


@pytest.mark.parametrize("path", ["", " ", "\0", "none", "a" * 5000])
def test_no_such_path(path):
    with pytest.raises(DataError, match=r"data.load: folder must be an existing folder or file, got"):
        data.load(path)


def test_devices_and_pipes_are_no_files(tmp_path):
    with pytest.raises(DataError, match="must be a folder or a file on disk, got '/dev/null', which is a device"):
        data.load("/dev/null")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="which is a pipe; write what it gives to a file first"):
        data.load(tmp_path / "pipe.csv")


def save(array):
    return lambda path: np.save(path, array)


@pytest.mark.parametrize(
    ("name", "write", "text"),
    [
        ("item_embeddings.npy", save(np.ones((3, 4), np.float32)), "has 3 items, but interactions.csv has 2"),
        ("item_embeddings.npy", save(np.full((2, 4), np.nan, np.float32)), "row 0 holds a value that is not finite"),
        ("item_embeddings.npy", save(np.ones((2, 0), np.float32)), r"must be float16, .* got float32 \[2, 0\]"),
        ("item_embeddings.npy", save(np.ones((2, 2), int)), r"must be float16, .* got int64 \[2, 2\]"),
        ("item_embeddings.npy", save(np.array([["a", None]], object)), "not a .npy array: it holds Python objects"),
        (
            "item_embeddings.npy",
            lambda path: path.write_text("1 2"),
            "not a .npy array: it holds Python objects, or is",
        ),
        ("item_embeddings.npy", lambda path: path.write_text(""), "not a .npy array: No data left"),
        ("a.index.json", lambda path: path.write_text("[]"), "must be a JSON object, got list"),
        ("a.index.json", lambda path: path.write_text('{"0": ["<a_1>"]}'), "has 1 items, but the data has 2"),
        ("a.index.json", lambda path: path.write_text('{"0": [1], "1": [1, 2]}'), "item '1' has 2 codes"),
        ("a.index.json", lambda path: path.write_text('{"0": [[1]], "1": [[2]]}'), "a code must look like"),
        ("items.csv", lambda path: path.write_text("item,title\nx,A\nx,B\n"), "item 'x' stands on several lines"),
        (
            "items.csv",
            lambda path: path.write_text("item,title\nx,A\n"),
            "csv:3: item 'y' is not in items",
        ),
        ("items.csv", lambda path: path.write_text(""), "items.csv: the file is empty"),
    ],
)
def test_what_stands_beside_the_events(name, write, text, tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item\nu,x\nu,y\n")
    write(tmp_path / name)
    with pytest.raises(DataError, match=text) as error:
        data.load(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        ({"user": ["a", None], "item": ["b", "c"]}, r"column user must not be empty \(row 1\)"),
        ({"user": [["a"]], "item": ["b"]}, "column user must hold texts or numbers, got List"),
        ({"user": [b"a"], "item": ["b"]}, "column user must hold texts or numbers, got Binary"),
        ({"user": ["a"], "item": ["b"], "timestamp": [None]}, "column timestamp must be a finite number, got None"),
        ({"x": ["a"]}, "must have a column user, got x"),
    ],
)
def test_parquet_of_other_kinds(frame, text, tmp_path):
    pl.DataFrame(frame).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=text):
        data.load(tmp_path / "a.parquet")
    raw = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match="polars cannot read it"):
        data.load(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"min_rating": "4"}, InvalidTypeError, "min_rating must be a number, got '4'"),
        ({"min_rating": True}, InvalidTypeError, "min_rating must be a number, got True"),
        ({"min_rating": float("nan")}, InvalidValueError, "min_rating must be a finite number, got nan"),
        ({"time_unit": []}, InvalidValueError, r"time_unit must be one of s, ms, us, ns, got \[\]"),
        ({"separator": "\n"}, InvalidValueError, "separator must hold no letters, digits, quotes and line ends"),
        ({"separator": "u"}, InvalidValueError, "separator must hold no letters, digits, quotes and line ends"),
        ({"separator": '"'}, InvalidValueError, "separator must hold no letters, digits, quotes and line ends"),
        ({"encoding": "rot13"}, InvalidValueError, r"encoding \(--encoding\) must be one that Python knows"),
        ({"encoding": "hex"}, InvalidValueError, r"encoding \(--encoding\) must be one that Python knows"),
        ({"encoding": "punycode"}, InvalidValueError, r"encoding \(--encoding\) must be one of whole files"),
        ({"encoding": "utf-16"}, DataError, r"a.csv: not utf-16: .*encoding \(--encoding\) names another"),
        ({"actions": 3}, InvalidTypeError, "actions must be a list of rules such as 'rating>=4', got 3"),
        ({"columns": 3}, InvalidTypeError, "columns must be a list of names, got 3"),
    ],
)
def test_options_of_other_kinds(options, error, text, tmp_path):
    (tmp_path / "a.csv").write_text(GOOD)
    with pytest.raises(error, match=text):
        data.load(tmp_path / "a.csv", **options)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
def test_an_encoding_that_is_named_is_read(encoding, tmp_path):
    (tmp_path / "a.csv").write_bytes(GOOD.encode(encoding))
    assert data.load(tmp_path / "a.csv", encoding=encoding).num_items == 7
