from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast import data
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.data import Evaluation, Interactions

histories = st.lists(st.lists(st.integers(0, 9), max_size=17), min_size=1, max_size=12).filter(
    lambda rows: any(len(row) > 1 for row in rows)
)


def make(rows):
    return Interactions(Jagged.from_rows(rows), None, [str(u) for u in range(len(rows))], [str(i) for i in range(10)])


def samples(batches):
    """(user, items, targets) of every row."""
    out = []
    for batch in batches:
        targets = Jagged(batch.targets, batch.items.offsets).rows()
        rows = zip(batch.users.tolist(), batch.items.rows(), targets, strict=True)
        out += [(user, tuple(items.tolist()), tuple(target.tolist())) for user, items, target in rows]
    return out


def options(**changes):
    return {"max_items": 5, "targets": "every", "items_per_batch": 16, "seed": 0, "epoch": 0, **changes}


@given(histories, st.integers(1, 6), st.integers(0, 20), st.sampled_from(["every", "last"]))
def test_every_transition_is_a_target_exactly_once(rows, max_items, more, targets):
    marked = [[10 * p + item for p, item in enumerate(row)] for row in rows]  # each event of a user is unmistakable
    train = Interactions(Jagged.from_rows(marked), None, [""] * len(rows), [""] * 1_000)
    batches = list(
        data.training_batches(train, **options(max_items=max_items, items_per_batch=max_items + more, targets=targets))
    )
    asked = []
    for user, items, target in samples(batches):
        assert 1 <= len(items) <= max_items
        start = items[0] // 10
        assert list(items) == marked[user][start : start + len(items)]  # a piece of one history, in order
        found = [p for p, t in enumerate(target) if t >= 0]
        assert found, "a row without a target is work for nothing"
        assert found == list(range(found[0], len(items)))
        if targets == "last":
            assert len(found) == 1
            assert len(items) == min(max_items, start + len(items))  # as much history as fits
        elif start:
            assert found[0] >= max_items // 2  # a later window brings context along
        else:
            assert found[0] == 0
        asked += [(user, start + p, target[p]) for p in found]
    assert sorted(asked) == [(u, p, row[p + 1]) for u, row in enumerate(marked) for p in range(len(row) - 1)]


@given(histories, st.integers(1, 6), st.sampled_from(["every", "last"]))
def test_window_last_asks_only_the_last_transitions(rows, max_items, targets):
    train = make(rows)
    batches = data.training_batches(train, **options(max_items=max_items, targets=targets, window="last"))
    per_user = [0] * len(rows)
    for user, items, target in samples(batches):
        per_user[user] += sum(t >= 0 for t in target)
        if targets == "every":
            assert list(items) == rows[user][:-1][-max_items:]
            assert list(target) == rows[user][1:][-max_items:]
        else:
            assert target[-1] in rows[user][1:][-max_items:]
    assert per_user == [min(max(len(row) - 1, 0), max_items) for row in rows]


@given(histories, st.integers(0, 3), st.integers(0, 3), st.sampled_from(["every", "last"]))
def test_number_of_batches_is_known_beforehand(rows, seed, epoch, targets):
    train, given_options = make(rows), options(targets=targets, items_per_batch=7, seed=seed, epoch=epoch)
    batches = list(data.training_batches(train, **given_options))
    assert len(batches) == data.num_training_batches(train, max_items=5, targets=targets, items_per_batch=7)
    assert all(0 < batch.items.values.numel() < 7 + 5 for batch in batches)


@pytest.fixture(scope="module")
def shop():
    return data.leave_one_out(data.Shop(100).dataset(600, seed=0).interactions)


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(a.items.values, b.items.values)
        and torch.equal(a.items.offsets, b.items.offsets)
        and torch.equal(a.targets, b.targets)
        and torch.equal(a.users, b.users)
        for a, b in zip(first, second, strict=True)
    )


