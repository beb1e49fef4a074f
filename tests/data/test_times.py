"""Times and actions, from a reader through splits and batches to a question."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from genrec_fast import data
from genrec_fast.backbones.sessions import session_begins
from genrec_fast.base.errors import DataError, InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import ask, times_of_events
from genrec_fast.data import Evaluation, Interactions

ROWS = [[0, 1, 2, 3, 4], [5, 6], [7], [], [8, 9, 10, 11]]


SHOP = SimpleNamespace(num_items=9, num_inputs=9, reads_tokens=False, may_be_empty=False)


def make() -> Interactions:
    """Event i of the whole is item i at second 10 i + .5, and action a is bit a of i."""
    events = torch.arange(12)
    actions = torch.stack([events % 2 == 1, events // 2 % 2 == 1], 1)
    return Interactions(
        Jagged.from_rows(ROWS),
        events.double() * 10 + 0.5,
        list("abcde"),
        [str(i) for i in range(12)],
        actions,
        ("odd", "second"),
    )


def bits(values: torch.Tensor) -> torch.Tensor:
    return torch.stack([values % 2 == 1, values // 2 % 2 == 1], 1)


@pytest.mark.parametrize("targets", ["every", "last"])
@pytest.mark.parametrize("max_items", [1, 2, 9])
def test_training_batches_carry_the_times_and_actions_of_their_events(targets, max_items):
    batches = data.training_batches(
        make(), max_items=max_items, targets=targets, items_per_batch=max_items, seed=0, epoch=0
    )
    count = 0
    for batch in batches:
        assert batch.timestamps.dtype == torch.int64
        assert torch.equal(batch.timestamps, batch.items.values * 10)
        assert torch.equal(batch.actions, bits(batch.items.values))
        asked = batch.target_positions
        assert torch.equal(batch.target_timestamps[asked], batch.targets[asked] * 10)
        assert torch.equal(batch.target_actions[asked], bits(batch.targets[asked]))
        inner = torch.ones(len(batch.items.values), dtype=torch.bool)
        inner[batch.items.offsets[1:] - 1] = False
        assert torch.equal(batch.target_timestamps[inner], batch.timestamps[1:][inner[:-1]])
        count += asked.numel()
    assert count == 8


def test_evaluation_batches_ask_at_the_time_of_the_target():
    splits = data.leave_one_out(make())
    for evaluation in (splits.validation, splits.test, data.truncate(splits.test, 2), splits.test.head(1)):
        for bucketed in (False, True):
            batches = data.evaluation_batches(evaluation, max_items=3, users_per_batch=1, bucketed=bucketed)
            for batch in batches:
                last = batch.items.offsets[1:] - 1
                following = torch.cat([batch.items.values[1:], batch.targets[last]])
                assert torch.equal(batch.timestamps, batch.items.values * 10)
                assert torch.equal(batch.target_timestamps, following * 10)
                assert torch.equal(batch.target_actions, bits(following))


def test_a_time_split_keeps_times_and_actions():
    splits = data.time_split(make(), 30.0, 100.0, targets="every")
    assert splits.test.targets.tolist() == [10, 11]
    assert splits.test.target_timestamps.tolist() == [100.5, 110.5]
    assert torch.equal(splits.test.target_actions, bits(splits.test.targets))
    assert torch.equal(splits.train.actions, bits(splits.train.items.values))


def test_a_core_keeps_actions():
    twice = Interactions(
        Jagged.from_rows([[0, 1], [1, 2]]), None, ["a", "b"], ["x", "y", "z"], bits(torch.arange(4)), ("o", "s")
    )
    thinned = data.k_core(twice, 1)
    assert torch.equal(thinned.actions, twice.actions)
    assert thinned.action_names == ("o", "s")


def test_without_times_there_are_none():
    plain = Interactions(Jagged.from_rows(ROWS), None, list("abcde"), [str(i) for i in range(12)])
    splits = data.leave_one_out(plain)
    batch = next(data.training_batches(splits.train, max_items=4, targets="every", items_per_batch=9, seed=0, epoch=0))
    asked = next(data.evaluation_batches(splits.test, max_items=4, users_per_batch=9))
    for found in (batch, asked):
        assert (found.timestamps, found.target_timestamps, found.actions, found.target_actions) == (None,) * 4


def test_a_batch_moves_its_times():
    batch = next(data.evaluation_batches(data.leave_one_out(make()).test, max_items=4, users_per_batch=9))
    assert batch.to("meta").target_timestamps.device.type == "meta"
    assert batch.to("meta").actions.device.type == "meta"


def test_a_question_has_the_callers_times():
    rows = Jagged.from_rows([[1, 2, 3], [4]])
    asked, _ = ask(SHOP, rows, 1, {"timestamps": [[10.9, 20, 20], [5]], "target_timestamps": [25.0, 7.5]})
    asked = asked.last(2)
    assert asked.items.values.tolist() == [2, 3, 4]
    assert asked.timestamps.tolist() == [20, 20, 5]
    assert asked.target_timestamps.tolist() == [20, 25, 7]
    late, _ = ask(SHOP, rows, 1, {"timestamps": Jagged.from_rows([[10, 20, 30], [5]])})
    assert late.target_timestamps.tolist() == [20, 30, 30, 5]  # at the last event
    assert times_of_events("recommend", rows, None, None) == (None, None)


@pytest.mark.parametrize(
    ("timestamps", "asked", "error", "text"),
    [
        (None, [1.0, 2.0], InvalidValueError, "target_timestamps must come with timestamps, got timestamps None"),
        ([[1], [2]], None, InvalidValueError, "timestamps must have rows as long as the histories', got other"),
        ([[1, 2, 3], [2]], [1.0], InvalidValueError, r"target_timestamps must be \[2\], one per history, got \[1\]"),
        ([[1, 3, 2], [2]], None, InvalidValueError, "timestamps must not decrease within a history"),
        ([[1, 2, float("nan")], [2]], None, InvalidValueError, r"timestamps must be numbers below 2\^62"),
        ([[1, 2, 3], [2]], [1e30, 0], InvalidValueError, r"target_timestamps must be numbers below 2\^62"),
        ([["a", "b", "c"], ["d"]], None, InvalidTypeError, "timestamps must be lists of numbers, got"),
        (5, None, InvalidTypeError, "timestamps must be lists of numbers, got 5"),
    ],
)
def test_bad_times_are_named(timestamps, asked, error, text):
    with pytest.raises(error, match=f"^recommend: {text}"):
        times_of_events("recommend", Jagged.from_rows([[1, 2, 3], [4]]), timestamps, asked)


def test_interactions_say_what_is_wrong_with_times_and_actions():
    rows = Jagged.from_rows([[0, 1]])
    with pytest.raises(InvalidValueError, match=r"timestamps must be below 2\^62, got nan at event 1"):
        Interactions(rows, torch.tensor([1.0, float("nan")]), ["a"], ["x", "y"])
    with pytest.raises(InvalidTypeError, match=r"actions must be bool \[E, A\], got torch.int64"):
        Interactions(rows, None, ["a"], ["x", "y"], torch.ones(2, 1).long(), ("like",))
    with pytest.raises(InvalidValueError, match=r"actions must be \[2, 2\], one column per name, got \[2, 1\]"):
        Interactions(rows, None, ["a"], ["x", "y"], torch.ones(2, 1).bool(), ("like", "buy"))
    with pytest.raises(InvalidValueError, match=r"Evaluation: timestamps must have 2 rows, got 3"):
        Evaluation(rows, torch.tensor([1]), torch.tensor([0]), torch.zeros(3))


INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
a\tx\t3\t20
a\ty\t5\t10
b\tx\t4\t5
"""
CSV = """user,item,rating,timestamp
a,x,3,20
a,y,5,10
b,x,4,5
"""


