from __future__ import annotations

import numpy as np
import pytest

from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.data import read_categories, read_item_texts


def write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_each_kind_of_file(tmp_path):
    lines = write(tmp_path, "a.txt", "red pen\nblue pen\n")
    assert read_item_texts(lines).texts == ["red pen", "blue pen"]
    assert read_item_texts(lines).categories is None
    tabs = write(tmp_path, "a.tsv", 'item\ttitle\ttext\n1\t5" disk\tfloppy\n2\tpen\t\n')
    assert read_item_texts(tabs).texts == ['floppy 5" disk', "pen"]
    commas = write(tmp_path, "a.csv", 'name,kind,shelf\n"pen, red",a,x\r\n"two\nlines",b,\nink,a,y\n')
    found = read_item_texts(commas, category_columns=("kind", "shelf"))
    assert found.texts == ["pen, red", "two\nlines", "ink"]
    assert found.categories.tolist() == [[0, 0], [1, -1], [0, 1]]
    objects = write(
        tmp_path, "a.jsonl", '{"title": "pen", "tags": ["red", "thin"], "price": 3}\n\n{"title": "ink", "tags": null}\n'
    )
    assert read_item_texts(objects, text_columns=("title", "tags")).texts == ["pen red thin", "ink"]


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.tsv", "title\nx\n", {"text_columns": ["size"]}, "a.tsv:2: must have a column size, got title"),
        ("a.tsv", "size\n7\n", {}, "a.tsv:2: must have a column text or title or description or name, got size"),
        ("a.tsv", "text\tsize\n7\n", {}, "a.tsv:2: must have 2 cells as the header, got 1"),
        ("a.tsv", "text\ttext\n7\t8\n", {}, "a.tsv:1: columns must have names of their own, got text, text"),
        ("a.tsv", "text\n", {}, "a.tsv: holds no items"),
        ("a.txt", "a\n\nb", {}, "a.txt:2: text must hold a text, got none"),
        ("a.csv", 'text\n"open\n', {}, "not csv: unexpected end of data"),
        ("a.jsonl", "[1]\n", {}, "a.jsonl:1: must be a JSON object, got list"),
        ("a.jsonl", '{"text": \n', {}, "a.jsonl:1: not JSON: Expecting value"),
        ("a.jsonl", '{"text": {}}\n', {}, "a.jsonl:1: text must be a text, a number or a list of texts, got dict"),
    ],
)
def test_malformed_files_are_named(tmp_path, name, text, options, message):
    with pytest.raises(DataError, match=message):
        read_item_texts(write(tmp_path, name, text), **options)


def test_options_that_do_not_fit(tmp_path):
    with pytest.raises(InvalidValueError, match=r"path must end in .txt, .tsv, .csv, .jsonl, got 'a.pdf'"):
        read_item_texts(tmp_path / "a.pdf")
    with pytest.raises(InvalidValueError, match=r"a .txt has no columns, got \['x'\]"):
        read_item_texts(tmp_path / "a.txt", text_columns=["x"])


def test_categories_from_an_array(tmp_path):
    np.save(tmp_path / "c.npy", np.array([3, -1], dtype=np.int16))
    assert read_categories(tmp_path / "c.npy", 2).tolist() == [[3], [-1]]
    with pytest.raises(DataError, match=r"c.npy: must have a row for each of 3 items, got \[2\]"):
        read_categories(tmp_path / "c.npy", 3)
    np.save(tmp_path / "c.npy", np.array([[3.0]]))
    with pytest.raises(DataError, match=r"must be integers \[items\] or \[items, depth\], got float64 \[1, 1\]"):
        read_categories(tmp_path / "c.npy", 1)
    np.save(tmp_path / "c.npy", np.array([[-2]]))
    with pytest.raises(DataError, match=r"must be at least -1 \(unknown\), got -2 to -2"):
        read_categories(tmp_path / "c.npy", 1)
    (tmp_path / "c.npy").write_bytes(b"no")
    with pytest.raises(DataError, match=r"c.npy: not a .npy array"):
        read_categories(tmp_path / "c.npy", 1)