def test_pure_function_of_seed_and_epoch(shop):
    def epoch(seed, number, **more):
        return list(
            data.training_batches(
                shop.train, **options(max_items=8, items_per_batch=256, seed=seed, epoch=number, **more)
            )
        )

    torch.manual_seed(1)
    first = epoch(3, 4)
    torch.manual_seed(2)  # the global generator has no say
    assert equal(first, epoch(3, 4))
    assert equal(first[2:], epoch(3, 4, first=2))
    assert equal(first[1::3], epoch(3, 4, first=1, step=3))
    for other in (epoch(4, 4), epoch(3, 5), epoch(4, 3)):
        assert not equal(first, other)
        assert sorted(samples(first)) == sorted(samples(other))


def test_the_global_generator_is_left_alone(shop):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    list(data.training_batches(shop.train, **options(items_per_batch=512)))
    assert torch.equal(torch.rand(1), expected)


def test_rows_of_a_batch_are_of_similar_length_but_batches_are_not_in_order(shop):
    batches = list(data.training_batches(shop.train, **options(max_items=20, items_per_batch=256)))
    real = sum(batch.items.values.numel() for batch in batches)
    padded = sum(len(batch) * int(batch.items.lengths.max()) for batch in batches)
    assert padded < 1.15 * real
    longest = [int(batch.items.lengths.max()) for batch in batches]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_users_are_mixed(shop):
    batches = list(data.training_batches(shop.train, **options(max_items=20, items_per_batch=256, targets="last")))
    assert sum(len(set(batch.users.tolist())) for batch in batches) > 0.6 * sum(len(batch) for batch in batches)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": "all"}, "training_batches: targets must be 'every' or 'last', got 'all'"),
        ({"window": "first"}, "training_batches: window must be 'all' or 'last', got 'first'"),
        ({"max_items": 0}, "training_batches: max_items must be at least 1, got 0"),
        ({"items_per_batch": 4}, "training_batches: items_per_batch must be at least max_items = 5, got 4"),
        ({"first": -1}, "first must be >= 0 and step >= 1, got -1 and 1"),
        ({"step": 0}, "first must be >= 0 and step >= 1, got 0 and 0"),
    ],
)
def test_wrong_arguments_are_named_at_the_call(changes, message):
    with pytest.raises(InvalidValueError, match=message):
        data.training_batches(make([[1, 2, 3]]), **options(**changes))


def test_nothing_to_learn_from():
    with pytest.raises(InvalidValueError, match="train must have a user with at least two events, got none"):
        data.training_batches(make([[1], [], [2]]), **options())


@pytest.mark.parametrize("bucketed", [False, True])
def test_evaluation_batches_cover_everybody_once(shop, bucketed):
    batches = list(data.evaluation_batches(shop.test, max_items=6, users_per_batch=64, bucketed=bucketed))
    assert [len(batch) for batch in batches] == [64] * 9 + [24]
    got = {}
    for user, items, target in samples(batches):
        assert set(target[:-1]) <= {-1}
        got[user] = (list(items), target[-1])
    histories = shop.test.histories.rows()
    expected = {
        user: (history.tolist()[-6:], target)
        for user, history, target in zip(shop.test.users.tolist(), histories, shop.test.targets.tolist(), strict=True)
    }
    assert got == expected
    if not bucketed:
        assert torch.equal(torch.cat([batch.users for batch in batches]), shop.test.users)
    else:
        lengths = torch.cat([batch.items.lengths for batch in batches])
        assert bool((lengths[1:] >= lengths[:-1]).all())


def test_evaluation_batches_name_what_is_wrong(shop):
    with pytest.raises(InvalidValueError, match="users_per_batch must be at least 1, got 0"):
        data.evaluation_batches(shop.test, max_items=5, users_per_batch=0)
    empty = Evaluation(Jagged.from_rows([[1], []]), torch.tensor([1, 2]), torch.tensor([0, 1]))
    with pytest.raises(InvalidValueError, match="histories must not be empty, but row 1 is"):
        data.evaluation_batches(empty, max_items=5, users_per_batch=2)
