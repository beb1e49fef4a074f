"""Rows of a CSV file, each with its line in the file."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from genrec_fast.data.readers.lines import fail, read_text

_QUOTES = "a cell with a quote in it must be in quotes and have that quote twice"


def csv_rows(
    path: Path,
    *,
    delimiter: str = ",",
    quotes: bool = True,
    lines: Iterable[str] | None = None,
    begin: int = 1,
    width: int = 0,
) -> Iterator[tuple[int, list[str]]]:
    """The header and every row below it, each with the line it begins on; blank lines are left out.

    Cells are as RFC 4180 has them: one that begins with a quote ends with one, a quote inside is doubled, and what is
    between may run over several lines. A quote anywhere else is refused, as every reader makes something else of it:
    some take ``3" nails`` as it stands, others read on to the next quote, and rows vanish.

    Args:
        path: a UTF-8 file.
        delimiter: between the cells.
        quotes: false: a quote is a letter everywhere.
        lines: of the file from line ``begin`` on, without their line feeds; ``None``: the whole file.
        begin: see ``lines``.
        width: cells of a row; 0: as the first row has them.

    Raises:
        DataError: a stray quote, or a row of another width than the header, with file and line.
    """
    if lines is None:
        lines = read_text(path).removesuffix("\n").split("\n")
    record: list[str] = []  # the lines of one row

    def feed() -> Iterator[str]:
        for line in lines:
            record.append(line)
            yield line + "\n"

    reader = csv.reader(
        feed(), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE, strict=True
    )
    cell = rf'(?:"[^"]*(?:""[^"]*)*"|[^"{re.escape(delimiter)}]*)'
    quoted = re.compile(rf"{cell}(?:{re.escape(delimiter)}{cell})*\r?")
    while True:
        begin += len(record)
        record.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            hint = f"; {_QUOTES}" if record and '"' in record[0] else ""
            reason = str(error).partition(" - ")[0]  # behind it, advice to who wrote this
            if "new-line" in reason:
                reason = "a carriage return within a line; lines must end with a line feed (or both)"
            raise fail(path, begin, f"not {path.suffix[1:]}: {reason}{hint}") from error
        if cells is None:
            return
        if not cells or (width > 1 and len(cells) == 1 and not cells[0].strip()):
            continue
        width = width or len(cells)
        if quotes and '"' in record[0] and not quoted.fullmatch("\n".join(record)):
            raise fail(path, begin, f"a quote inside a cell, got {record[0].strip()[:80]!r}; {_QUOTES}")
        if len(record) > 1 and all(line.count(delimiter) == width - 1 for line in record):
            raise fail(
                path,
                begin,
                f"a quote is closed on line {begin + len(record) - 1} only, and each line up to it is a row; {_QUOTES}",
            )
        if len(cells) != width:
            raise fail(path, begin, f"must have {width} cells as the header, got {len(cells)}")
        yield begin, cells
