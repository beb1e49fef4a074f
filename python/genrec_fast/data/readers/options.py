"""How a data set is read: each option described once and checked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from genrec_fast.base.checks import real_number, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.data.readers.blocks import check_encoding
from genrec_fast.data.readers.times import check_time_unit

_NO_SEPARATOR = "\r\n\0\"'"
_COLUMNS = ("user", "item", "timestamp", "rating", "title")


class Options(TypedDict, total=False):
    """What ``data.load`` may be told; all but ``k_core`` and ``format`` is for tables and RecBole's files.

    ``user``: name of that column, where it is none of those that are known (docs/data.md); likewise ``item`` (in the
    file of items, too), ``timestamp`` (a file without such a column is taken to be in order, oldest first) and
    ``rating``.
    ``title``: name of the column of titles in the file of items; default: title, name and the like.
    ``min_rating``: keep only events whose rating is at least this.
    ``k_core``: drop users and items with fewer events than this, until all have as many.
    ``time_unit``: "s", "ms", "us" or "ns", of numbers that are times, which become seconds; default: told by their
    size, for moments between 1990 and 2100.
    ``actions``: what each event was, as rules over columns of numbers, such as ``("rating>=4", "rating>=5")``; they
    become ``interactions.actions``. "rating" is the column of ratings, whatever its name.
    ``columns``: names of all columns, for a table whose first line is an event.
    ``separator``: between the cells of a line; default: by the file's name and first line.
    ``encoding``: as Python calls it; default: UTF-8.
    """

    user: str | None
    item: str | None
    timestamp: str | None
    rating: str | None
    title: str | None
    min_rating: float | None
    k_core: int | None
    time_unit: Literal["s", "ms", "us", "ns"] | None
    actions: Sequence[str] | None
    columns: Sequence[str] | None
    separator: str | None
    encoding: str | None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """``Options``, checked; ``None`` where nothing was said.

    Raises:
        InvalidTypeError: the name of a column that is no text.
        InvalidValueError: an empty name, one column for two of them, an unknown unit or encoding.
    """

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    rating: str | None = None
    title: str | None = None
    min_rating: float | None = None
    k_core: int | None = None
    time_unit: str | None = None
    actions: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    separator: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        for field in (*_COLUMNS, "separator"):
            name = getattr(self, field)
            what = "a text" if field == "separator" else "the name of a column"
            if name is not None and not isinstance(name, str):
                raise InvalidTypeError(f"data.load: {field} must be {what}, got {name!r:.40}")
            if name == "":
                raise InvalidValueError(f"data.load: {field} must be {what}, got ''")
        if self.separator is not None and any(letter.isalnum() or letter in _NO_SEPARATOR for letter in self.separator):
            raise InvalidValueError(
                "data.load: separator must hold no letters, digits, quotes and line ends, such as ';' or '::', "
                f"got {self.separator!r:.40}"
            )
        if self.min_rating is not None:
            real_number("data.load", "min_rating", self.min_rating)
        check_time_unit(self.time_unit)
        check_encoding(self.encoding)
        if self.k_core is not None:
            whole_number("data.load", "k_core", self.k_core)
        if self.columns is not None:
            if not isinstance(self.columns, (list, tuple)) or not all(isinstance(name, str) for name in self.columns):
                raise InvalidTypeError(f"data.load: columns must be a list of names, got {self.columns!r:.80}")
            named = [name for name in self.columns if name]
            if not named or len(set(named)) < len(named):
                raise InvalidValueError(f"data.load: columns must be different names, got {list(self.columns)!r:.80}")

    @classmethod
    def of(cls, options: Options) -> Reading:
        """Raises InvalidTypeError for an option that there is not."""
        known = {field.name for field in dataclasses.fields(cls)}
        strange = next((name for name in options if name not in known), None)
        if strange is not None:
            raise InvalidTypeError(f"data.load: options must be of {', '.join(sorted(known))}, got {strange}")
        return cls(**options)

    def given(self) -> list[tuple[str, Any]]:
        """What was said."""
        fields = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return [(name, value) for name, value in fields if value is not None]
