from __future__ import annotations

import json

import numpy as np
import pytest

from genrec_fast import data
from genrec_fast.base.errors import DataError

TSV = "item_id\tslug\tattributes\n2\tgreen tea\tTea\n1\tteapot\tTea | Pots\n3\tnobody's\tx\n"


def write(folder, **files):
    names = {"txt": "interactions.txt", "tsv": "items.tsv", "ids": "semantic_ids.json"}
    for name, content in files.items():
        (folder / names[name]).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_everything_at_once(tmp_path):
    write(tmp_path, txt="7 2 1\n3 1\n", tsv=TSV, ids=json.dumps({"0": ["<a_1>"], "1": ["<a_255>"], "2": ["<a_0>"]}))
    np.save(tmp_path / "item_embeddings.f16.npy", np.arange(6, dtype=np.float16).reshape(3, 2))
    dataset = data.load(tmp_path)
    assert dataset.name == tmp_path.name
    assert [row.tolist() for row in dataset.interactions.items.rows()] == [[1, 0], [0]]
    assert dataset.interactions.user_ids == ["7", "3"]
    assert dataset.interactions.item_ids == ["1", "2", "3"]  # the third was never bought
    assert dataset.interactions.timestamps is None
    assert dataset.titles == ["teapot", "green tea", "nobody's"]
    assert dataset.attributes == ["Tea | Pots", "Tea", "x"]
    assert dataset.features.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert dataset.item_codes.tolist() == [[1], [255], [0]]


def test_blank_lines_and_items_without_a_text(tmp_path):
    write(tmp_path, txt="\n7 2 1\n \n3 1\n\n", tsv="item_id\tslug\n\n2\tgreen tea\n1\t\n\n")
    dataset = data.load(tmp_path)
    assert dataset.titles == ["", "green tea"]
    assert dataset.interactions.items.values.tolist() == [1, 0, 0]
    write(tmp_path, tsv="item_id\tslug\n\n2\tgreen tea\n\n1\n")
    with pytest.raises(DataError, match=r"items.tsv:5: must have 2 tab-separated fields, got 1"):
        data.load(tmp_path)