@pytest.mark.parametrize(("name", "text"), [("d.inter", INTER), ("interactions.csv", CSV)])
def test_readers_give_actions_by_rules_over_columns(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    rules = ("rating>=4", "rating == 5", "timestamp < 1e1")
    found = data.load(tmp_path, actions=rules).interactions
    assert found.action_names == rules
    assert found.timestamps.tolist() == [10, 20, 5]  # a: y, then x
    assert found.actions.tolist() == [[True, True, False], [False, False, False], [True, False, True]]
    kept = data.load(tmp_path, actions=("rating>=5",), min_rating=4).interactions
    assert kept.actions.tolist() == [[True], [False]]
    assert data.load(tmp_path).interactions.actions is None


@pytest.mark.parametrize(
    ("actions", "error", "text"),
    [
        ("rating>=4", InvalidTypeError, "actions must be a list of rules such as 'rating>=4', got 'rating>=4'"),
        ((), InvalidValueError, r"actions must be different rules, at least one, got \[\]"),
        (("rating>4", "rating>4"), InvalidValueError, "actions must be different rules"),
        (("rating",), InvalidValueError, "actions must be rules such as 'rating>=4', got 'rating'"),
        (("rating>=1.2.3",), InvalidValueError, "actions must be rules such as 'rating>=4', got 'rating>=1.2.3'"),
        (("mood>=4",), DataError, "must have a column mood"),
    ],
)
def test_bad_rules_are_named(tmp_path, actions, error, text):
    (tmp_path / "d.inter").write_text(INTER)
    with pytest.raises(error, match=text):
        data.load(tmp_path, actions=actions)


def test_formats_without_columns_refuse_actions(tmp_path):
    (tmp_path / "interactions.txt").write_text("1 10 11 12 13")
    with pytest.raises(InvalidValueError, match="actions must be None for the format s3rec"):
        data.load(tmp_path, actions=("rating>=4",))


def write_times(folder, kind, times, dtype=None):
    """One user's items 0, 1, ... at these times; gives what ``load`` reads with some options."""
    rows = [("u", f"i{place}", time) for place, time in enumerate(times)]
    if kind == "parquet":
        polars = pytest.importorskip("polars")
        frame = polars.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
        frame = frame if dtype is None else frame.with_columns(polars.col("timestamp").cast(dtype))
        frame.write_parquet(folder / "interactions.parquet")
    elif kind == "csv":
        pytest.importorskip("polars")
        (folder / "interactions.csv").write_text(
            "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
        )
    else:
        header = "user_id:token\titem_id:token\ttimestamp:float\n"
        (folder / "d.inter").write_text(header + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows))
    return lambda **options: data.load(folder, **options).interactions


