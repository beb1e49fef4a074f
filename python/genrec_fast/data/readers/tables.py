"""CSV and Parquet with named columns, one event a line, read by polars (optional extra ``tables``)."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrec_fast.base.errors import DataError, InvalidValueError, UnsupportedError, install_hint
from genrec_fast.data.interactions import Dataset
from genrec_fast.data.readers.actions import read_actions
from genrec_fast.data.readers.columns import Columns, no_column
from genrec_fast.data.readers.csv_rows import csv_rows
from genrec_fast.data.readers.lines import PUBLISHED, VECTORS, agree, codes_by_number, fail, find_one, read_vectors
from genrec_fast.data.readers.recbole import ordered_events
from genrec_fast.data.readers.times import to_seconds

__all__ = ["LOOKS_FOR", "find", "read"]

_CHUNK = 1 << 16  # rows whose cells are Python objects at a time

LOOKS_FOR = (
    "interactions.csv or interactions.parquet, or a single such file beside items.* (columns user, item, timestamp)"
)


def find(folder: Path) -> Path | None:
    """The file of interactions, if this folder has this format."""
    named = find_one(folder, ("interactions.parquet", "interactions.csv"))
    if named is not None:
        return named
    others = [
        path
        for pattern in ("*.parquet", "*.csv")
        for path in sorted(folder.glob(pattern))
        if path.is_file() and path.stem != "items"
    ]
    return others[0] if len(others) == 1 else None


def read(
    folder: Path,
    path: Path,
    *,
    columns: Columns,
    time_unit: str | None = None,
    min_rating: float | None = None,
    actions: Sequence[str] | None = None,
) -> Dataset:
    """Reads events and, beside them, ``items.csv`` or ``items.parquet``, vectors and semantic IDs in its order.

    Timestamps are numbers (see ``to_seconds``), dates or ISO times; they become seconds since 1970, UTC. A title that
    is missing is "".

    Raises:
        DataError: a malformed line or file, or files that disagree about the items.
        InvalidValueError: min_rating without a column of ratings, a unit of times that are dates or not there, or a
            column of titles without a file of items.
        UnsupportedError: polars is not installed.
    """
    polars = _polars(path)
    events = _read(polars, path)
    user, item, timestamp, rating = columns.of_events("user", "item")
    title = columns.title or "title"
    users, names = events.texts(user, "user"), events.texts(item, "item")
    times = None
    if columns.timestamp is not None or timestamp in events.columns:
        times = events.times(timestamp, time_unit)
    elif time_unit is not None:
        raise InvalidValueError(f"data.load: time_unit must be None, as {path} has no column timestamp")
    if columns.rating is not None:
        events.column(rating, "rating")
    kept = np.arange(len(users))
    if min_rating is not None:
        if rating not in events.columns:
            raise InvalidValueError(f"data.load: min_rating must be None, as {path} has no column {rating}")
        kept = np.flatnonzero(events.numbers(rating) >= min_rating)
        if not kept.size:
            raise InvalidValueError(f"data.load: min_rating must leave some events, got {min_rating} which leaves none")

    counts: dict[Path, int] = {}
    titles = attributes = features = item_codes = None
    described = find_one(folder, ("items.parquet", "items.csv"))
    if described is not None:
        items = _read(polars, described)
        item_ids = items.texts(item, "item")
        known = {name: i for i, name in enumerate(item_ids)}
        for i, name in enumerate(item_ids):
            if known[name] != i:
                raise fail(described, items.line(i), f"item {name!r} stands on several lines")
        for i, name in enumerate(names):
            if name not in known:
                raise fail(path, events.line(i), f"item {name!r} is not in {described.name}")
        counts[described] = len(item_ids)
        if columns.title is not None or "title" in items.columns:
            titles = items.texts(title, "title", may_be_empty=True)
        others = [name for name in items.columns if name not in (item, title)]
        attributes = [" | ".join(row) for row in zip(*map(items.words, others), strict=True)] or None
    else:
        if columns.title is not None:
            raise InvalidValueError(f"data.load: title must be None, as {folder} has no items.csv or items.parquet")
        item_ids = list(dict.fromkeys(names[i] for i in kept))
        known = {name: i for i, name in enumerate(item_ids)}
        counts[path] = len(item_ids)
    if (vectors := find_one(folder, VECTORS)) is not None:
        features = read_vectors(vectors)
        counts[vectors] = len(features)
    if (published := find_one(folder, PUBLISHED[:1])) is not None:
        item_codes = codes_by_number(published, first=0)
        counts[published] = len(item_codes)
    agree(counts)

    def numbers(name: str) -> np.ndarray:
        return events.numbers(rating, "rating") if name == "rating" else events.numbers(name)

    interactions = ordered_events(
        [users[i] for i in kept],
        np.fromiter((known[names[i]] for i in kept), dtype=np.int64, count=len(kept)),
        None if times is None else times[kept],
        item_ids,
        actions,
        None if actions is None else read_actions(actions, numbers)[kept],
    )
    return Dataset(folder.name, interactions, titles, attributes, features, item_codes)


@dataclass(frozen=True)
class _Table:
    polars: Any
    path: Path
    columns: dict[str, Any]
    lines: np.ndarray | None
    """of each row; ``None``: Parquet has none"""

    def line(self, row: int) -> int | None:
        return None if self.lines is None else int(self.lines[row])

    def fail(self, row: int, reason: str) -> DataError:
        """A complaint about a row, by its line or, in Parquet, its number from 0."""
        return fail(self.path, self.line(row), reason if self.lines is not None else f"{reason} (row {row})")

    def column(self, name: str, option: str | None = None) -> Any:
        if name not in self.columns:
            raise no_column(self.path, None if self.lines is None else 1, name, self.columns, option)
        return self.columns[name]

    def words(self, name: str) -> list[str]:
        """A column as texts, "" where there is nothing."""
        column, polars = self.columns[name], self.polars
        if column.dtype.is_float():  # how pandas writes what is missing
            column = column.fill_nan(None)
        words: list[str] = column.cast(polars.String, strict=False).fill_null("").to_list()
        return words

    def texts(self, name: str, option: str, *, may_be_empty: bool = False) -> list[str]:
        column, polars = self.column(name, option), self.polars
        if column.dtype.is_nested() or column.dtype == polars.Binary or column.dtype == polars.Object:
            raise fail(self.path, None, f"column {name} must hold texts or numbers, got {column.dtype}")
        texts = self.words(name)
        if not may_be_empty and "" in texts:
            row = texts.index("")
            raise self.fail(row, f"column {name} must not be empty")
        return texts

    def numbers(self, name: str, option: str | None = None) -> np.ndarray:
        column, polars = self.column(name, option), self.polars
        if column.dtype.is_nested():
            raise fail(self.path, None, f"column {name} must hold numbers, got {column.dtype}")
        values: np.ndarray = column.cast(polars.Float64, strict=False).fill_null(float("nan")).to_numpy()
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            row = int(bad[0])
            raise self.fail(row, f"column {name} must be a finite number, got {column[row]!r}")
        return values

    def times(self, name: str, unit: str | None) -> np.ndarray:
        """Seconds since 1970 of numbers, dates or ISO times."""
        column, polars = self.column(name, "timestamp"), self.polars
        words = column.dtype == polars.String and bool(column[:1].cast(polars.Float64, strict=False).null_count())
        if not words and not column.dtype.is_temporal():
            return to_seconds(self.path, self.numbers(name), unit, self.line)
        if unit is not None:
            raise InvalidValueError(f"data.load: time_unit must be None, as {name} of {self.path} holds dates")
        if words:
            return np.array([self._moment(row, name, text) for row, text in enumerate(column.to_list())])
        if column.dtype not in (polars.Date, polars.Datetime):
            raise fail(self.path, None, f"column {name} must hold numbers, dates or moments, got {column.dtype}")
        moments = column.cast(polars.Datetime("us"), strict=False).dt.timestamp("us").cast(polars.Float64) / 1e6
        return dataclasses.replace(self, columns={name: moments}).numbers(name)

    def _moment(self, row: int, name: str, text: str) -> float:
        """Seconds since 1970 of an ISO date or time; one without a zone is taken as UTC."""
        try:
            moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 knows no Z
            return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)).timestamp()
        except (ValueError, OverflowError) as error:
            raise self.fail(row, f"column {name} must be a number or an ISO time, got {text!r}") from error


def _polars(path: Path) -> Any:
    try:
        return importlib.import_module("polars")
    except ImportError as error:
        raise UnsupportedError(
            f"data.load: reading {path} needs polars, which is not installed; {install_hint('tables')}"
        ) from error


def _read(polars: Any, path: Path) -> _Table:
    return _read_csv(polars, path) if path.suffix == ".csv" else _read_parquet(polars, path)


def _read_csv(polars: Any, path: Path) -> _Table:
    """All cells as texts: names such as 007 stay what they are. Rows of empty cells are blank lines, too."""
    rows = csv_rows(path)
    first, header = next(rows, (1, []))
    named = [name for name in header if name]  # spreadsheets write cells beyond the last column, pandas its index
    if len(set(named)) < len(named):
        raise fail(path, first, f"columns must have names of their own, got {', '.join(header)}")
    parts: dict[str, list[Any]] = {name: [] for name in named}
    columns: list[list[str]] = [[] for _ in header]
    numbers: list[int] = []

    def pack() -> None:
        for name, column in zip(header, columns, strict=True):
            if name:
                parts[name].append(polars.Series(name, column, dtype=polars.String))
            column.clear()

    # Cell by cell: rows that are kept, if only for a while, make Python's garbage collector most of the work.
    for number, cells in rows:
        if any(cells):
            numbers.append(number)
            for column, cell in zip(columns, cells, strict=True):
                column.append(cell)
            if len(numbers) % _CHUNK == 0:
                pack()
    pack()
    if not numbers:
        raise fail(path, None, "has no lines")
    return _Table(polars, path, {name: polars.concat(part) for name, part in parts.items()}, np.array(numbers))


def _read_parquet(polars: Any, path: Path) -> _Table:
    broken = (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError, ValueError, OverflowError)
    try:
        frame = polars.read_parquet(path, use_pyarrow=False)
    except broken as error:
        reason = " ".join(str(error).split())[:200]
        raise fail(path, None, f"polars cannot read it: {reason}") from error
    if not frame.height:
        raise fail(path, None, "has no lines")
    return _Table(polars, path, dict(zip(frame.columns, frame.get_columns(), strict=True)), None)
