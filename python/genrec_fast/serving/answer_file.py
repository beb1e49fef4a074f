"""The answers of many users, appended to a file a window at a time."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from genrec_fast.base.errors import CorruptFileError
from genrec_fast.base.files import atomic_path, storing
from genrec_fast.serving.question_file import Place, is_table
from genrec_fast.serving.unfinished import START_OVER, Unfinished

__all__ = ["AnswerFile", "Tally", "as_lines", "table_schema"]

_GROUP_BYTES = 1 << 26  # of JSON lines that become a group of rows of a table


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


def as_lines(answers: Sequence[dict[str, Any]]) -> bytes:
    """JSON lines, ASCII: a name that UTF-8 cannot carry must not break the file."""
    return "".join(f"{json.dumps(answer, allow_nan=False)}\n" for answer in answers).encode()


@dataclass(frozen=True)
class _State:
    """Behind a window: where the questions are gone on with, and how long the answers are."""

    place: Place = field(default_factory=Place)
    tally: Tally = field(default_factory=Tally)
    size: int = 0
    whole: bool = False


class AnswerFile:
    """JSON lines that grow by whole windows; at the end gzipped or Parquet where the output's name says so.

    Args:
        run: whose answers.
        mark_types: polars' types of ``id`` and ``user``, for Parquet.

    Raises:
        CorruptFileError: the answers of an earlier run are shorter than it noted.
    """

    def __init__(self, run: Unfinished, mark_types: Mapping[str, Any]) -> None:
        self._run, self._mark_types = run, mark_types
        self._path = run.folder / "answers"
        self._state = _read_state(run)
        there = self._path.stat().st_size if self._path.exists() else 0
        # Moved to the output's place, and ended before the folder was removed.
        self.whole = self._state.whole and not self._path.exists() and run.output.exists()
        if not self.whole and there < self._state.size:
            raise CorruptFileError(
                f"recommend: {self._path} must have the {self._state.size} bytes that were written, got {there}; "
                f"{START_OVER}"
            )
        self._packed = run.output.suffix.lower() == ".gz"
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
        text = as_lines(answers)
        data = gzip.compress(text, mtime=0) if self._packed else text  # members one after the other are one gzip file
        with storing(self._path, "recommend"):
            self._file.seek(self._state.size)
            self._file.truncate()  # what was written of a window before a kill
            left = memoryview(data)
            while left:  # a disk that becomes full takes a part
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        self._note(_State(place, self._state.tally + Tally.of(answers), self._state.size + len(data)))

    def _note(self, state: _State) -> None:
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
        if is_table(self._run.output):
            with atomic_path(self._run.output) as temporary:
                _write_table(self._path, temporary, self._mark_types)
            self._run.remove()
            return
        self._note(_State(self._state.place, self._state.tally, self._state.size, whole=True))
        self._run.finish(self._path)


def _read_state(run: Unfinished) -> _State:
    if not run.state:
        return _State()
    try:
        state = run.state
        return _State(Place(**state["place"]), Tally(**state["tally"]), int(state["size"]), bool(state["whole"]))
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
    parts.mkdir(exist_ok=True)
    rows = 0  # of the largest file: a group of rows in the end
    with lines.open("rb") as file:
        for number in itertools.count():
            some = file.readlines(_GROUP_BYTES)
            if not some and number:
                break
            part = polars.read_ndjson(b"".join(some), schema=schema) if some else polars.DataFrame(schema=schema)
            part.write_parquet(parts / f"{number:06}.parquet")
            rows = max(rows, len(some))
    polars.scan_parquet(parts / "*.parquet").sink_parquet(table, row_group_size=max(rows, 1))
