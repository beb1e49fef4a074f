"""Files of questions, read a window at a time and from any place: JSON lines, also gzipped, and Parquet."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.base.files import file_checksum

_MAX_LINE = 1 << 24  # bytes of a line; a longer one is an error of its own, not a failure of the machine
_CHUNK = 1 << 20
_TABLE_ROWS = 1 << 14  # read at once: a slice of a table reads whole pages, and the fewer slices the better
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Place:
    """Between two lines: how many were read, and how many bytes of the unpacked file (rows of a table)."""

    lines: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Survey:
    """What a file holds, by one pass over it."""

    checksum: str
    lines: int


class Source(Protocol):
    """Where questions come from."""

    def survey(self) -> Survey: ...
    def windows(self, size: int, start: Place) -> Iterator[tuple[list[tuple[int, Any]], Place]]:
        """From ``start`` on ``size`` numbered lines at a time, each with the place behind it.

        A line is a mapping, or the error that says why it is none.
        """
        ...


def is_table(path: str | Path) -> bool:
    """Whether a name says Parquet."""
    return str(path).lower().endswith((".parquet", ".pq"))


def open_questions(path: str) -> Source:
    """A file by the ending of its name; "-": JSON lines of the standard input.

    Raises:
        InvalidValueError: there is no such file, or it is a folder.
        DataError: a name that says Parquet, of a file that is not.
    """
    if path == "-":
        return JsonLines(None)
    file = Path(path)
    if file.is_dir():
        raise InvalidValueError(f"recommend: --input must be a file, got the folder {file}")
    if not file.exists():
        raise InvalidValueError(f"recommend: --input must be a file that is there, got {file}")
    return Table(file) if is_table(file) else JsonLines(file)


class Kept:
    """A file of questions that must stay as it was when the run began.

    Args:
        source: that reads it.
        path: of the file.

    Attributes:
        survey: what it holds.
    """

    def __init__(self, source: Source, path: str) -> None:
        self._source, self._path = source, Path(path)
        self._stamp = self._now()
        self.survey = source.survey()

    def _now(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def check(self) -> None:
        """All that was read until now was read from the file that was surveyed; cheap where nobody touched it.

        Raises:
            DataError: it was not.
        """
        now = self._now()
        if now == self._stamp:
            return
        if now is None or not self._same():
            raise DataError(
                f"recommend: --input must stay as it is while it is read, but {self._path} was changed; put it back "
                "and run the same command again, or give --no-resume to answer what stands there now"
            )
        self._stamp = now

    def _same(self) -> bool:
        try:
            return self._source.survey() == self.survey
        except DataError:
            return False


class JsonLines:
    """JSON lines, UTF-8; blank lines are passed over. A name that ends in .gz is gzipped.

    Args:
        path: ``None``: the standard input, which cannot be surveyed.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def survey(self) -> Survey:
        """SHA-256 of the unpacked bytes, and the number of their lines."""
        digest, lines, last = hashlib.sha256(), 0, b"\n"
        with self._open() as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                lines += chunk.count(b"\n")
                last = chunk[-1:]
        return Survey(digest.hexdigest(), lines + (last != b"\n"))

    def windows(self, size: int, start: Place) -> Iterator[tuple[list[tuple[int, Any]], Place]]:
        number, offset, part = start.lines, start.offset, list[tuple[int, Any]]()
        with self._open() as file:
            if offset:
                file.seek(offset)
            while line := file.readline(_MAX_LINE):
                number, offset = number + 1, offset + len(line)
                if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                    offset += _pass_over(file)
                    part.append((number, InvalidValueError(f"recommend: a line must be below {_MAX_LINE} bytes")))
                elif text := line.removeprefix(_BOM if number == 1 else b"").strip():
                    part.append((number, _read(text)))
                if len(part) == size:
                    yield part, Place(number, offset)
                    part = []
            if part:
                yield part, Place(number, offset)

    @contextlib.contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        if self._path is None:
            yield sys.stdin.buffer
            return
        packed = self._path.suffix.lower() == ".gz"
        try:
            with cast(IO[bytes], gzip.open(self._path) if packed else self._path.open("rb")) as file:
                yield file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"recommend: --input {self._path} must be gzipped and whole, got: {error}") from error


def _pass_over(file: IO[bytes]) -> int:
    """The rest of a line, which is not kept: its length."""
    length = 0
    while part := file.readline(_MAX_LINE):
        length += len(part)
        if part.endswith(b"\n"):
            break
    return length


def _read(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError, too
        reason = str(error).partition("\n")[0]
        return InvalidValueError(f"recommend: each line must be JSON in UTF-8 ({reason:.80})")


class Table:
    """Parquet with the fields of a line as columns: lists of texts or numbers, texts, numbers.

    Times may be dates with times, too: they become seconds.

    Raises:
        DataError: no Parquet.
    """

    def __init__(self, path: Path) -> None:
        import polars

        self._path, self._polars = path, polars
        try:
            self.schema: dict[str, Any] = dict(polars.scan_parquet(path).collect_schema())
        except (polars.exceptions.PolarsError, OSError) as error:
            raise DataError(f"recommend: --input {path} must be Parquet, got: {error!s:.200}") from error

    def survey(self) -> Survey:
        """SHA-256 of the file, and its rows."""
        (rows,) = self._read(self._polars.scan_parquet(self._path).select(rows=self._polars.len()))
        return Survey(file_checksum(self._path), rows["rows"])

    def windows(self, size: int, start: Place) -> Iterator[tuple[list[tuple[int, Any]], Place]]:
        """As ``Source``; a row's number counts from 1."""
        step = size * max(1, _TABLE_ROWS // size)
        at = start.offset
        while rows := self.rows(at, step):
            for begin in range(0, len(rows), size):
                part = rows[begin : begin + size]
                at += len(part)
                yield list(enumerate(part, start=at - len(part) + 1)), Place(at, at)

    def rows(self, begin: int, count: int) -> list[dict[str, Any]]:
        """``count`` rows, fewer at the end."""
        some = self._polars.scan_parquet(self._path).slice(begin, count)
        return self._read(some.with_columns(self._seconds()))

    def _read(self, rows: Any) -> list[dict[str, Any]]:
        try:
            return list(rows.collect().to_dicts())
        except (self._polars.exceptions.PolarsError, OSError) as error:
            raise DataError(f"recommend: --input {self._path} must be Parquet, got: {error!s:.200}") from error

    def _seconds(self) -> list[Any]:
        """Columns of dates with times as seconds since 1970."""
        polars, found = self._polars, []
        for name, kind in self.schema.items():
            column = polars.col(name)
            if isinstance(kind, (polars.Datetime, polars.Date)):
                found.append(column.cast(polars.Datetime("us")).dt.epoch("us") / 1e6)
            elif isinstance(kind, polars.List) and isinstance(kind.inner, (polars.Datetime, polars.Date)):
                times = column.cast(polars.List(polars.Datetime("us")))
                found.append(times.list.eval(polars.element().dt.epoch("us") / 1e6))
        return found
