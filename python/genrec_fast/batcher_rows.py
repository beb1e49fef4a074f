"""What a batcher groups: the users of concurrent calls, each with the call that waits for it."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from genrec_fast.base.batch import Question, Ranked
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Query
from genrec_fast.errors import TimedOutError

__all__ = ["Group", "Pass", "Request", "Row", "Stepwise"]


class Pass(Protocol):
    """A search that goes level by level."""

    @property
    def done(self) -> bool: ...
    def advance(self) -> None: ...
    def results(self, ks: Sequence[int]) -> list[Ranked]: ...


@runtime_checkable
class Stepwise(Protocol):
    """A decoder whose searches go level by level; the others answer a group in one go."""

    can_widen: bool

    def width(self, k: int, num_beams: int | None) -> int: ...
    def begin(
        self,
        backbone: Any,
        batch: Any,
        trie: Any,
        num_beams: int,
        *,
        allowed: Tensor | None = None,
        exclude: Jagged | None = None,
    ) -> Pass: ...


@dataclass
class Request:
    """One call: its rows are searched wherever there is room, and answered together."""

    future: Future[Ranked]
    deadline: float
    timeout: float | None
    found: list[Ranked | None]
    noticed: bool = False  # a cancellation was passed on to who waits for the future

    @property
    def over(self) -> bool:
        """Nobody waits for it any more."""
        return self.future.done()

    def notice(self) -> None:
        """Wakes those who wait for a future that was cancelled; for the worker alone."""
        if self.future.cancelled() and not self.noticed:
            self.noticed = True
            self.future.set_running_or_notify_cancel()

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled, or its time ran out meanwhile
            self.future.set_exception(error)
        self.notice()

    def answer(self, row: int, ranked: Ranked) -> None:
        self.found[row] = ranked
        parts = [part for part in self.found if part is not None]
        if len(parts) == len(self.found):
            whole = Ranked.cat([part.to("cpu") for part in parts])
            with contextlib.suppress(InvalidStateError):
                self.future.set_result(whole)
        self.notice()

    def expire(self) -> None:
        self.fail(TimedOutError(f"batcher: timeout must leave time for the answer, got {self.timeout} s"))


@dataclass
class Row:
    """One user of one request."""

    request: Request
    index: int  # in the request
    num_beams: int | None
    question: Question  # of one user
    query: Query
    alone: bool = False  # its group failed: it must not fail others again

    def key(self, stepwise: bool) -> Hashable:
        """Rows with equal keys may be searched together, each with the answer of a search of its own."""
        query = self.query
        shape = (query.allowed is None, self.question.timestamps is None, self.question.actions is None)
        # A search that is not ours to split may look at k and exact as it likes.
        return (
            (shape, self.num_beams)
            if stepwise
            else (shape, self.num_beams, query.k, query.exact, query.exclude is None)
        )


@dataclass
class Group:
    """Rows that are searched together."""

    rows: list[Row]
    search: Pass | None = field(default=None)
