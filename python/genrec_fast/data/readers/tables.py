"""CSV and Parquet with named columns, one event a line, read by polars (optional extra ``tables``)."""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrec_fast.data.interactions import Dataset
from genrec_fast.data.readers.actions import read_actions
from genrec_fast.data.readers.lines import agree, codes_by_number, fail, find_one, numbered_lines, read_vectors
from genrec_fast.data.readers.recbole import ordered_events
from genrec_fast.errors import InvalidValueError, UnsupportedError

__all__ = ["LOOKS_FOR", "find", "read"]

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
    user: str | None = None,
    item: str | None = None,
    timestamp: str | None = None,
    title: str | None = None,
    min_rating: float | None = None,
    actions: Sequence[str] | None = None,
) -> Dataset:
    """Reads events and, beside them, ``items.csv`` or ``items.parquet``, vectors and semantic IDs in its order.

    Timestamps are numbers, dates or ISO times (which become seconds since 1970, UTC).

    Raises:
        DataError: a malformed line or file, or files that disagree about the items.
        InvalidValueError: min_rating without a column rating.
        UnsupportedError: polars is not installed.
    """
    polars = _polars(path)
    events = _frame(polars, path)
    users, names = _texts(polars, path, events, user or "user"), _texts(polars, path, events, item or "item")
    timed = timestamp is not None or "timestamp" in events.columns
    times = _times(polars, path, events, timestamp or "timestamp") if timed else None
    kept = np.arange(len(users))
    if min_rating is not None:
        if "rating" not in events.columns:
            raise InvalidValueError(f"data.load: min_rating must be None, as {path} has no column rating")
        kept = np.flatnonzero(_numbers(polars, path, events, "rating") >= min_rating)
        if not kept.size:
            raise InvalidValueError(f"data.load: min_rating must leave some events, got {min_rating} which leaves none")

    counts: dict[Path, int] = {}
    titles = attributes = features = item_codes = None
    described = find_one(folder, ("items.parquet", "items.csv"))
    if described is not None:
        frame = _frame(polars, described)
        item_ids = _texts(polars, described, frame, item or "item")
        known = {name: i for i, name in enumerate(item_ids)}
        for i, name in enumerate(item_ids):
            if known[name] != i:
                raise fail(described, _line(described, i), f"item {name!r} stands on several lines")
        for i, name in enumerate(names):
            if name not in known:
                raise fail(path, _line(path, i), f"item {name!r} is not in {described.name}")
        counts[described] = len(item_ids)
        if title is not None or "title" in frame.columns:
            titles = _texts(polars, described, frame, title or "title")
        others = [name for name in frame.columns if name not in (item or "item", title or "title")]
        columns = [frame[name].cast(polars.String, strict=False).fill_null("").to_list() for name in others]
        attributes = [" | ".join(row) for row in zip(*columns, strict=True)] or None
    else:
        item_ids = list(dict.fromkeys(names[i] for i in kept))
        known = {name: i for i, name in enumerate(item_ids)}
        counts[path] = len(item_ids)
    if (vectors := find_one(folder, ("item_embeddings*.npy",))) is not None:
        features = read_vectors(vectors)
        counts[vectors] = len(features)
    if (published := find_one(folder, ("semantic_ids*.json",))) is not None:
        item_codes = codes_by_number(published, first=0)
        counts[published] = len(item_codes)
    agree(counts)

    interactions = ordered_events(
        [users[i] for i in kept],
        np.fromiter((known[names[i]] for i in kept), dtype=np.int64, count=len(kept)),
        None if times is None else times[kept],
        item_ids,
        actions,
        None if actions is None else read_actions(actions, lambda name: _numbers(polars, path, events, name))[kept],
    )
    return Dataset(folder.name, interactions, titles, attributes, features, item_codes)


def _polars(path: Path) -> Any:
    try:
        return importlib.import_module("polars")
    except ImportError as error:
        raise UnsupportedError(
            f"data.load: reading {path} needs polars, which is not installed; pip install 'genrec-fast[tables]'"
        ) from error


def _line(path: Path, row: int) -> int | None:
    """The line of a row of a CSV (header on line 1); Parquet has no lines."""
    return row + 2 if path.suffix == ".csv" else None


def _frame(polars: Any, path: Path) -> Any:
    if path.suffix == ".csv":
        numbered_lines(path)  # empty or not UTF-8: said with the line
    broken = (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError, ValueError, OverflowError)
    try:
        if path.suffix == ".csv":  # all texts: names such as 007 stay what they are
            frame = polars.read_csv(path, infer_schema=False, encoding="utf8")
        else:
            frame = polars.read_parquet(path, use_pyarrow=False)
    except broken as error:
        reason = " ".join(str(error).split())[:200]
        raise fail(path, None, f"polars cannot read it: {reason}") from error
    if not frame.height:
        raise fail(path, None, "has no lines")
    return frame


def _column(path: Path, frame: Any, name: str) -> Any:
    if name not in frame.columns:
        raise fail(
            path, 1 if path.suffix == ".csv" else None, f"must have a column {name}, got {', '.join(frame.columns)}"
        )
    return frame[name]


def _texts(polars: Any, path: Path, frame: Any, name: str) -> list[str]:
    column = _column(path, frame, name)
    if column.dtype.is_nested() or column.dtype == polars.Binary or column.dtype == polars.Object:
        raise fail(path, None, f"column {name} must hold texts or numbers, got {column.dtype}")
    texts: list[str | None] = column.cast(polars.String, strict=False).to_list()
    checked = []
    for row, text in enumerate(texts):
        if text is None or text == "":
            raise fail(path, _line(path, row), f"column {name} must not be empty, but is in row {row}")
        checked.append(text)
    return checked


def _numbers(polars: Any, path: Path, frame: Any, name: str) -> np.ndarray:
    column = _column(path, frame, name)
    if column.dtype.is_nested():
        raise fail(path, None, f"column {name} must hold numbers, got {column.dtype}")
    values: np.ndarray = column.cast(polars.Float64, strict=False).fill_null(float("nan")).to_numpy()
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        row = int(bad[0])
        raise fail(path, _line(path, row), f"column {name} must be a finite number, got {column[row]!r}")
    return values


def _times(polars: Any, path: Path, frame: Any, name: str) -> np.ndarray:
    column = _column(path, frame, name)
    if column.dtype == polars.String and column[:1].cast(polars.Float64, strict=False).null_count():
        return np.array([_seconds(path, row, name, text) for row, text in enumerate(column.to_list())])
    if column.dtype.is_temporal():
        column = column.cast(polars.Datetime("us"), strict=False).dt.timestamp("us").cast(polars.Float64) / 1e6
    return _numbers(polars, path, frame.with_columns(column.alias(name)), name)


def _seconds(path: Path, row: int, name: str, text: str | None) -> float:
    """Seconds since 1970 of an ISO date or time; one without a zone is taken as UTC."""
    try:
        moment = datetime.datetime.fromisoformat((text or "").replace("Z", "+00:00"))  # Python 3.10 knows no Z
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)).timestamp()
    except (ValueError, OverflowError) as error:
        raise fail(path, _line(path, row), f"column {name} must be a number or an ISO time, got {text!r}") from error
