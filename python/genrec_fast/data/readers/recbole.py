"""RecBole's atomic files: ``.inter`` and ``.item``, tab separated, with a typed header ``name:type``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.data.interactions import Dataset, Interactions
from genrec_fast.data.readers.actions import read_actions
from genrec_fast.data.readers.columns import Columns, no_column
from genrec_fast.data.readers.lines import (
    PUBLISHED,
    VECTORS,
    agree,
    codes_by_number,
    fail,
    find_one,
    numbered_lines,
    read_vectors,
)
from genrec_fast.data.readers.times import to_seconds

__all__ = ["LOOKS_FOR", "find", "ordered_events", "read"]

LOOKS_FOR = "*.inter (tab separated, header `user_id:token item_id:token ...`; beside it *.item)"
TYPES = ("token", "token_seq", "float", "float_seq")


def find(folder: Path) -> Path | None:
    """The file of interactions, if this folder has this format."""
    return find_one(folder, ("*.inter",))


def read(
    folder: Path,
    path: Path,
    *,
    columns: Columns,
    time_unit: str | None = None,
    min_rating: float | None = None,
    actions: Sequence[str] | None = None,
) -> Dataset:
    """Reads events (sorted by time, ties in the order of the file), and beside them items, vectors, semantic IDs.

    ``item_embeddings*.npy`` and ``semantic_ids*.json`` (keys from 0) follow the lines of the ``.item`` file.

    Args:
        folder: where the files are.
        path: the ``.inter`` file.
        columns: names in place of user_id, item_id, timestamp, rating, and of the title that ``_title_of`` finds.
        time_unit: of the times, see ``to_seconds``.
        min_rating: keep only events whose rating is at least this.
        actions: rules over the columns of the ``.inter`` file, such as "rating>=4".

    Raises:
        DataError: a malformed line or file, or files that disagree about the items.
        InvalidValueError: min_rating without a column of ratings, a unit of times that are not there, or a column of
            titles without a file of items.
    """
    table = _read(path)
    user, item, timestamp, rating = columns.of_events("user_id", "item_id")
    users, names = table.names(user, "user"), table.names(item, "item")
    times = None
    if columns.timestamp is not None or timestamp in table.types:
        found = np.array(table.numbers(timestamp, "timestamp"))
        times = to_seconds(path, found, time_unit, table.lines.__getitem__)
    elif time_unit is not None:
        raise InvalidValueError(f"data.load: time_unit must be None, as {path} has no column timestamp")
    if columns.rating is not None:
        table.column(rating, "rating")
    kept = list(range(len(users)))
    if min_rating is not None:
        if rating not in table.types:
            raise InvalidValueError(f"data.load: min_rating must be None, as {path} has no column {rating}")
        ratings = table.numbers(rating)
        kept = [i for i in kept if ratings[i] >= min_rating]
        if not kept:
            raise InvalidValueError(f"data.load: min_rating must leave some events, got {min_rating} which leaves none")

    counts: dict[Path, int] = {}
    titles = attributes = features = item_codes = None
    if (described := find_one(folder, (f"{path.stem}.item", "*.item"))) is not None:
        items = _read(described)
        item_ids = items.names(item, "item")
        counts[described] = len(item_ids)
        known = {name: i for i, name in enumerate(item_ids)}
        if len(known) < len(item_ids):
            twice = next(i for i, name in enumerate(item_ids) if known[name] != i)
            raise fail(described, items.lines[twice], f"item {item_ids[twice]!r} stands on several lines")
        for row, name in enumerate(names):
            if name not in known:
                raise fail(path, table.lines[row], f"item {name!r} is not in {described.name}")
        title = columns.title or _title_of({name: kind for name, kind in items.types.items() if name != item})
        titles = items.column(title, "title") if title else None
        others = [name for name in items.types if name not in (item, title)]
        attributes = [" | ".join(row) for row in zip(*(items.column(name) for name in others), strict=True)] or None
    else:
        if columns.title is not None:
            raise InvalidValueError(f"data.load: title must be None, as {folder} has no *.item file")
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

    def numbers(name: str) -> list[float]:
        return table.numbers(rating, "rating") if name == "rating" else table.numbers(name)

    interactions = ordered_events(
        [users[i] for i in kept],
        np.fromiter((known[names[i]] for i in kept), dtype=np.int64, count=len(kept)),
        None if times is None else times[kept],
        item_ids,
        actions,
        None if actions is None else read_actions(actions, numbers)[kept],
    )
    return Dataset(path.stem or folder.name, interactions, titles, attributes, features, item_codes)


def ordered_events(
    users: list[str],
    items: np.ndarray,
    times: np.ndarray | None,
    item_ids: list[str],
    action_names: Sequence[str] | None = None,
    actions: np.ndarray | None = None,
) -> Interactions:
    """Events in any order to one row per user (by first appearance), each sorted by time; ties keep their order."""
    user_ids = list(dict.fromkeys(users))
    row_of = {name: row for row, name in enumerate(user_ids)}
    rows = np.fromiter((row_of[name] for name in users), dtype=np.int64, count=len(users))
    order = np.argsort(rows, kind="stable") if times is None else np.lexsort((times, rows))
    lengths = torch.from_numpy(np.bincount(rows, minlength=len(user_ids)))
    timestamps = None if times is None else torch.from_numpy(times[order].astype(np.float64))
    return Interactions(
        Jagged.from_lengths(torch.from_numpy(items[order]), lengths),
        timestamps,
        user_ids,
        item_ids,
        None if actions is None else torch.from_numpy(actions[order]),
        tuple(action_names or ()),
    )


@dataclass(frozen=True)
class _Table:
    path: Path
    types: dict[str, str]
    rows: list[list[str]]
    lines: list[int]
    """of each row"""
    header: int
    """its line"""

    def column(self, name: str, option: str | None = None) -> list[str]:
        if name not in self.types:
            raise no_column(self.path, self.header, name, self.types, option)
        at = list(self.types).index(name)
        return [row[at] for row in self.rows]

    def names(self, name: str, option: str) -> list[str]:
        """A column in which no cell is empty."""
        texts = self.column(name, option)
        if "" in texts:
            raise fail(self.path, self.lines[texts.index("")], f"column {name} must not be empty")
        return texts

    def numbers(self, name: str, option: str | None = None) -> list[float]:
        out = []
        for line, text in zip(self.lines, self.column(name, option), strict=True):
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise fail(self.path, line, f"{name} must be a finite number, got {text[:40]!r}")
            out.append(value)
        return out


def _read(path: Path) -> _Table:
    """Quotes are letters here; blank lines are left out, as are rows of empty fields."""
    lines = ((number, line) for number, line in enumerate(numbered_lines(path), 1) if line.strip())
    types: dict[str, str] = {}
    header, first = next(lines, (1, ""))
    for field in first.split("\t"):
        name, _, kind = field.partition(":")
        if kind not in TYPES or not name or name in types:
            raise fail(
                path,
                header,
                f"a column of the header must be name:type with type {'|'.join(TYPES)}, got {field[:40]!r}",
            )
        types[name] = kind
    rows, numbers = [], []
    for number, line in lines:
        row = line.split("\t")
        if len(row) != len(types):
            raise fail(path, number, f"must have {len(types)} tab-separated fields, got {len(row)}")
        rows.append(row)
        numbers.append(number)
    if not rows:
        raise fail(path, None, "has a header but no lines")
    return _Table(path, types, rows, numbers, header)


def _title_of(types: dict[str, str]) -> str | None:
    """The column a person would read: one called title or name, else the first of words."""
    for word in ("title", "name"):
        for name in types:
            if word in name.lower():
                return name
    return next((name for name, kind in types.items() if kind == "token_seq"), None)
