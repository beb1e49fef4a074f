"""A file of named columns, whatever it is written in: opened once for its names, then read in parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec_fast.base.checks import WHOLE_FLOATS
from genrec_fast.base.errors import DataError
from genrec_fast.data.readers.categories import as_cell, as_text, is_category
from genrec_fast.data.readers.lines import fail

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class Part:
    """Some rows of a table."""

    columns: dict[str, polars.Series]
    """texts, or in Parquet whatever the file has"""
    lines: np.ndarray
    """int64: the line of each row in the file, or in Parquet its number from 0"""
    nested: dict[str, int] = dataclasses.field(default_factory=dict)
    """columns of JSON in which a list or an object stands, and the first line with one"""


@dataclass(frozen=True)
class Table:
    """A file whose columns have names.

    Args:
        path: of the file.
        names: of its columns.
        header: the line of the names; ``None``: not from a line.
        has_lines: false in Parquet, where rows have numbers from 0.
        parts: reads the columns of some names, all rows in order; no part is empty.
    """

    path: Path
    names: tuple[str, ...]
    header: int | None
    has_lines: bool
    parts: Callable[[Sequence[str]], Iterator[Part]] = dataclasses.field(repr=False)

    def fail(self, line: int, reason: str) -> DataError:
        """A complaint about a row, by its line or, in Parquet, its number."""
        return fail(self.path, line, reason) if self.has_lines else fail(self.path, None, f"{reason} (row {line})")

    def check_column(self, name: str, option: str | None) -> str:
        """The name, if there is such a column; ``option`` is the one that could name another.

        Raises:
            DataError: there is none.
        """
        if name not in self.names:
            hint = "" if option is None else f"; {option} (--{option.replace('_', '-')}) names another"
            if option is not None and _is_number(self.names):
                hint += "; if the first line is an event, columns (--columns user item ...) names them all"
            raise fail(self.path, self.header, f"must have a column {name}, got {', '.join(self.names)[:200]}{hint}")
        return name

    def words(self, part: Part, name: str) -> polars.Series:
        """A column as texts, "" where there is nothing.

        Raises:
            DataError: it holds lists or bytes.
        """
        import polars as pl

        column = part.columns[name]
        if column.dtype == pl.String:
            texts: polars.Series = column.fill_null("")
            return pl.Series(name, map(as_text, texts.to_list()), dtype=pl.String) if is_category(name) else texts
        if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
            raise fail(self.path, None, f"column {name} must hold texts or numbers, got {column.dtype}")
        if column.dtype.is_float():  # how pandas writes what is missing
            whole = (column.floor() == column) & (column.abs() < WHOLE_FLOATS)
            named = column.cast(pl.Int64, strict=False).cast(pl.String)
            texts = named.zip_with(whole, column.fill_nan(None).cast(pl.String))
        else:
            texts = column.cast(pl.String, strict=False)
        return texts.fill_null("")

    def cells(self, part: Part, name: str) -> list[str]:
        """A column as texts or, where it holds lists, as cells of ``categories.as_cell``.

        Raises:
            DataError: it holds bytes.
        """
        import polars as pl

        column = part.columns[name]
        if isinstance(column.dtype, (pl.List, pl.Array)):
            return [as_cell(value) or "" for value in column.to_list()]
        return column.fill_null("").to_list() if column.dtype == pl.String else self.words(part, name).to_list()

    def keys(self, part: Part, name: str) -> polars.Series:
        """A column of texts of which none is empty.

        Raises:
            DataError: one is, or is a list or an object, naming its line.
        """
        if name in part.nested:
            raise self.fail(part.nested[name], f"column {name} must hold texts or numbers, got a list or an object")
        texts = self.words(part, name)
        empty = texts == ""
        if empty.any():
            raise self.fail(int(part.lines[empty.arg_max() or 0]), f"column {name} must not be empty")
        return texts

    def numbers(self, part: Part, name: str) -> np.ndarray:
        """A column as finite float64.

        Raises:
            DataError: something is no finite number, naming its line.
        """
        import polars as pl

        column = part.columns[name]
        if column.dtype.is_nested():
            raise fail(self.path, None, f"column {name} must hold numbers, got {column.dtype}")
        values: np.ndarray = column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            row = int(bad[0])
            got: Any = column[row]
            got = "" if got is None and column.dtype == pl.String else got
            raise self.fail(int(part.lines[row]), f"column {name} must be a finite number, got {got!r:.40}")
        return values


def _is_number(names: Sequence[str]) -> bool:
    """Whether what stands where names should is cells of an event."""
    return sum(name.replace(".", "", 1).isdigit() for name in names) >= 2
