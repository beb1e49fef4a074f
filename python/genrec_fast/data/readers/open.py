"""Any file of a table, opened by what it is: Parquet, objects a line, or lines of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import polars as pl

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.data.readers.blocks import blocks, usual_encoding
from genrec_fast.data.readers.cells import open_cells
from genrec_fast.data.readers.known import HEADERS, plain_name
from genrec_fast.data.readers.lines import fail
from genrec_fast.data.readers.objects import open_objects
from genrec_fast.data.readers.options import Reading
from genrec_fast.data.readers.table import Part, Table

_ROWS = 1 << 20  # of a Parquet file at a time
_LATIN = ("movies.dat", "u.item")  # published in latin-1 or in UTF-8, from set to set
_PLAIN = Reading()


def open_table(path: Path, reading: Reading = _PLAIN) -> Table:
    """The table of a file; ``reading`` gives its columns, separator and encoding, where they are not to be told.

    Raises:
        DataError: unreadable, empty or malformed.
        InvalidValueError: columns, a separator or an encoding for a file that has its own.
    """
    name = plain_name(path)
    own = next((names for pattern, names in HEADERS.items() if fnmatch(name, pattern)), None)
    encoding = reading.encoding or (usual_encoding(path) if name in _LATIN else None)
    if name.endswith(".parquet"):
        _refuse(path, reading, "columns", "separator", "encoding")
        return _open_parquet(path)
    if name.endswith((".json", ".jsonl", ".ndjson")) or _begins_with_a_brace(path, encoding):
        _refuse(path, reading, "columns", "separator")
        return open_objects(path, encoding=encoding)
    names = reading.columns or own
    if own is not None and reading.columns is None and name.endswith(".csv"):
        table = open_cells(path, separator=reading.separator, encoding=encoding)
        if not any(cell.isdigit() for cell in table.names):  # such a file with a header, as some share it
            return table
    return open_cells(path, separator=reading.separator, encoding=encoding, names=names)


def _refuse(path: Path, reading: Reading, *options: str) -> None:
    for option in options:
        if getattr(reading, option) is not None:
            raise InvalidValueError(
                f"data.load: {option} must be None for {path}, which says it itself, "
                f"got {getattr(reading, option)!r:.80}"
            )


def _begins_with_a_brace(path: Path, encoding: str | None) -> bool:
    first = next((block.text.lstrip() for block in blocks(path, encoding, 1 << 12) if block.text.strip()), b"")
    return first.startswith(b"{")


def _open_parquet(path: Path) -> Table:
    broken = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, OverflowError)

    def read(columns: list[str] | None, rows: int | None = None) -> pl.DataFrame:
        try:
            return pl.read_parquet(path, columns=columns, n_rows=rows, use_pyarrow=False)
        except broken as error:
            reason = " ".join(str(error).split())[:200]
            raise fail(path, None, f"polars cannot read it: {reason}") from error

    def parts(wanted: Sequence[str]) -> Iterator[Part]:
        begin = 0
        for frame in read(list(wanted)).iter_slices(_ROWS):
            if frame.height:
                columns = {name: frame.get_column(name) for name in wanted}
                yield Part(columns, np.arange(begin, begin + frame.height))
                begin += frame.height

    return Table(path, tuple(read(None, 0).columns), None, False, parts)
