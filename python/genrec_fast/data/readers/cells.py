"""Lines of cells (CSV, tabs, ``::``) as parts of a table: quick where a block is plain, else cell by cell."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from genrec_fast.data.readers.blocks import Block, blocks
from genrec_fast.data.readers.csv_rows import csv_rows
from genrec_fast.data.readers.lines import fail
from genrec_fast.data.readers.table import Part, Table

_CHUNK = 1 << 16  # rows whose cells are Python objects at a time
_UNIT = b"\x1f"  # ASCII's separator of units, for separators of several letters


def open_cells(
    path: Path, *, separator: str | None = None, encoding: str | None = None, names: Sequence[str] | None = None
) -> Table:
    """A table of cells that are texts: names such as 007 stay what they are.

    Args:
        path: the file, packed by gzip or not.
        separator: between the cells; ``None``: by the file's name and first line.
        encoding: ``None``: UTF-8.
        names: of the columns, in a file without a header; columns behind the last name are not read.

    Raises:
        DataError: an empty file, two columns of one name, or one without cells for the names.
    """
    rest = blocks(path, encoding)
    block = next((block for block in rest if block.text.strip()), None)
    if block is None:
        raise fail(path, None, "the file is empty")
    first = block.text.lstrip(b"\r\n").partition(b"\n")[0].decode()
    form = _Form(path, separator or _separator(path, first), encoding)
    lines = _lines(form.singly(itertools.chain([block], rest)))
    reader = csv_rows(path, delimiter=form.delimiter, quotes=form.quotes, lines=lines, begin=block.line)
    line, cells = next(reader, (1, []))
    header = [cell.strip() for cell in cells]
    if names is None:
        below = next(reader, (None, []))[0]
        given = [name for name in header if name]  # spreadsheets write cells beyond the last column, pandas its index
        if len(set(given)) < len(given):
            raise fail(path, line, f"columns must have names of their own, got {', '.join(header)}")
    else:
        below, given = line, list(names)
        if len(header) < len(names):
            raise fail(path, line, f"must have a cell for each of {', '.join(names)}, got {len(header)}: {first[:80]}")
        header = [*names, *[""] * (len(header) - len(names))]

    def parts(wanted: Sequence[str]) -> Iterator[Part]:
        if below is None:
            return
        yield from form.parts(header, [header.index(name) for name in wanted], below)

    return Table(path, tuple(given), line if names is None else None, True, parts)


def _separator(path: Path, first: str) -> str:
    """Tabs in a .tsv, commas in a .csv that has some; else what the first line has, or has most of; else blanks."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".tsv" in suffixes or (".csv" in suffixes and "," in first):
        return "\t" if ".tsv" in suffixes else ","
    usual = ("\t",) if ".csv" in suffixes else ("::", "\t")
    most = max((",", ";", "|"), key=first.count)
    last = most if most in first or " " not in first.strip() else " "
    return next((one for one in usual if one in first), last)


