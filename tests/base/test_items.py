from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.items import Items, mask_of
from genrec_fast.base.jagged import Jagged

NAMES = SimpleNamespace(num_items=5, item_numbers={name: i for i, name in enumerate("abcde")})
REFUSE, SKIP = Items("recommend", NAMES), Items("recommend", NAMES, skip=True)


@pytest.mark.parametrize(
    "rows",
    [
        [["a", "d"], [2]],
        [[0, "d"], ("c",)],
        [np.array(["a", "d"]), np.array([2], dtype=np.uint16)],
        [torch.tensor([0, 3], dtype=torch.int32), [np.int64(2)]],
        [np.array(["a", 3], dtype=object), iter(["c"])],
        (row for row in (["a", "d"], [torch.tensor(2)])),
        np.array([["a", "d"], ["c", "c"]]),
    ],
)
def test_a_history_is_names_and_ids_in_any_form(rows):
    found = [row.tolist() for row in REFUSE.rows("histories", rows).rows()]
    assert found in ([[0, 3], [2]], [[0, 3], [2, 2]])


@pytest.mark.parametrize(
    ("rows", "error", "text"),
    [
        ([["a", "f"]], InvalidValueError, "each item of histories must be one of the catalog's 5 names .* got 'f'"),
        ([["a", 5]], InvalidValueError, r"histories must hold item ids in \[0, 5\), got 5"),
        ([[-1]], InvalidValueError, r"histories must hold item ids in \[0, 5\), got -1"),
        ([["a", 1 << 70]], InvalidValueError, r"histories must hold item ids in \[0, 5\), got 1180591620717411303424"),
        (["ab", "cd"], InvalidTypeError, r"one list per user, got \['ab', 'cd'\]"),  # no lists of letters
        ("ab", InvalidTypeError, "one list per user, got 'ab'"),
        ([{"a", "b"}], InvalidTypeError, "histories must be lists"),  # a set has no order
        ([{"a": 1}], InvalidTypeError, "histories must be lists"),
        ([["a", None]], InvalidTypeError, "histories must be lists"),
        ([["a", True]], InvalidTypeError, "histories must be lists"),
        ([[b"a"]], InvalidTypeError, "histories must be lists"),
        ([[1.0]], InvalidTypeError, "histories must be lists"),
        (torch.tensor(3), InvalidTypeError, "histories must be lists"),
        (np.array([["a"], ["b"]])[0, 0], InvalidTypeError, "histories must be lists"),
    ],
)
def test_what_is_no_history_is_refused(rows, error, text):
    with pytest.raises(error, match=f"recommend: .*{text}"):
        REFUSE.rows("histories", rows)


def test_unknown_items_can_be_skipped():
    found = SKIP.rows("histories", [["a", "f", 9, -1, "b"], ["?"], [], torch.tensor([4, 7])])
    assert [row.tolist() for row in found.rows()] == [[0, -1, -1, -1, 1], [-1], [], [4, -1]]
    assert mask_of(SKIP.chosen("allowed", ["a", "f", 7], 1), 5).tolist() == [True, False, False, False, False]


def test_a_name_or_a_skipped_item_is_no_mask():
    names = SimpleNamespace(num_items=3, item_numbers={"0": 0, "1": 1, "x": 2})
    refuse, skip = Items("recommend", names), Items("recommend", names, skip=True)
    assert refuse.chosen("exclude", ["0", "1", "0"], 1).tolist() == [0, 1, 0]
    assert refuse.chosen("exclude", ["0", 1, 0], 1).tolist() == [0, 1, 0]
    assert refuse.chosen("exclude", [["0", "1", "0"]], 1).values.tolist() == [0, 1, 0]
    assert skip.chosen("allowed", ["q", "w", "e"], 1).tolist() == []
    for items in ([-1, -1, -1], torch.tensor([-1, -1, -1]), np.array([0, -1, 1])):
        assert set(skip.chosen("exclude", items, 1).tolist()) <= {0, 1}
    for items in ([0, np.int64(1), torch.tensor(0)], torch.tensor([0, 1, 1], dtype=torch.uint8), np.zeros(3, int)):
        with pytest.raises(InvalidTypeError, match="exclude must be bool, got int64"):
            skip.chosen("exclude", items, 1)