KINDS = pytest.mark.parametrize("kind", ["inter", "csv", "parquet"])
MOMENTS = [1_700_000_000, 1_700_000_000.25, 1_700_003_601, 1_700_090_000.5]


@KINDS
@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)])
def test_a_unit_is_told_by_its_size_or_declared(tmp_path, kind, unit, scale):
    times = MOMENTS if scale == 1 else [int(time * 4) * scale // 4 for time in MOMENTS]
    read = write_times(tmp_path, kind, times)
    assert read().timestamps.tolist() == pytest.approx(MOMENTS, abs=1e-6)
    assert read(time_unit=unit).timestamps.tolist() == pytest.approx(MOMENTS, abs=1e-6)
    write_times(tmp_path, kind, [0, 5 * scale, 9 * scale])
    assert read().timestamps.tolist() == [0, 5 * scale, 9 * scale]  # no moment of our days in any unit: as it is
    assert read(time_unit=unit).timestamps.tolist() == [0, 5, 9]
    write_times(tmp_path, kind, [0, *times])  # a moment that is missing is often 0
    assert read().timestamps.tolist() == pytest.approx([0, *MOMENTS], abs=1e-6)


@KINDS
def test_sessions_are_the_same_in_any_unit(tmp_path, kind):
    for scale in (1, 1_000, 1_000_000):
        read = write_times(
            tmp_path,
            kind,
            [int((1_600_000_000 + day * 50_000 + at * 100) * scale) for day in range(3) for at in range(4)],
        )
        batch = next(data.training_batches(read(), max_items=20, targets="every", items_per_batch=20, seed=0, epoch=0))
        assert session_begins(batch.timestamps, batch.items.offsets, 1800).tolist() == [at % 4 == 0 for at in range(11)]
        assert batch.target_timestamps[-1] == 1_600_000_000 + 2 * 50_000 + 300


@KINDS
def test_two_units_in_one_column_are_refused_with_the_line(tmp_path, kind):
    read = write_times(tmp_path, kind, [1_700_000_000_000, 1_700_000_100_000, 1_700_000_200, 1_700_000_300_000])
    line = "" if kind == "parquet" else ":4"
    with pytest.raises(
        DataError,
        match=rf"{kind}{line}: times must be of one unit, but 1700000200 looks like s and 3 others like ms; time_unit",
    ):
        read()
    assert read(time_unit="ms").timestamps.tolist() == [1_700_000.2, 1.7e9, 1_700_000_100, 1_700_000_300]


@KINDS
def test_times_that_are_no_unit_are_named_once(tmp_path, kind):
    read = write_times(tmp_path, kind, [20_200_101_120_000, 20_200_101_130_000])  # year, month, day, ...
    with pytest.warns(
        UserWarning, match=r"taken as seconds, but 20200101130000 seconds are more than 3,000 years; time"
    ):
        found = read()
    assert found.timestamps.tolist() == [20_200_101_120_000, 20_200_101_130_000]


@pytest.mark.parametrize("dtype", ["Datetime(ms)", "Datetime(us)", "Datetime(ns)", "Datetime(us, zone)"])
def test_types_of_moments_are_seconds(tmp_path, dtype):
    polars = pytest.importorskip("polars")
    unit = dtype[9:11]
    moments = polars.Datetime(unit, "Europe/Berlin" if "zone" in dtype else None)
    times = [int(time * 4) * {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit] // 4 for time in MOMENTS]
    read = write_times(tmp_path, "parquet", times, moments)
    assert read().timestamps.tolist() == pytest.approx(MOMENTS, abs=1e-6)
    with pytest.raises(InvalidValueError, match=r"time_unit must be None, as timestamp of .* holds dates"):
        read(time_unit="ms")


def test_a_unit_that_is_none_or_not_needed(tmp_path):
    read = write_times(tmp_path, "inter", MOMENTS)
    with pytest.raises(InvalidValueError, match=r"data.load: time_unit must be one of s, ms, us, ns, got 'minutes'"):
        read(time_unit="minutes")
    (tmp_path / "d.inter").write_text("user_id:token\titem_id:token\nu\ta\n")
    with pytest.raises(InvalidValueError, match=r"time_unit must be None, as .*d.inter has no column timestamp"):
        read(time_unit="ms")
    (tmp_path / "d.inter").rename(tmp_path / "interactions.txt")
    with pytest.raises(InvalidValueError, match="time_unit must be None for the format s3rec"):
        read(time_unit="ms")


def test_times_that_no_reader_has_seen_are_named(tmp_path):
    rows = Jagged.from_rows([[0, 1, 2]])
    times = torch.tensor([1_700_000_000_000.0, 1_700_000_000_500.0, 1_700_000_001_000.0], dtype=torch.float64)
    events = Interactions(rows, times, ["a"], ["x", "y", "z"])
    with pytest.warns(
        UserWarning, match="timestamps must be in seconds, as models read them so, got 1700000001000; div"
    ):
        next(data.training_batches(events, max_items=4, targets="every", items_per_batch=9, seed=0, epoch=0))
    for options in ((times[None].tolist(), None), ([[1, 2, 3]], [1.7e12])):
        with pytest.raises(
            InvalidValueError, match=r"recommend: (target_)?timestamps must be in seconds, got 17\d+; div"
        ):
            times_of_events("recommend", rows, *options)
