"""The answers of many users, appended to a file a window at a time."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from genrec_fast.base.errors import CorruptFileError
from genrec_fast.base.files import storing
from genrec_fast.serving.question_file import Place, is_table
from genrec_fast.serving.unfinished import START_OVER, Unfinished

_GROUP_BYTES = 1 << 26  # of JSON lines that become a group of rows of a table
_NUMBER = re.compile(rb'"(id|user)": -?\d')
_HALF = re.compile(rb"\\ud[89a-f]", re.IGNORECASE)  # of a character as JSON has it; it may lack the other half


@dataclass(frozen=True)
class Tally:
    """What became of lines.

    Args:
        answered: lines with items.
        failed: lines with an error.
        first_error: what the first of these says; "" where there is none.
    """

    answered: int = 0
    failed: int = 0
    first_error: str = ""

    @property
    def lines(self) -> int:
        """All of them."""
        return self.answered + self.failed

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.answered + other.answered, self.failed + other.failed, self.first_error or other.first_error)

    @classmethod
    def of(cls, answers: Sequence[dict[str, Any]]) -> Tally:
        """Of answers, in their order."""
        errors = [answer for answer in answers if "error" in answer]
        first = "line {line}: {error}".format(**errors[0]) if errors else ""
        return cls(len(answers) - len(errors), len(errors), first)


def packed_lines(answers: Sequence[dict[str, Any]], path: str | Path) -> bytes:
    """JSON lines, ASCII: a name that UTF-8 cannot carry must not break the file; gzipped if ``path`` says so."""
    text = "".join(f"{json.dumps(answer, allow_nan=False)}\n" for answer in answers).encode()
    packed = str(path).lower().endswith(".gz")
    return gzip.compress(text, mtime=0) if packed else text  # members one after the other are one gzip file


def write_all(file: IO[bytes], data: bytes) -> None:
    """To a file without a buffer: a disk that becomes full takes a part, and so does a pipe."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


@dataclass(frozen=True)
class _State:
    """Behind a window: where the questions are gone on with, and how long the answers are.

    ``marks``: of ``id`` and ``user`` whether all until here were whole numbers of 64 bits ("number") or not ("text").
    """

    place: Place = field(default_factory=Place)
    tally: Tally = field(default_factory=Tally)
    size: int = 0
    marks: dict[str, str] = field(default_factory=dict)

    def behind(self, answers: Sequence[dict[str, Any]], place: Place, size: int) -> _State:
        """Behind some more answers."""
        marks = dict(self.marks)
        for answer in answers:
            for name in answer.keys() & ("id", "user"):
                number = isinstance(answer[name], int) and -(2**63) <= answer[name] < 2**63
                marks[name] = "number" if number and marks.get(name) != "text" else "text"
        return _State(place, self.tally + Tally.of(answers), self.size + size, marks)


