"""What the columns of a table are called, where they have names of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from genrec_fast.base.errors import DataError, InvalidTypeError, InvalidValueError
from genrec_fast.data.readers.lines import fail

__all__ = ["Columns", "no_column"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns; ``None``: the format's own.

    Raises:
        InvalidTypeError: a name that is no text.
        InvalidValueError: an empty name.
    """

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    rating: str | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        for field, name in self.given():
            if not isinstance(name, str):
                raise InvalidTypeError(f"data.load: {field} must be the name of a column, got {name!r:.40}")
            if not name:
                raise InvalidValueError(f"data.load: {field} must be the name of a column, got ''")

    def of_events(self, user: str, item: str) -> tuple[str, str, str, str]:
        """Columns of users, items, times and ratings, with the format's own names of the first two.

        Raises:
            InvalidValueError: one column for two of them.
        """
        names = (
            self.user or user,
            self.item or item,
            self.timestamp or "timestamp",
            self.rating or "rating",
        )
        if len(set(names)) < len(names):
            raise InvalidValueError(
                f"data.load: user, item, timestamp and rating must be different columns, got {', '.join(names)}"
            )
        return names

    def given(self) -> list[tuple[str, str]]:
        """The names that are not the format's own, by what they name."""
        fields = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return [(field, name) for field, name in fields if name is not None]


def no_column(path: Path, line: int | None, name: str, found: Iterable[str], option: str | None) -> DataError:
    """The complaint about a column that is not there; ``option`` is the one that could name another."""
    hint = "" if option is None else f"; {option} (--{option.replace('_', '-')}) names another"
    return fail(path, line, f"must have a column {name}, got {', '.join(found)}{hint}")
