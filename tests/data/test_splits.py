from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast import data
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.data import Dataset, Evaluation, Interactions


def make(rows, num_items=10, times=None):
    stamps = None if times is None else torch.tensor([t for row in times for t in row], dtype=torch.float64)
    names = [f"u{i}" for i in range(len(rows))]
    return Interactions(Jagged.from_rows(rows), stamps, names, [f"i{i}" for i in range(num_items)])


def lists(jagged):
    return [row.tolist() for row in jagged.rows()]


histories = st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=12)


@given(histories)
def test_leave_one_out_equals_a_plain_loop(rows):
    splits = data.leave_one_out(make(rows))
    asked = [u for u, row in enumerate(rows) if len(row) >= 3]
    assert lists(splits.train.items) == [row[:-2] if len(row) >= 3 else row for row in rows]
    for evaluation, at in ((splits.validation, -2), (splits.test, -1)):
        assert evaluation.users.tolist() == asked
        assert evaluation.targets.tolist() == [rows[u][at] for u in asked]
        assert lists(evaluation.histories) == [rows[u][:at] for u in asked]


def test_users_with_fewer_than_three_events_stay_in_train_only():
    splits = data.leave_one_out(make([[1, 2], [3], [], [4, 5, 6]]))
    assert lists(splits.train.items) == [[1, 2], [3], [], [4]]
    assert splits.test.users.tolist() == [3]
    assert lists(splits.test.histories) == [[4, 5]]


def test_leave_one_out_keeps_times_aligned():
    splits = data.leave_one_out(make([[1, 2, 3, 4], [5]], times=[[1, 2, 3, 4], [9]]))
    assert splits.train.timestamps.tolist() == [1, 2, 9]


@given(
    st.lists(st.lists(st.integers(0, 20), max_size=8), min_size=1, max_size=8),
    st.integers(0, 21),
    st.integers(0, 10),
    st.booleans(),
)
def test_time_split_equals_a_plain_loop(times, validation_from, more, every):
    times = [sorted(row) for row in times]
    test_from = validation_from + more
    rows = [[(u + i) % 10 for i in range(len(row))] for u, row in enumerate(times)]
    kind = "every" if every else "first"
    splits = data.time_split(make(rows, times=times), validation_from, test_from, targets=kind)
    assert lists(splits.train.items) == [
        [i for i, t in zip(row, stamps, strict=True) if t < validation_from]
        for row, stamps in zip(rows, times, strict=True)
    ]
    for evaluation, low, high in ((splits.validation, validation_from, test_from), (splits.test, test_from, 99)):
        expected = []
        for u, (row, stamps) in enumerate(zip(rows, times, strict=True)):
            at = [i for i, t in enumerate(stamps) if low <= t < high]
            expected += [(u, row[:i], row[i]) for i in (at if every else at[:1]) if i > 0]
        got = zip(evaluation.users.tolist(), lists(evaluation.histories), evaluation.targets.tolist(), strict=True)
        assert list(got) == expected


def test_time_split_names_what_is_wrong():
    with pytest.raises(InvalidValueError, match="time_split: interactions must have timestamps, got None"):
        data.time_split(make([[1]]), 1, 2)
    timed = make([[1]], times=[[3]])
    with pytest.raises(InvalidValueError, match="time_split: test_from must be at least 2, got 1"):
        data.time_split(timed, 2, 1)
    with pytest.raises(InvalidValueError, match="time_split: targets must be 'first' or 'every', got 'all'"):
        data.time_split(timed, 1, 2, targets="all")


@given(histories, st.integers(1, 3))
def test_k_core_equals_a_plain_loop(rows, k):
    kept = [list(enumerate(row)) for row in rows]
    while True:
        items = [i for row in kept for _, i in row]
        after = [[(p, i) for p, i in row if items.count(i) >= k] if len(row) >= k else [] for row in kept]
        if after == kept:
            break
        kept = after
    names = [[f"i{i}" for _, i in row] for row in kept if row]
    if not names:
        with pytest.raises(InvalidValueError, match=f"k_core: k must leave some events, got {k} which leaves none"):
            data.k_core(make(rows), k)
        return
    out = data.k_core(make(rows), k)
    assert [[out.item_ids[i] for i in row] for row in lists(out.items)] == names
    assert out.user_ids == [f"u{u}" for u, row in enumerate(kept) if row]
    assert sorted({n for row in names for n in row}, key=lambda n: int(n[1:])) == out.item_ids