class AnswerFile:
    """JSON lines that grow by whole windows; at the end gzipped or Parquet where the output's name says so.

    Args:
        run: whose answers.
        mark_types: polars' types of ``id`` and ``user``, for Parquet; what it does not say is as the answers have it.

    Raises:
        CorruptFileError: the answers of an earlier run are shorter than it noted.
    """

    def __init__(self, run: Unfinished, mark_types: Mapping[str, Any]) -> None:
        self._run, self._mark_types = run, mark_types
        self._path = run.folder / "answers"
        self._state = _read_state(run)
        there = self._path.stat().st_size if self._path.exists() else 0
        self.whole = run.moved
        if not self.whole and there < self._state.size:
            raise CorruptFileError(
                f"recommend: {self._path} must have the {self._state.size} bytes that were written, got {there}; "
                f"{START_OVER}"
            )
        self._file = None if self.whole else self._opened()

    def _opened(self) -> IO[bytes]:
        """Unbuffered: what a full disk refuses is not tried again when the file is closed."""
        with storing(self._path, "recommend"):
            return self._path.open("r+b" if self._path.exists() else "w+b", buffering=0)

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def place(self) -> Place:
        """Behind the last line that was answered."""
        return self._state.place

    @property
    def tally(self) -> Tally:
        return self._state.tally

    def append(self, answers: Sequence[dict[str, Any]], place: Place) -> None:
        """One window, on disk when this returns; ``place`` is behind its last line."""
        assert self._file is not None
        data = packed_lines(answers, self._run.output)
        with storing(self._path, "recommend"):
            self._file.seek(self._state.size)
            self._file.truncate()  # what was written of a window before a kill
            write_all(self._file, data)
            os.fsync(self._file.fileno())
        state = self._state.behind(answers, place, len(data))
        self._run.note(asdict(state))
        self._state = state

    def finish(self) -> None:
        """Puts the answers in the output's place."""
        if self._file is None:
            self._run.remove()
            return
        with storing(self._path, "recommend"):
            self._file.truncate(self._state.size)
            self._file.close()
        self._run.finish(self._table() if is_table(self._run.output) else self._path)

    def _table(self) -> Path:
        """The answers as Parquet, on disk."""
        import polars

        numbers = {name: polars.Int64 for name, kind in self._state.marks.items() if kind == "number"}
        table = self._path.with_name("table.parquet")
        with storing(table, "recommend"):
            _write_table(self._path, table, {**numbers, **self._mark_types})
            with table.open("rb+") as written:
                os.fsync(written.fileno())
        return table


def _read_state(run: Unfinished) -> _State:
    if not run.state:
        return _State()
    try:
        state = run.state
        return _State(Place(**state["place"]), Tally(**state["tally"]), int(state["size"]), dict(state["marks"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(
            f"recommend: {run.folder / 'state.json'} must be as it was written, got {error!r:.80}; {START_OVER}"
        ) from error


def table_schema(mark_types: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of answers in Parquet: polars' types; ``id`` and ``user`` are texts if not in ``mark_types``."""
    import polars

    item = {"item": polars.String, "id": polars.Int64, "score": polars.Float64, "title": polars.String}
    return {
        "id": polars.String,
        "user": polars.String,
        **mark_types,
        "items": polars.List(polars.Struct(item)),
        "exact": polars.Boolean,
        "bound": polars.Float64,
        "basis": polars.String,
        "skipped": polars.Int64,
        "line": polars.Int64,
        "error": polars.String,
    }


def _write_table(lines: Path, table: Path, mark_types: Mapping[str, Any]) -> None:
    """JSON lines as Parquet, in memory that does not grow with them: files of some rows each, then all in one."""
    import polars

    schema, parts = table_schema(mark_types), lines.with_name("parts")
    texts = [name for name in ("id", "user") if schema[name] == polars.String]
    parts.mkdir(exist_ok=True)
    rows = 0  # of the largest file: a group of rows in the end
    with lines.open("rb") as file:
        for number in itertools.count():
            some = file.readlines(_GROUP_BYTES)
            if not some and number:
                break
            part = (
                polars.read_ndjson(b"".join(_plain(line, texts) for line in some), schema=schema)
                if some
                else polars.DataFrame(schema=schema)
            )
            part.write_parquet(parts / f"{number:06}.parquet")
            rows = max(rows, len(some))
    polars.scan_parquet(parts / "*.parquet").sink_parquet(table, row_group_size=max(rows, 1))


def _plain(line: bytes, texts: Collection[str]) -> bytes:
    """A JSON line as every polars reads it: of the marks in columns of ``texts``, numbers are texts, too.

    Halves of characters, which UTF-8 cannot carry, become U+FFFD.
    """
    # Items have ids, too; a line without items is searched to its end (-1).
    numbered = texts and _NUMBER.search(line, 0, line.find(b'"items"') % len(line))
    if not numbered and not _HALF.search(line):
        return line
    answer = json.loads(line)
    answer |= {name: str(answer[name]) for name in texts if isinstance(answer.get(name), int)}
    text = json.dumps(answer, ensure_ascii=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode() + b"\n"
