"""How a command reads a data set and divides it: the same options for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from genrec_fast.cli.flags import in_flags
from genrec_fast.data import Dataset, Splits, leave_one_out, time_split
from genrec_fast.data import load as load_data

_LIMITS = {
    "validation_from": "the first of --time-split",
    "test_from": "the second of --time-split",
    "interactions": "--data, for --time-split,",
}


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How a data set is read, and what of it is a question: columns may have any names."""

    user: str | None = None
    """column of the users, where it has none of the names that are known (user, user_id, userId, ...)"""
    item: str | None = None
    """column of the items, where it has none of the names that are known (item, item_id, movieId, ...)"""
    timestamp: str | None = None
    """column of the times, if it has another name than timestamp"""
    rating: str | None = None
    """column of the ratings, if it has another name than rating"""
    title: str | None = None
    """column of the titles, in the file of items or of events"""
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """of times that are numbers; told by their size if not given"""
    min_rating: float | None = None
    """keep only events with at least this rating"""
    k_core: int | None = None
    """drop users and items with fewer events, until all have as many"""
    columns: tuple[str, ...] | None = None
    """names of all columns, for a table whose first line is an event"""
    separator: str | None = None
    """between the cells of a line; told by the file's name and first line if not given"""
    encoding: str | None = None
    """such as latin-1; UTF-8 if not given"""
    format: Literal["s3rec", "lcrec", "recbole", "table"] | None = None
    """told by the names of the files if not given"""
    time_split: tuple[str, str] | None = None
    """two limits, of validation and of test: dates (2014-06-01), shares of the events (80% 90%) or seconds; every
    user's last two events if not given"""

    def given(self) -> dict[str, Any]:
        """The options of ``data.load`` that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "time_split"}

    def load(self, source: Path, actions: Sequence[str] | None = None) -> Dataset:
        """``data.load`` with these options."""
        return load_data(source, actions=actions, **self.given())

    def splits(self, dataset: Dataset) -> Splits:
        """Training, validation and test."""
        if self.time_split is None:
            return leave_one_out(dataset.interactions)
        with in_flags(_LIMITS):
            return time_split(dataset.interactions, *self.time_split)


NO_OPTIONS = DataOptions()
