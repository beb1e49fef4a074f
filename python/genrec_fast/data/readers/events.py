"""The events of a table as arrays: names become numbers part by part, so that no event is ever a Python object."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.data.interactions import Interactions
from genrec_fast.data.readers.actions import columns_of, read_actions
from genrec_fast.data.readers.known import LAYOUTS, Layout
from genrec_fast.data.readers.lines import fail
from genrec_fast.data.readers.options import Reading
from genrec_fast.data.readers.table import Part, Table
from genrec_fast.data.readers.times import to_seconds

_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S%.f")


class _Names:
    """Names and their numbers, by first appearance."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def add(self, texts: pl.Series) -> np.ndarray:
        """int32 numbers of some names."""
        found = texts.unique(maintain_order=True)
        known = [self.numbers.setdefault(name, len(self.numbers)) for name in found.to_list()]
        numbers = texts.replace_strict(found, pl.Series(known, dtype=pl.Int32), return_dtype=pl.Int32)
        ids: np.ndarray = numbers.to_numpy()
        return ids


@dataclass(frozen=True)
class Events:
    """E events in the order of their files.

    Args:
        users: int32 ``[E]``, into ``user_ids``.
        items: int32 ``[E]``, into ``item_ids``.
        times: float64 ``[E]`` seconds, or ``None``.
        actions: bool ``[E, A]``, or ``None``.
        user_ids: names by first appearance.
        item_ids: names by first appearance.
        titles: of the items, where the events themselves say them.
        lines: int32 ``[E]``, of their files.
        tables: the files, with each one's first event.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    actions: np.ndarray | None
    user_ids: list[str]
    item_ids: list[str]
    titles: list[str] | None
    lines: np.ndarray
    tables: list[tuple[int, Table]]

    def fail(self, event: int, reason: str) -> DataError:
        """A complaint about an event, by its line."""
        table = next(table for first, table in reversed(self.tables) if first <= event)
        return table.fail(int(self.lines[event]), reason)

    def interactions(self, items: np.ndarray, item_ids: list[str], action_names: Sequence[str]) -> Interactions:
        """One row per user, each sorted by time; ties keep their order. ``items`` are into ``item_ids``."""
        users, times = self.users, self.times
        keys = {"users": users} if times is None else {"users": users, "times": times}
        frame = pl.DataFrame(keys).select(pl.arg_sort_by(*keys, maintain_order=True))  # half of numpy's time
        order = frame.to_series().to_numpy()
        lengths = torch.from_numpy(np.bincount(users, minlength=len(self.user_ids)))
        return Interactions(
            Jagged.from_lengths(torch.from_numpy(items[order].astype(np.int64)), lengths),
            None if times is None else torch.from_numpy(times[order]),
            self.user_ids,
            item_ids,
            None if self.actions is None else torch.from_numpy(self.actions[order]),
            tuple(action_names),
        )


def layout_of(table: Table, reading: Reading) -> Layout | None:
    """The first known layout whose columns the table has, with the names that were given; those with times first."""
    named = {field: name for field, name in reading.given() if field in ("user", "item", "timestamp", "rating")}
    layouts = LAYOUTS[:1] if {"user", "item"} <= set(named) else LAYOUTS
    options = [
        Layout(
            named.get("user", layout.user),
            named.get("item", layout.item),
            named.get("timestamp", layout.timestamp),
            named.get("rating", layout.rating),
            reading.title or layout.title,
            layout.skips_untimed,
        )
        for layout in layouts
    ]
    fitting = [one for one in options if one.user in table.names and one.item in table.names]
    return next((one for one in fitting if one.timestamp in table.names), fitting[0] if fitting else None)


def read_events(tables: Sequence[Table], layout: Layout, reading: Reading, *, with_titles: bool) -> Events:
    """All events of some tables with the same columns.

    Args:
        tables: one after the other.
        layout: names of the columns.
        reading: what else was asked for; names in it must be columns.
        with_titles: whether to read the layout's column of titles.

    Raises:
        DataError: a column that is not there, a malformed cell.
        InvalidValueError: min_rating without a column of ratings or beyond them all; a unit for times that are dates or
            not there.
    """
    first = tables[0]
    first.check_column(layout.user, "user")
    first.check_column(layout.item, "item")
    wanted = {layout.user, layout.item}
    if reading.timestamp is not None or layout.timestamp in first.names:
        wanted.add(first.check_column(layout.timestamp, "timestamp"))
    elif reading.time_unit is not None:
        raise InvalidValueError(f"data.load: time_unit must be None, as {first.path} has no column timestamp")
    if reading.rating is not None:
        first.check_column(layout.rating, "rating")
    if reading.min_rating is not None:
        if layout.rating not in first.names:
            raise InvalidValueError(
                f"data.load: min_rating must be None, as {first.path} has no column {layout.rating}; "
                "rating (--rating) names another"
            )
        wanted.add(layout.rating)
    for name in () if reading.actions is None else columns_of(reading.actions):
        column = layout.rating if name == "rating" else name
        wanted.add(first.check_column(column, "rating" if name == "rating" else None))
    if with_titles and layout.title:
        wanted.add(first.check_column(layout.title, "title"))
    return _Reader(layout, reading, sorted(wanted), with_titles).read(tables)


class _Reader:
    def __init__(self, layout: Layout, reading: Reading, wanted: list[str], with_titles: bool) -> None:
        self.layout, self.reading, self.wanted = layout, reading, wanted
        self.title = layout.title if with_titles else None
        self.timed = layout.timestamp in wanted
        self.users, self.items = _Names(), _Names()
        self.titles: dict[int, str] = {}
        self.numbers: bool | None = None  # whether times are numbers, told by the first one
        self.untimed = 0
        self.rows: dict[str, list[np.ndarray]] = {name: [] for name in ("users", "items", "times", "actions", "lines")}

    def read(self, tables: Sequence[Table]) -> Events:
        begins, count, total = [], 0, 0
        for table in tables:
            begins.append((count, table))
            for part in table.parts(self.wanted):
                total += part.lines.size
                count += self._take(table, part)
        if not total:
            raise fail(tables[0].path, None, "has no lines")
        if self.untimed:
            warnings.warn(
                f"data.load: {self.untimed} of {total} events of {tables[0].path} have no time and are left out",
                stacklevel=6,
            )
        if not count:
            raise InvalidValueError(
                f"data.load: min_rating must leave some events, got {self.reading.min_rating} which leaves none"
            )
        columns = {}
        for name, parts in self.rows.items():
            columns[name] = np.concatenate(parts) if parts else None
            parts.clear()
        users, items, lines = columns["users"], columns["items"], columns["lines"]
        assert users is not None  # there are events
        assert items is not None
        assert lines is not None
        times = columns["times"]
        item_ids = list(self.items.numbers)
        events = Events(
            users,
            items,
            times,
            columns["actions"],
            list(self.users.numbers),
            item_ids,
            None if self.title is None else [self.titles.get(item, "") for item in range(len(item_ids))],
            lines,
            begins,
        )
        if times is None or not self.numbers:
            return events
        seconds = to_seconds(tables[0].path, times, self.reading.time_unit, events.fail)
        return Events(**{**events.__dict__, "times": seconds})

    def _take(self, table: Table, part: Part) -> int:
        """Adds a part; how many events of it were kept."""
        layout, reading = self.layout, self.reading
        users, items = table.keys(part, layout.user), table.keys(part, layout.item)
        found: dict[str, np.ndarray] = {"lines": part.lines.astype(np.int32)}
        kept = np.ones(part.lines.size, dtype=bool)
        if reading.min_rating is not None:
            kept &= table.numbers(part, layout.rating) >= reading.min_rating
        if self.timed and layout.skips_untimed:
            missing = (table.words(part, layout.timestamp) == "").to_numpy()
            self.untimed += int(missing.sum())
            kept &= ~missing
            part = _chosen(part, ~missing)
            users, items, kept = users.filter(pl.Series(~missing)), items.filter(pl.Series(~missing)), kept[~missing]
            found["lines"] = found["lines"][~missing]
        if self.timed:
            found["times"] = self._times(table, part)
        if reading.actions is not None:

            def numbers(name: str) -> np.ndarray:
                return table.numbers(part, layout.rating if name == "rating" else name)

            found["actions"] = read_actions(reading.actions, numbers)
        if not kept.all():
            chosen = pl.Series(kept)
            users, items = users.filter(chosen), items.filter(chosen)
            found = {name: column[kept] for name, column in found.items()}
        found |= {"users": self.users.add(users), "items": self.items.add(items)}
        if self.title is not None:
            titles = table.words(part, self.title).filter(pl.Series(kept))
            told = titles != ""
            pairs = pl.DataFrame({"item": found["items"], "title": titles}).filter(told).unique("item", keep="first")
            for item, title in pairs.iter_rows():
                self.titles.setdefault(item, title)
        for name, column in found.items():
            self.rows[name].append(column)
        return int(kept.sum())

    def _times(self, table: Table, part: Part) -> np.ndarray:
        """Numbers as they stand, or seconds since 1970 of dates and ISO times."""
        name = self.layout.timestamp
        column = part.columns[name]
        if self.numbers is None:
            words = column.dtype == pl.String and bool(column[:1].cast(pl.Float64, strict=False).null_count())
            self.numbers = not words and not column.dtype.is_temporal()
            if not self.numbers and self.reading.time_unit is not None:
                raise InvalidValueError(f"data.load: time_unit must be None, as {name} of {table.path} holds dates")
        if self.numbers:
            return table.numbers(part, name)
        if column.dtype == pl.String:
            return _moments(table, part, name)
        if column.dtype not in (pl.Date, pl.Datetime):
            raise fail(table.path, None, f"column {name} must hold numbers, dates or moments, got {column.dtype}")
        moments = column.cast(pl.Datetime("us"), strict=False).dt.timestamp("us").cast(pl.Float64) / 1e6
        return table.numbers(Part({name: moments}, part.lines), name)


def _chosen(part: Part, kept: np.ndarray) -> Part:
    if kept.all():
        return part
    chosen = pl.Series(kept)
    return Part({name: column.filter(chosen) for name, column in part.columns.items()}, part.lines[kept])


def _moments(table: Table, part: Part, name: str) -> np.ndarray:
    """Seconds since 1970 of ISO dates and times; without a zone they are UTC."""
    column = part.columns[name].fill_null("")
    for format in _FORMATS:
        moments = column.str.to_datetime(format, time_unit="us", strict=False)
        if not moments.null_count():
            seconds: np.ndarray = (moments.dt.timestamp("us").cast(pl.Float64) / 1e6).to_numpy()
            return seconds
    return np.array([_moment(table, part, row, name, text) for row, text in enumerate(column.to_list())])


def _moment(table: Table, part: Part, row: int, name: str, text: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 knows no Z
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)).timestamp()
    except (ValueError, OverflowError) as error:
        line = int(part.lines[row])
        raise table.fail(line, f"column {name} must be a number or an ISO time, got {text!r:.40}") from error
