"""What a batcher groups: the users of concurrent calls, each with the call that waits for it."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from torch import Tensor

from genrec_fast.base.batch import Question, Ranked
from genrec_fast.base.errors import TimedOutError
from genrec_fast.base.query import Query
from genrec_fast.decoders.base import Decoder, Pass


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
    question: Question  # of one user
    query: Query
    alone: bool = False  # its group failed: it must not fail others again

    def key(self, decoder: Decoder) -> Hashable:
        """Rows with equal keys may share a pass, each with the answer of a pass of its own."""
        query, question = self.query, self.question
        beams = tuple(query.num_beams.tolist()) if isinstance(query.num_beams, Tensor) else query.num_beams
        # How far an exact search must widen depends on k.
        everything = query.allowed is None and query.candidates is None
        shape = (everything, question.timestamps is None, question.actions is None, query.seed)
        exact = query.exact, (query.exact or decoder.by_k) and query.k
        return (
            (shape, beams, exact) if decoder.by_level else (shape, beams, query.k, query.exact, query.exclude is None)
        )


@dataclass
class Group:
    """Rows that share a pass."""

    rows: list[Row]
    search: Pass | None = None
    answered: set[int] = field(default_factory=set)
    """places of rows"""

    @property
    def left(self) -> list[Row]:
        """Those that have no answer yet."""
        return [row for place, row in enumerate(self.rows) if place not in self.answered]
