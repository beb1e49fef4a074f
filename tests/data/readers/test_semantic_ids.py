"""Semantic IDs published beside the data: found in every format, and given to the items that they belong to."""

from __future__ import annotations

import json

import pytest

from genrec_fast import data
from genrec_fast.base.errors import DataError

CSV = "user,item\n" + "".join(f"u,{name}\n" for name in ("b", "a", "c"))


def ids(*codes):
    return [f"<{'abcdef'[level]}_{code}>" for level, code in enumerate(codes)]


def write(folder, name, value):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def by_name(folder):
    dataset = data.load(folder)
    return dict(zip(dataset.interactions.item_ids, dataset.item_codes.tolist(), strict=True))


def test_keys_are_rows_names_or_numbers_of_a_table(tmp_path):
    write(tmp_path, "interactions.csv", CSV)
    write(tmp_path, "x.index.json", {str(row): ids(row, 9) for row in range(3)})
    with pytest.warns(UserWarning, match=r"^data.load: nothing says which items the numbers of .*x.index.json mean; "):
        assert by_name(tmp_path) == {"b": [0, 9], "a": [1, 9], "c": [2, 9]}
    write(tmp_path, "items.csv", "item\na\nb\nc\n")  # a list of them says it, without a warning
    assert by_name(tmp_path) == {"a": [0, 9], "b": [1, 9], "c": [2, 9]}
    (tmp_path / "items.csv").unlink()
    write(tmp_path, "x.index.json", {name: ids(ord(name), 1) for name in "abcd"})
    assert by_name(tmp_path) == {"b": [98, 1], "a": [97, 1], "c": [99, 1]}
    write(tmp_path, "x.item2id", "a\t2\nb\t0\nc\t7\nz\t1\n")
    write(tmp_path, "x.index.json", {str(row): ids(row, 5) for row in range(8)})
    assert by_name(tmp_path) == {"b": [0, 5], "a": [2, 5], "c": [7, 5]}
    write(tmp_path, "x.item.json", {"7": {"title": "Cup", "brand": "Alba"}, "0": {}})
    dataset = data.load(tmp_path)
    assert (dataset.titles, dataset.attributes) == (["", "", "Cup"], ["", "", "Alba"])


def test_numbers_that_are_names_are_names_in_the_files_of_others(tmp_path):
    write(tmp_path, "interactions.csv", "user,item\nu,2\nu,0\nu,1\n")
    codes = {str(item): ids(item + 10) for item in range(3)}
    write(tmp_path, "x.index.json", codes)
    assert by_name(tmp_path) == {"2": [12], "0": [10], "1": [11]}
    (tmp_path / "x.index.json").unlink()
    write(tmp_path, "semantic_ids.json", codes)  # this library's: keys are rows
    assert by_name(tmp_path) == {"2": [10], "0": [11], "1": [12]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("interactions.txt", "1 1 2 3\n"),
        ("x.inter.json", '{"0": [0, 1, 2]}'),
        ("x.inter", "user_id:token\titem_id:token\nu\tp\nu\tq\nu\tr\n"),
    ],
)
@pytest.mark.parametrize("published", ["x.index.json", "semantic_ids.json"])
@pytest.mark.filterwarnings("ignore:data.load. nothing says which items the numbers:UserWarning")
def test_every_format_finds_them(tmp_path, name, text, published):
    write(tmp_path, name, text)
    write(tmp_path, published, {str(row): ids(row, row + 1) for row in range(3)})
    assert list(by_name(tmp_path).values()) == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ({"0": ["<b_1>", "<a_2>"]}, "item '0': the code of level 0 must have the letter a, got '<b_1>'; numbers alone"),
        ({"0": ["<a_1>", "<a_2>"]}, "item '0': the code of level 1 must have the letter b, got '<a_2>'"),
        ({"0": ["<a_1>", "<c_2>"]}, "item '0': the code of level 1 must have the letter b, got '<c_2>'"),
        (
            {str(row): ids(row) for row in range(4)},
            "has 4 items, but the data has 3; its keys must be the items' names",
        ),
        ({"a": ids(1), "b": ids(2)}, "item 'c' has no semantic ID"),
    ],
)
def test_files_that_do_not_fit(tmp_path, codes, message):
    write(tmp_path, "interactions.csv", CSV)
    write(tmp_path, "x.index.json", codes)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


@pytest.mark.filterwarnings("ignore:data.load. nothing says which items the numbers:UserWarning")
def test_letters_may_be_large_and_prefixes_words(tmp_path):
    write(tmp_path, "interactions.csv", CSV)
    write(tmp_path, "x.index.json", {str(row): [f"A_{row}", f"sid_{row}", row] for row in range(3)})
    assert by_name(tmp_path)["c"] == [2, 2, 2]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a\t0\nb\t1\n", "x.item2id: item 'c' of the interactions is not there"),
        ("a\t0\nb\t1\nc\tx\n", "x.item2id:3: an item's number must be an integer from 0, got 'x'"),
        ("a\t0\nb\t1\nb\t2\n", "x.item2id:3: item 'b' stands there twice"),
        ("a 0 1\n", "x.item2id:1: must be a name, a tab and a number, got 'a 0 1'"),
        ("a\t0\nb\t1\nc\t9\n", r"x.index.json: item 'c' \(number 9\) has no semantic ID"),
    ],
)
def test_numbers_that_do_not_fit(tmp_path, table, message):
    write(tmp_path, "interactions.csv", CSV)
    write(tmp_path, "x.index.json", {str(row): ids(row) for row in range(3)})
    write(tmp_path, "x.item2id", table)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)