class _Form:
    """How a file of cells is written."""

    def __init__(self, path: Path, separator: str, encoding: str | None) -> None:
        self.path, self.separator, self.encoding = path, separator.encode(), encoding
        self.delimiter = separator if len(self.separator) == 1 else _UNIT.decode()
        self.quotes = separator in (",", ";")  # elsewhere a quote is a letter: texts hold inches

    def singly(self, source: Iterable[Block]) -> Iterator[Block]:
        """The blocks, with a separator of one byte."""
        for block in source:
            if len(self.separator) == 1:
                yield block
            elif _UNIT in block.text:
                raise fail(self.path, None, f"must not hold the control character {_UNIT!r}")
            else:
                yield Block(block.text.replace(self.separator, _UNIT), block.line)

    def parts(self, header: list[str], wanted: list[int], below: int) -> Iterator[Part]:
        """From line ``below`` on."""
        source = self.singly(blocks(self.path, self.encoding))
        for block in source:
            if (block := _from_line(block, below)).text:
                part = self._quick(block, header, wanted)
                if part is None:  # and with it all that follow: a quoted cell may go on in the next block
                    yield from self._careful(_lines([block], source), block.line, header, wanted)
                    return
                if part.lines.size:
                    yield part

    def _quick(self, block: Block, header: list[str], wanted: list[int]) -> Part | None:
        """The block read by polars; ``None`` where a cell runs over lines, or a line is not as it should be."""
        width = len(header)
        text = block.text.replace(b"\r\n", b"\n")
        kept = None if width == 1 or b"\r" in text else _plain(text, ord(self.delimiter), width, self.quotes)
        if kept is None:
            return None
        if not kept.all():
            lines = text.split(b"\n")
            text = b"".join(lines[row] + b"\n" for row in np.flatnonzero(kept))
        numbers = np.flatnonzero(kept) + block.line
        if not numbers.size:
            return Part({}, numbers)
        at = sorted(wanted)  # the order in which every version of polars gives them
        frame = pl.read_csv(
            io.BytesIO(text),
            has_header=False,
            columns=at,
            separator=self.delimiter,
            quote_char='"' if self.quotes else None,
            infer_schema=False,
        )
        if frame.height != numbers.size:
            return None
        columns = dict(zip(at, frame.get_columns(), strict=True))
        return Part({header[place]: columns[place] for place in wanted}, numbers)

    def _careful(self, lines: Iterator[str], begin: int, header: list[str], wanted: list[int]) -> Iterator[Part]:
        """Cell by cell: rows kept, if only for a while, make Python's garbage collector most of the work."""
        columns: list[list[str]] = [[] for _ in wanted]
        numbers: list[int] = []

        def pack() -> Part:
            found = {
                header[place]: pl.Series(header[place], column, dtype=pl.String)
                for place, column in zip(wanted, columns, strict=True)
            }
            part = Part(found, np.array(numbers))
            for column in columns:
                column.clear()
            numbers.clear()
            return part

        rows = csv_rows(
            self.path, delimiter=self.delimiter, quotes=self.quotes, lines=lines, begin=begin, width=len(header)
        )
        for number, cells in rows:
            if any(map(str.strip, cells) if self.delimiter == "\t" else cells):  # else a blank line of a spreadsheet
                numbers.append(number)
                for column, place in zip(columns, wanted, strict=True):
                    column.append(cells[place])
                if len(numbers) == _CHUNK:
                    yield pack()
        if numbers:
            yield pack()


def _lines(*sources: Iterable[Block]) -> Iterator[str]:
    for block in itertools.chain(*sources):
        yield from (line.decode().removesuffix("\n") for line in io.BytesIO(block.text))


def _from_line(block: Block, line: int) -> Block:
    """What of the block stands on that line and below."""
    text, number = block.text, block.line
    while number < line and text:
        if number + text.count(b"\n") <= line:
            return Block(b"", line)
        text = text[text.index(b"\n") + 1 :]
        number += 1
    return Block(text, number)


def _plain(text: bytes, separator: int, width: int, quotes: bool) -> np.ndarray | None:
    """Bool per line, false where it is blank; ``None`` where one is no row of ``width`` cells as RFC 4180 has them."""
    raw = np.frombuffer(text, np.uint8)
    ends, breaks = np.flatnonzero(raw == ord("\n")), np.flatnonzero(raw == separator)
    if quotes and b'"' in text:
        marks = np.flatnonzero(raw == ord('"'))
        if marks.size % 2 or not _quoted(raw, marks, separator) or np.any(np.searchsorted(marks, ends) % 2):
            return None
        breaks = breaks[np.searchsorted(marks, breaks) % 2 == 0]
    starts = np.concatenate([[0], ends[:-1] + 1])
    counts = np.diff(np.searchsorted(breaks, ends), prepend=0)
    lengths = ends - starts
    kept: np.ndarray = (counts == width - 1) & (lengths > width - 1)
    if separator == ord("\t"):  # a line of white space is blank, however many tabs it has
        kept &= np.add.reduceat(raw > ord(" "), starts, dtype=np.int64) > 0
    for row in np.flatnonzero((counts != width - 1) & (lengths > 0)):
        if text[starts[row] : ends[row]].strip():
            return None
    return kept


def _quoted(raw: np.ndarray, marks: np.ndarray, separator: int) -> bool:
    """Whether each quote opens or closes a cell, or is one of a doubled one."""
    opening, closing = marks[::2], marks[1::2]
    before = np.where(opening > 0, raw[opening - 1], ord("\n"))
    after = raw[closing + 1]  # the text ends with a line feed
    doubled = opening[1:] == closing[:-1] + 1
    opens = (before == ord("\n")) | (before == separator)
    opens[1:] |= doubled
    closes = (after == ord("\n")) | (after == separator)
    closes[:-1] |= doubled
    return bool(opens.all() and closes.all())
