from __future__ import annotations

import polars as pl
import pytest

from genrec_fast import data
from genrec_fast.base.errors import DataError


def load(folder, text):
    (folder / "x.jsonl").write_text(text)
    return data.load(folder / "x.jsonl").interactions


def test_objects_and_dictionaries_a_line(tmp_path):
    found = load(
        tmp_path, '{"user": "a", "item": 7, "timestamp": 2}\n\n{"item": "7.0", "user": "a", "timestamp": 1.5}\n'
    )
    assert (found.item_ids, found.timestamps.tolist()) == (["7", "7.0"], [1.5, 2])
    found = load(tmp_path, "{u'user': u'Zo\\xeb', 'item': True}\n{'user': \"it's\", 'item': '\"'}\n")
    assert (found.user_ids, found.item_ids) == (["Zoë", "it's"], ["1", '"'])


def test_a_whole_number_is_one_name_however_it_is_written(tmp_path):
    lines = ["7", "7.0", "70e-1", '"7.0"', "7.5", "-0.0", "0", "1e300", "9007199254740993"]
    found = load(tmp_path, "".join(f'{{"user": {item}, "item": {item}}}\n' for item in lines))
    assert found.item_ids == found.user_ids == ["7", "7.0", "7.5", "0", "1e+300", "9007199254740993"]
    assert found.items.lengths.tolist() == [3, 1, 1, 2, 1, 1]
    pl.DataFrame({"user": ["a"] * 4, "item": [7.0, 7.5, 0.0, 7.0]}).write_parquet(tmp_path / "y.parquet")
    assert data.load(tmp_path / "y.parquet").interactions.item_ids == ["7", "7.5", "0"]
    (tmp_path / "z.inter.json").write_text('{"0": [1, 0.0], "1": [1.0]}')
    assert [row.tolist() for row in data.load(tmp_path / "z.inter.json").interactions.items.rows()] == [[1, 0], [1]]


def test_a_list_of_objects_is_a_row_each(tmp_path):
    found = load(tmp_path, '{"user_id": 1, "items": [{"item_id": 5}, {"item_id": 6}]}\n{"user_id": 2, "items": []}\n')
    assert (found.user_ids, found.item_ids, found.num_events) == (["1"], ["5", "6"], 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.jsonl: the file is empty"),
        ('{"user": 1, "item": 2}\n{"user": 1,\n', r"x.jsonl:2: not JSON: .* \(column \d+\)"),
        ("{'user': 1, 'item': 2}\n{'user': f()}\n", "x.jsonl:2: neither JSON nor a Python dictionary: "),
        ('{"user": 1, "item": 2}\n[1]\n', r"x.jsonl:2: must be an object, one a line, got list: '\[1\]'"),
        ('{"user": 1, "item": 2}\n{"user": 1}\n', "x.jsonl:2: column item must not be empty"),
        ('{"user": 1, "item": null}\n', "x.jsonl:1: column item must not be empty"),
        ('{"user": 1, "thing": 2}\n', r"x.jsonl:1: must have a column item, got user, thing; item \(--item\) names"),
        ("[" * 100_000 + "\n", "x.jsonl:1: "),
    ],
)
def test_malformed_lines(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, text)
