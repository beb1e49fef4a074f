"""What a training reports: JSON lines, a progress bar or a line now and then."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from genrec_fast.base.errors import CorruptFileError
from genrec_fast.base.files import atomic_path, storing

LINE_SECONDS = 30.0  # between two lines where there is no terminal


class Log:
    """``log.jsonl``: one JSON object per line, appended; a resumed run first cuts off what its checkpoint had not seen.

    Args:
        path: the file; ``None``: nothing is written.
        keep_bytes: length that the checkpoint knew.
        checksum: of these bytes; "": not known.
        check: called before each write.

    Raises:
        CorruptFileError: the file is not what it was when the checkpoint was written: edited, cut short, or written in
            another encoding. Nothing is changed then.
        StorageError: it cannot be written.
    """

    def __init__(
        self,
        path: Path | None,
        keep_bytes: int = 0,
        checksum: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self.size, self._check = path, 0, check
        self._digest = hashlib.sha256()
        if path is None:
            return
        kept = path.read_bytes()[:keep_bytes] if path.exists() and keep_bytes else b""
        self._digest.update(kept)
        whole = len(kept) == keep_bytes and kept.endswith(b"\n") and checksum in ("", self.checksum)
        if kept and not whole:
            raise CorruptFileError(
                f"Log: {path} was altered since the checkpoint was written; put it back as it was, or move it away: "
                "the training goes on from its checkpoint, and a new log begins"
            )
        with atomic_path(path) as temporary:
            temporary.write_bytes(kept)
        self.size = len(kept)

    @property
    def checksum(self) -> str:
        """SHA-256 of all that was written, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, **entry: Any) -> None:
        """Appends one line, in one write.

        Raises:
            StorageError: it cannot be written.
        """
        if self.path is None:
            return
        line = (json.dumps(entry) + "\n").encode()
        self._check()
        with storing(self.path, "log"), self.path.open("ab") as file:
            file.write(line)
        self._digest.update(line)
        self.size += len(line)

    def sync(self) -> None:
        """Waits until all lines are on disk: a checkpoint must not know of lines that a crash of the machine takes."""
        if self.path is not None and self.path.exists():
            with storing(self.path, "log"), self.path.open("rb+") as file:
                os.fsync(file.fileno())


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """All entries of a ``log.jsonl``; a last line that was cut off by a kill is left out.

    Raises:
        CorruptFileError: naming the line that is no JSON, or not in UTF-8.
    """
    entries = []
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entries.append(json.loads(line.decode("utf-8")))
        except ValueError as error:
            raise CorruptFileError(f"read_log: {path}:{number} is not JSON ({error})") from error
    return entries


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Bar:
    """A bar of rich, while it is entered.

    Args:
        show: false: silent.
    """

    def __init__(self, show: bool) -> None:
        self._show = show
        self._bar: Any = None  # rich's, on a terminal
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class ProgressBar(_Bar):
    """A bar with the time left on a terminal; elsewhere a line every half minute; or nothing.

    Args:
        total_steps: planned optimizer steps.
        epochs: planned epochs.
        max_minutes: the hard stop, or ``None``.
        show: false: silent.
    """

    def __init__(self, total_steps: int, epochs: int, max_minutes: float | None, show: bool) -> None:
        super().__init__(show)
        self._total, self._epochs, self._limit = total_steps, epochs, max_minutes
        self._task: Any = None
        self._first: tuple[int, float] | None = None
        if show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=False)
            self._task = self._bar.add_task("training", total=total_steps, note="")

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif self._show:
            print(text, file=sys.stderr, flush=True)

    def left(self, step: int, elapsed: float) -> float:
        """Seconds left, from the pace since this run began; at most what the hard stop leaves."""
        if self._first is None:
            self._first = (step, elapsed)
        steps, seconds = step - self._first[0], elapsed - self._first[1]
        left = (self._total - step) * seconds / steps if steps else float("inf")
        return left if self._limit is None else min(left, max(0.0, 60.0 * self._limit - elapsed))

    def update(self, step: int, epoch: int, loss: float | None, elapsed: float) -> None:
        """After every step."""
        left = self.left(step, elapsed)
        if not self._show:
            return
        time_left = "" if left == float("inf") else f"{_clock(left)} left"
        figure = "" if loss is None else f"loss {loss:.4f}  "
        if self._bar is not None:
            note = f"epoch {epoch + 1}/{self._epochs}  {figure}{time_left}"
            self._bar.update(self._task, completed=step, note=note)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(
                f"epoch {epoch + 1}/{self._epochs}  step {step}/{self._total}  {figure}"
                f"{_clock(elapsed)} done  {time_left}"
            )


class StageBar(_Bar):
    """Shows what happens before a training: a bar for each thing done on a terminal, elsewhere a line now and then.

    Call it with (what is done, steps done, steps in all, figures), as tokenizers do.

    Args:
        show: false: silent.
    """

    def __init__(self, show: bool) -> None:
        super().__init__(show)
        self._tasks: dict[str, Any] = {}
        self._begun: dict[str, tuple[int, float]] = {}
        if show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            note = TextColumn("{task.fields[note]}")
            self._bar = Progress(*columns, note, console=Console(stderr=True), transient=True)

    def __call__(self, what: str, done: int, total: int, figures: dict[str, float]) -> None:
        note = "  ".join(f"{name} {value:.4g}" for name, value in list(figures.items())[:4])  # as a line has room
        first, begun = self._begun.setdefault(what, (done, time.monotonic()))
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total or None, completed=done, note="")
            self._bar.update(self._tasks[what], completed=done, total=total or None, note=note)
        elif self._show and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            left = (self._last_line - begun) * (total - done) / (done - first) if done > first else 0.0
            end = f"/{total}  {note}  {_clock(left)} left" if total else f"  {note}"
            print(f"{what}  {done}{end}", file=sys.stderr, flush=True)
