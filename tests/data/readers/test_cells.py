"""The quick way through a table of cells gives what the careful one gives, and neither loses a line."""

from __future__ import annotations

import gzip
import random

import pytest

from genrec_fast import data
from genrec_fast.base.errors import DataError, InvalidTypeError, InvalidValueError
from genrec_fast.data.readers import blocks as blocks_module
from genrec_fast.data.readers import cells
from genrec_fast.data.readers.blocks import blocks


def rows_of(table, names=("user", "item", "timestamp")):
    return [
        row
        for part in table.parts(names)
        for row in zip(
            part.lines.tolist(), *(part.columns[name].fill_null("").to_list() for name in names), strict=True
        )
    ]


PIECES = ["a", "b c", "007", "é", '"x, y"', '"say ""so"""', '""', "1", " "]


@pytest.mark.parametrize("seed", range(40))
def test_the_quick_way_is_the_careful_one(tmp_path, monkeypatch, seed):
    draw = random.Random(seed)
    lines = ["user,item,timestamp"]
    for place in range(60):
        kind = draw.random()
        cells_of = [draw.choice(PIECES), draw.choice(PIECES), str(place)]
        lines.append("" if kind < 0.1 else "  " if kind < 0.15 else ",," if kind < 0.2 else ",".join(cells_of))
    end = draw.choice(["\n", "\r\n"])
    path = tmp_path / "x.csv"
    path.write_bytes((end.join(lines) + draw.choice(["", end])).encode())
    monkeypatch.setattr(cells, "blocks", lambda path, encoding: blocks(path, encoding, draw.choice([64, 300, 1 << 20])))
    quick = rows_of(cells.open_cells(path))
    monkeypatch.setattr(cells, "_plain", lambda *arguments: None)
    careful = rows_of(cells.open_cells(path))
    assert quick == careful
    assert len(quick) == sum(bool(line.strip(", ")) for line in lines) - 1


def test_a_cell_over_several_lines_may_cross_a_block(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text("user,item,timestamp\n" + 'a,"one\ntwo\nthree",1\nb,c,2\n' * 20)
    monkeypatch.setattr(cells, "blocks", lambda path, encoding: blocks(path, encoding, 37))
    found = rows_of(cells.open_cells(path))
    assert [row[2] for row in found] == ["one\ntwo\nthree", "c"] * 20
    assert [row[0] for row in found[:4]] == [2, 5, 6, 9]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("encoding", [None, "latin-1", "utf-16"])
def test_blocks_hold_every_line_and_its_number(tmp_path, size, encoding):
    lines = ["é", "", "abc" * 5, "d", "é"]
    path = tmp_path / "x"
    path.write_bytes("\n".join(lines).encode(encoding or "utf-8"))
    found = list(blocks(path, encoding, size))
    assert b"".join(block.text for block in found).decode() == "\n".join(lines) + "\n"
    line = 1
    for block in found:
        assert block.line == line
        line += block.text.count(b"\n")


def test_what_no_block_can_be_made_of_is_named(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"user,item\na,b\nc,\xe9\n")
    with pytest.raises(
        DataError, match=r"x.csv:3: not UTF-8: byte 0xe9; encoding \(--encoding latin-1\) names another"
    ):
        data.load(path)
    assert data.load(path, encoding="latin-1").interactions.item_ids == ["b", "é"]
    with pytest.raises(
        InvalidValueError, match=r"encoding \(--encoding\) must be one that Python knows.* got 'klingon'"
    ):
        data.load(path, encoding="klingon")
    packed = tmp_path / "y.csv.gz"
    packed.write_bytes(gzip.compress(b"user,item\n" + b"a,b\n" * 5000)[:60])
    with pytest.raises(DataError, match=r"y.csv.gz: cannot be read: "):
        data.load(packed)
    packed.write_bytes(gzip.compress(b"user,item\na,b\na,c\n"))
    assert data.load(packed).interactions.num_events == 2
    assert blocks_module.usual_encoding(packed) == "utf-8-sig"


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("x.csv", "user;item;timestamp\na;b,c;1\n", {}),
        ("x.tsv", "user\titem\ttimestamp\na\tb,c\t1\n", {}),
        ("x.dat", "a::b,c::1\n", {"columns": ("user", "item", "timestamp")}),
        ("x.txt", "a|b,c|1\n", {"columns": ("user", "item", "timestamp"), "separator": "|"}),
        ("x.data", "a b,c 1\n", {"columns": ("user", "item", "timestamp"), "separator": " "}),
        ("x.csv", "a<>b,c<>1\n", {"columns": ("user", "item", "timestamp"), "separator": "<>"}),
        ("x.csv", 'user,item,timestamp\r\na,"b,c",1\r\n', {"encoding": "utf-16"}),
    ],
)
def test_separators(tmp_path, name, text, options):
    path = tmp_path / name
    path.write_bytes(text.encode(options.get("encoding", "utf-8")))
    for given in (options, {key: value for key, value in options.items() if key != "encoding"}):
        found = data.load(path, **given).interactions
        assert (found.user_ids, found.item_ids, found.timestamps.tolist()) == (["a"], ["b,c"], [1])


def test_texts_without_a_header(tmp_path):
    path = tmp_path / "ml-1m.txt"
    path.write_text("1 10\n1 11\n2 10\n")
    for source in (path, tmp_path):
        assert data.load(source, columns=("user", "item")).interactions.items.lengths.tolist() == [2, 1]
    with pytest.raises(DataError, match=r"each line is an event, columns \(--columns user item ...\) names what"):
        data.load(path)
    path = tmp_path / "x.csv"
    path.write_text("1,10,5\n1,11,4\n")
    with pytest.raises(
        DataError, match=r"if the first line is an event, columns \(--columns user item ...\) names them"
    ):
        data.load(path)
    with pytest.raises(DataError, match=r"x.csv:1: must have a cell for each of user, item, rating, timestamp, got 3"):
        data.load(path, columns=("user", "item", "rating", "timestamp"))
    with pytest.raises(InvalidTypeError, match="columns must be a list of names, got 'user'"):
        data.load(path, columns="user")
    with pytest.raises(InvalidValueError, match="columns must be different names"):
        data.load(path, columns=("user", "user"))


def test_options_that_there_are_not(tmp_path):
    with pytest.raises(InvalidTypeError, match=r"options must be of actions, .*, user, got min_ratings"):
        data.load(tmp_path, min_ratings=3)
    (tmp_path / "x.jsonl").write_text('{"user": 1, "item": 2}\n')
    with pytest.raises(InvalidValueError, match=r"separator must be None for .*x.jsonl, which says it itself, got ','"):
        data.load(tmp_path / "x.jsonl", separator=",")