def test_alone_it_has_the_items_that_were_touched(tmp_path):
    (tmp_path / "Beauty.txt").write_text("1 900000000000 5\n\n2 5\r\n")
    dataset = data.load(tmp_path)
    assert dataset.interactions.item_ids == ["5", "900000000000"]
    assert dataset.interactions.items.values.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n2 4 x\n", r"interactions.txt:2: an item must be an integer from 1, got 'x'"),
        ("1 2 3\n2 4 0\n", r"interactions.txt:2: an item must be an integer from 1, got '0'"),
        ("1 2 3\n2 -4\n", r"interactions.txt:2: an item must be an integer from 1, got '-4'"),
        ("1 2.0\n", r"interactions.txt:1: an item must be an integer from 1, got '2.0'"),
        ("1 ٣\n", r"interactions.txt:1: an item must be an integer from 1, got '٣'"),
        ("user 2\n", r"interactions.txt:1: the user must be an integer from 0, got 'user'"),
        ("1 2\n\n3\n", r"interactions.txt:3: user 3 has no items"),
        ("1 2\n3 1\n1 5\n", r"interactions.txt:3: user 1 stands on line 1 already"),
        ("1 2\n01 5\n", r"interactions.txt:2: user 1 stands on line 1 already"),
        ("", r"interactions.txt: the file is empty"),
        ("\n \n", r"interactions.txt: the file is empty"),
        (b"1 2\n2 \xff\n", r"interactions.txt:2: not UTF-8: byte 0xff at position 6"),
        (b"1 2\n2 5\x00\n", r"interactions.txt:2: an item must be an integer from 1, got '5\\x00'"),
        ("1 " + "9" * 300, r"an item must be an integer from 1, got '9{40}\.\.\.'"),
    ],
)
def test_malformed_interactions_name_file_line_and_reason(tmp_path, text, message):
    write(tmp_path, txt=text)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id\tslug\n1\ta\n2\n", r"items.tsv:3: must have 2 tab-separated fields, got 1"),
        ("item_id\tslug\n1\ta\n1\tb\n", r"items.tsv:3: item 1 stands on an earlier line already"),
        ("item_id\tslug\n1\ta\nx\tb\n", r"items.tsv:3: the item must be an integer from 1, got 'x'"),
        ("item_id\tslug\n1\ta\n3\tb\n", r"items.tsv: item 2 is missing \(items must be numbered from 1 without gaps\)"),
        ("1\ta\n2\tb\n", r"items.tsv:1: the header must be item_id, a text and any attributes, got '1\\ta'"),
        ("item_id\tslug\n1\ta\n", r"interactions.txt:2: item 2 is not among the 1 of items.tsv"),
    ],
)
def test_malformed_items(tmp_path, text, message):
    write(tmp_path, txt="1 1\n2 1 2 1\n", tsv=text)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ('{"0": ["<a_1>"], "1": ["<a_1>", "<b_2>"]}', "item '1' has 2 codes, the items before it have 1"),
        ('{"0": ["<a_1>"], "2": ["<a_1>"]}', "item 1 is missing"),
        ('{"0": ["<a_1>"], "0": ["<a_1>"]}', "key '0' stands twice"),
        ('{"0": ["<a_x>"]}', "item '0': a code must look like <a_183> or be an integer from 0, got '<a_x>'"),
        ('{"0": [-1]}', "a code must look like <a_183> or be an integer from 0, got -1"),
        ('{"0": [true]}', "a code must look like <a_183> or be an integer from 0, got True"),
        ('{"0": []}', r"item '0' must have a list of codes, got \[\]"),
        ("{}", "holds no items"),
        ("[]", "must be a JSON object, got list"),
        ('{"0":\n["<a_1>"}', r"semantic_ids.json:2: not JSON: .*\(column 9\)"),
        ('{"x": ["<a_1>"]}', "an item number must be an integer from 0, got 'x'"),
        ('{"0": ["<a_1>"]}', "item 2 is not among the 1 of semantic_ids.json"),
    ],
)
def test_malformed_semantic_ids(tmp_path, ids, message):
    write(tmp_path, txt="1 1 2\n", ids=ids)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


def test_files_that_disagree_about_the_number_of_items(tmp_path):
    write(tmp_path, txt="1 1 2\n", tsv=TSV)
    np.save(tmp_path / "item_embeddings.npy", np.zeros((4, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"item_embeddings.npy: has 4 items, but items.tsv has 3"):
        data.load(tmp_path)


def test_embeddings_that_are_not_finite(tmp_path):
    write(tmp_path, txt="1 1 2\n")
    np.save(tmp_path / "item_embeddings.npy", np.array([[1, 2], [np.nan, 0]], dtype=np.float32))
    with pytest.raises(DataError, match=r"item_embeddings.npy: row 1 holds a value that is not finite"):
        data.load(tmp_path)


def test_the_usual_name_goes_before_another(tmp_path):
    write(tmp_path, txt="1 1 2\n")
    np.save(tmp_path / "item_embeddings_other.npy", np.zeros((2, 7), dtype=np.float32))
    assert data.load(tmp_path).features.shape == (2, 7)
    np.save(tmp_path / "item_embeddings.f16.npy", np.zeros((2, 3), dtype=np.float16))
    assert data.load(tmp_path).features.shape == (2, 3)


def test_two_embedding_files(tmp_path):
    write(tmp_path, txt="1 1 2\n")
    for name in ("item_embeddings.a.npy", "item_embeddings.b.npy"):
        np.save(tmp_path / name, np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"must fit one file, got item_embeddings.a.npy, item_embeddings.b.npy"):
        data.load(tmp_path)
