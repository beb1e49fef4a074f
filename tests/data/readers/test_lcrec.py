from __future__ import annotations

import json

import numpy as np
import pytest

from genrec_fast import data
from genrec_fast.base.errors import DataError


def write(folder, inter, **beside):
    (folder / "Beauty.inter.json").write_text(inter if isinstance(inter, str) else json.dumps(inter))
    for kind, content in beside.items():
        (folder / f"Beauty.{kind}.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_everything_at_once(tmp_path):
    items = {"1": {"title": "Tea", "brand": "B"}, "0": {"title": "Pot", "categories": ["x", "y"]}, "2": {}}
    write(
        tmp_path, {"5": [1, 0], "2": [0], "9": []}, item=items, index={str(i): [f"<a_{i}>", "<b_3>"] for i in range(3)}
    )
    np.save(tmp_path / "Beauty.emb-llama-td.npy", np.eye(3, dtype=np.float32))
    dataset = data.load(tmp_path)
    assert dataset.name == "Beauty"
    assert [row.tolist() for row in dataset.interactions.items.rows()] == [[1, 0], [0], []]
    assert dataset.interactions.user_ids == ["5", "2", "9"]
    assert dataset.interactions.item_ids == ["0", "1", "2"]
    assert dataset.titles == ["Pot", "Tea", ""]
    assert dataset.attributes == ["x, y", "B", ""]
    assert dataset.item_codes.tolist() == [[0, 3], [1, 3], [2, 3]]
    assert dataset.features.tolist() == np.eye(3).tolist()


def test_what_is_missing_of_an_item_is_an_empty_text(tmp_path):
    items = '{"0": {"title": "", "brand": null}, "1": {"title": null, "brand": "B"}, "2": {"title": NaN, "price": 3}'
    items += ', "3": null, "4": {"tags": ["x", null, "y"]}}'
    write(tmp_path, {"5": [1, 0, 2]}, item=items)
    dataset = data.load(tmp_path)
    assert dataset.titles == ["", "", "", "", ""]
    assert dataset.attributes == ["", "B", "3", "", "x, y"]


def test_alone_it_has_the_items_that_were_touched(tmp_path):
    write(tmp_path, {"0": [70, 4], "1": [4]})
    dataset = data.load(tmp_path)
    assert dataset.interactions.item_ids == ["4", "70"]
    assert dataset.interactions.items.values.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("inter", "message"),
    [
        ("{}", "Beauty.inter.json: holds no users"),
        ('{"0": 5}', "user '0' must have a list of items, got int"),
        ('{"0": [1, "2"]}', "user '0': an item must be an integer from 0, got '2'"),
        ('{"0": [-1]}', "user '0': an item must be an integer from 0, got -1"),
        ('{"0": [true]}', "user '0': an item must be an integer from 0, got True"),
        ('{"0": [1.5]}', "user '0': an item must be an integer from 0, got 1.5"),
        ('{"0": [1], "0": [2]}', "key '0' stands twice"),
        ('{"0": [1],\n "1": [2\n', r"Beauty.inter.json:2: not JSON|Beauty.inter.json:3: not JSON"),
        ("", "the file is empty"),
    ],
)
def test_malformed_interactions(tmp_path, inter, message):
    write(tmp_path, inter)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"0": "x"}, "item '0' must be an object of texts, got str"),
        ({"0": {"title": 5}}, "item '0': title must be a text, got int"),
        ({"0": {"title": "a"}, "2": {"title": "b"}}, "item 1 is missing"),
        ({"x": {"title": "a"}}, "an item number must be an integer from 0, got 'x'"),
        ({"00": {"title": "a"}, "0": {"title": "b"}}, "Beauty.item.json: item 0 stands there twice"),
        ({}, "holds no items"),
        ({"0": {"title": "a"}}, "user '7': item 1 is not among the 1 of Beauty.item.json"),
    ],
)
def test_malformed_items(tmp_path, item, message):
    write(tmp_path, {"5": [0], "6": [], "7": [0, 1]}, item=item)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


def test_files_that_disagree(tmp_path):
    write(tmp_path, {"0": [0]}, item={"0": {"title": "a"}}, index={"0": ["<a_1>"], "1": ["<a_2>"]})
    with pytest.raises(DataError, match=r"Beauty.index.json: has 2 items, but Beauty.item.json has 1"):
        data.load(tmp_path)