def test_k_core_of_a_dataset_keeps_what_is_known_about_the_items():
    interactions = make([[3, 1, 3], [3, 1], [2]], 4, times=[[1, 2, 3], [1, 2], [1]])
    dataset = Dataset(
        "d", interactions, list("abcd"), list("ABCD"), torch.arange(8.0).view(4, 2), torch.arange(4)[:, None].int()
    )
    out = data.k_core(dataset, 2)
    assert out.titles == ["b", "d"]
    assert out.attributes == ["B", "D"]
    assert out.features.tolist() == [[2, 3], [6, 7]]
    assert out.item_codes.tolist() == [[1], [3]]
    assert lists(out.interactions.items) == [[1, 0, 1], [1, 0]]
    assert out.interactions.timestamps.tolist() == [1, 2, 3, 1, 2]
    assert out.num_users == 2
    with pytest.raises(InvalidValueError, match="k_core: k must be at least 1, got 0"):
        data.k_core(dataset, 0)


@given(histories, st.integers(1, 9))
def test_history_window_keeps_the_last_items(rows, max_items):
    assert lists(data.history_window(Jagged.from_rows(rows), max_items)) == [row[-max_items:] for row in rows]


def test_history_window_needs_room():
    with pytest.raises(InvalidValueError, match="history_window: max_items must be at least 1, got 0"):
        data.history_window(Jagged.from_rows([[1]]), 0)


def test_truncate_keeps_targets():
    test = data.truncate(data.leave_one_out(make([[1, 2, 3, 4, 5]])).test, 2)
    assert lists(test.histories) == [[3, 4]]
    assert test.targets.tolist() == [5]


def test_head_of_an_evaluation():
    evaluation = data.leave_one_out(make([[1, 2, 3], [4, 5, 6], [7, 8, 9]])).test
    head = evaluation.head(2)
    assert lists(head.histories) == [[1, 2], [4, 5]]
    assert head.targets.tolist() == [3, 6]
    assert len(evaluation.head(9)) == 3


def test_interactions_and_their_kin_check_themselves():
    with pytest.raises(InvalidValueError, match=r"Interactions: items must be in \[0, 3\), got 3"):
        make([[1, 3]], 3)
    with pytest.raises(InvalidValueError, match=r"Interactions: items must be in \[0, 3\), got -1"):
        make([[-1, 2]], 3)
    with pytest.raises(InvalidTypeError, match=r"Interactions: items must be int64 \[E\], got torch.int32 \[1\]"):
        Interactions(Jagged.from_rows([[1]], dtype=torch.int32), None, ["u"], ["a", "b"])
    with pytest.raises(InvalidValueError, match="user_ids must name 1 users, got 2 names"):
        Interactions(Jagged.from_rows([[0]]), None, ["u", "v"], ["a"])
    with pytest.raises(InvalidValueError, match=r"timestamps must be \[2\], got \[1\]"):
        make([[1, 2]], times=[[1]])
    with pytest.raises(InvalidValueError, match="timestamps must not decrease within a user, but do at event 3"):
        make([[1, 2], [1, 2]], times=[[5, 6], [2, 1]])
    assert make([[], [1, 2], [], [1], []], times=[[], [5, 6], [], [1], []]).num_events == 3  # users start anew
    with pytest.raises(InvalidValueError, match="Dataset: titles must have one row for each of the 10 items, got 1"):
        Dataset("d", make([[1]]), ["x"])
    with pytest.raises(InvalidValueError, match="histories, targets and users must be equally many, got 1, 2 and 1"):
        Evaluation(Jagged.from_rows([[1]]), torch.tensor([1, 2]), torch.tensor([0]))


def test_a_time_split_in_another_unit_than_the_times_is_refused():
    times = torch.tensor([1.0e9, 1.1e9, 1.2e9], dtype=torch.float64)
    events = data.Interactions(Jagged.from_rows([[0, 1, 2]]), times, ["a"], ["x", "y", "z"])
    assert data.time_split(events, 1.1e9, float("inf")).validation.targets.tolist() == [1]
    for limits, name in (((1.1e12, 1.2e12), "validation_from"), ((1.1e9, 1.2e12), "test_from")):
        with pytest.raises(
            InvalidValueError, match=rf"{name} must be in the unit of the timestamps, seconds up to 12000"
        ):
            data.time_split(events, *limits)


def test_limits_of_a_time_split_may_be_texts():
    times = torch.tensor([0.0, 86400.0, 172800.0, 259200.0])
    interactions = Interactions(Jagged.from_rows([[0, 1, 2, 3]]), times, ["u"], list("abcd"))
    for limits in (("1970-01-03", "1970-01-04T00:00:00Z"), ("50%", "75%"), ("172800", "259200.0")):
        splits = data.time_split(interactions, *limits)
        assert (splits.train.num_events, splits.validation.targets.tolist(), splits.test.targets.tolist()) == (
            2,
            [2],
            [3],
        )
    assert len(data.time_split(interactions, "100%", "100%").test) == 1
    for limit in ("soon", "101%", "-1%", "x%", "2014-13-01", ""):
        with pytest.raises(InvalidValueError, match=r"time_split: test_from must be a date or time such as"):
            data.time_split(interactions, 0, limit)
