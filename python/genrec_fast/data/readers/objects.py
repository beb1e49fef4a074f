"""JSON lines as parts of a table: an object a line, or, as some older sets have them, a Python dictionary a line."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_fast.base.checks import as_whole
from genrec_fast.data.readers.blocks import blocks
from genrec_fast.data.readers.categories import as_cell, is_category
from genrec_fast.data.readers.lines import fail
from genrec_fast.data.readers.table import Part, Table

_CHUNK = 1 << 16
_LOOKED_AT = 1000  # objects at the beginning whose keys are the columns: a key may be missing in some
_NESTED = ("items", "reviews", "events", "interactions")


def open_objects(path: Path, *, encoding: str | None = None) -> Table:
    """A table of objects; all values are texts, lists are joined by commas, and what an object lacks is "".

    Lists of categories keep their parts apart (``categories.as_cell``): names hold commas.

    An object that holds a list of objects under items, reviews, events or interactions is one row for each of them.

    Raises:
        DataError: an empty file, or a first line that is no object.
    """
    names: dict[str, None] = {}
    for _, row in zip(range(_LOOKED_AT), (row for _, row in _rows(path, encoding)), strict=False):
        names |= dict.fromkeys(row)
    if not names:
        raise fail(path, None, "the file is empty")

    def parts(wanted: Sequence[str]) -> Iterator[Part]:
        columns: list[list[str]] = [[] for _ in wanted]
        numbers: list[int] = []
        nested: dict[str, int] = {}

        def pack() -> Part:
            series = {}
            for name, cells in zip(wanted, columns, strict=True):
                try:
                    series[name] = pl.Series(name, cells, dtype=pl.String)
                except UnicodeEncodeError as error:  # half of a pair of surrogates
                    line = next(line for line, cell in zip(numbers, cells, strict=True) if cell == error.object)
                    raise fail(
                        path, line, f"column {name} holds a letter that is no text, got {error.object!r:.40}"
                    ) from error
            return Part(series, np.array(numbers), nested)

        for number, row in _rows(path, encoding):
            numbers.append(number)
            for name, column in zip(wanted, columns, strict=True):
                value = row.get(name)
                if isinstance(value, (list, tuple, dict)):
                    nested.setdefault(name, number)
                column.append((as_cell(value) if is_category(name) else None) or text_of(value))
            if len(numbers) == _CHUNK:
                yield pack()
                columns, numbers, nested = [[] for _ in wanted], [], {}
        if numbers:
            yield pack()

    return Table(path, tuple(names), 1, True, parts)


def text_of(value: object) -> str:
    """A value of JSON as a cell: 7.0 is 7, and what is missing, pandas' NaN included, is ""."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (list, tuple)):
        return ", ".join(text for part in value if (text := text_of(part)))
    if isinstance(value, dict):
        return json.dumps(value)
    return str(as_whole(value))


def _rows(path: Path, encoding: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    parse: Callable[[str], Any] | None = None
    for block in blocks(path, encoding):
        for number, line in enumerate(block.text.split(b"\n"), block.line):
            if not line.strip():
                continue
            text = line.decode()
            parse = parse or _kind(text)
            try:
                row = parse(text)
            except json.JSONDecodeError as error:
                hint = "; an object must stand on a line of its own" if text.strip() in ("[", "{", "[{") else ""
                raise fail(path, number, f"not JSON: {error.msg} (column {error.colno}){hint}") from error
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
                raise fail(path, number, f"neither JSON nor a Python dictionary: {text.strip()[:80]!r}") from error
            if not isinstance(row, dict):
                raise fail(path, number, f"must be an object, one a line, got {type(row).__name__}: {text[:80]!r}")
            nested = next((key for key in _NESTED if _are_objects(row.get(key))), None)
            if nested is None:
                yield number, row
                continue
            outer = {key: value for key, value in row.items() if key != nested}
            yield from ((number, outer | inner) for inner in row[nested])


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


def _kind(first: str) -> Callable[[str], Any]:
    """What reads the lines of a file, by its first one."""
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        try:
            ast.literal_eval(first.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return json.loads
        return lambda line: ast.literal_eval(line.strip())
    return json.loads