@pytest.mark.parametrize(
    "row",
    [
        [1 << 70, 3],
        [-(1 << 70), "d"],
        [1 << 63, 3],
        np.array([(1 << 63) + 5, 3], dtype=np.uint64),
        torch.tensor([(1 << 63) + 5, 3], dtype=torch.uint64),
        [np.uint64((1 << 63) + 5), 3],
    ],
)
def test_whole_numbers_beyond_int64_are_items_that_there_are_not(row):
    assert SKIP.rows("histories", [row]).values.tolist() == [-1, 3]
    assert SKIP.chosen("exclude", row, 1).tolist() == [3]
    first = int(row[0]) if isinstance(row, list) else row.tolist()[0]
    for refused in (REFUSE.rows, lambda name, rows: REFUSE.chosen(name, rows[0], 1)):
        with pytest.raises(InvalidValueError, match=rf"must hold item ids in \[0, 5\), got {first}$"):
            refused("histories", [row])


MASK = [True, False, False, True, False]


@pytest.mark.parametrize(
    "items",
    [
        ["a", "d"],
        {"d", "a"},
        frozenset({0, 3}),
        {"a": 1, "d": 2}.keys(),
        (0, "d"),
        range(0, 4, 3),
        np.array(["a", "d"]),
        np.array([3, 0], dtype=np.int16),
        torch.tensor([0, 3, 3], dtype=torch.uint8),
        torch.tensor(MASK),
        np.array(MASK),
        MASK,
        [np.True_, False, False, np.True_, False],
    ],
)
def test_items_for_everybody(items):
    assert mask_of(REFUSE.chosen("allowed", items, 2), 5).tolist() == MASK


@pytest.mark.parametrize(
    "items",
    [
        [["a", "d"], {"b"}],
        [np.array([0, 3]), torch.tensor([1])],
        Jagged.from_rows([[0, 3], [1]]),
        [MASK, [False, True, False, False, False]],
        torch.tensor([MASK, [False, True, False, False, False]]),
        torch.tensor([[0, 3], [1, 1]]),
        np.array([["a", "d"], ["b", "b"]]),
    ],
)
def test_items_for_each_user(items):
    found = mask_of(REFUSE.chosen("allowed", items, 2), 5)
    assert found.tolist() == [MASK, [False, True, False, False, False]]


@pytest.mark.parametrize("items", [[], set(), torch.tensor([]), np.array([]), torch.zeros(0, dtype=torch.int64)])
def test_no_items_at_all(items):
    assert not mask_of(REFUSE.chosen("allowed", items, 2), 5).any()
    assert [len(row) for row in REFUSE.chosen("exclude", [items, ["a"]], 2).rows()] == [0, 1]


@pytest.mark.parametrize(
    ("items", "error", "text"),
    [
        ("abc", InvalidTypeError, "allowed must be item ids or names .* got 'abc'"),
        (3, InvalidTypeError, "allowed must be item ids or names .* got 3"),
        ({"a": True}, InvalidTypeError, "allowed must be item ids or names .* got dict"),
        (["a", ["b"]], InvalidTypeError, "allowed must be items, or a list of them for each user, got both"),
        (["a", True], InvalidTypeError, "allowed must be lists of item ids"),
        (torch.ones(5), InvalidTypeError, "allowed must be bool, got float32"),
        (torch.ones(5, dtype=torch.int64), InvalidTypeError, "allowed must be bool, got int64 .* of 0 and 1"),
        ([0, 1, 1, 0, 0], InvalidTypeError, "allowed must be bool, got int64 .* of 0 and 1"),
        (torch.ones(2, 5, dtype=torch.int64), InvalidTypeError, r"allowed must be bool, got \[2, 5\] of 0 and 1"),
        (
            [[0, 1, 1, 0, 0], np.eye(5, dtype=int)[0]],
            InvalidTypeError,
            r"allowed must be bool, got \[2, 5\] of 0 and 1",
        ),
        (Jagged.from_rows([[0, 1, 1, 0, 0]] * 2), InvalidTypeError, r"allowed must be bool, got \[2, 5\] of 0 and 1"),
        (Jagged.from_rows([[1.0], []], torch.float32), InvalidTypeError, "allowed must be int64 Jagged"),
        (torch.ones(4, dtype=torch.bool), InvalidValueError, r"allowed must be \[5\] or \[2, 5\], got \[4\]"),
        ([True, False], InvalidValueError, r"allowed must be \[5\] or \[2, 5\], got \[2\]"),
        ([[True], [True, False]], InvalidValueError, "allowed must have rows of equal length"),
        ([["a"]], InvalidValueError, "allowed must have 2 rows, got 1"),
        (["f"], InvalidValueError, "each item of allowed must be one of the catalog's 5 names .* got 'f'"),
        ([5], InvalidValueError, r"allowed must hold item ids in \[0, 5\), got 5"),
        ({"a", -1}, InvalidValueError, r"allowed must hold item ids in \[0, 5\), got -1"),
    ],
)
def test_what_names_no_items_is_refused(items, error, text):
    with pytest.raises(error, match=f"recommend: {text}"):
        REFUSE.chosen("allowed", items, 2)
