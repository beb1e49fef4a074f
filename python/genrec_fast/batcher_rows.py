"""What a batcher groups: the users of concurrent calls, each with the call that waits for it."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from genrec_fast.data import Evaluation
from genrec_fast.errors import TimedOutError
from genrec_fast.questions import question
from genrec_fast.types import Batch, Jagged, Ranked

__all__ = ["Group", "Pass", "Request", "Row", "Stepwise", "join_rows", "one_user"]


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
        batch: Batch,
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
            names = ("items", "codes", "scores", "exact", "bound")
            whole = Ranked(*(torch.cat([getattr(part, name).cpu() for part in parts]) for name in names))
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
    k: int
    num_beams: int | None
    exact: bool
    asked: Evaluation  # one row
    allowed: Tensor | None  # bool [N]
    exclude: Tensor | None  # int64 [n]
    alone: bool = False  # its group failed: it must not fail others again

    def key(self, stepwise: bool) -> Hashable:
        """Rows with equal keys may be searched together, each with the answer of a search of its own."""
        shape = (self.allowed is None, self.asked.timestamps is None, self.asked.actions is None)
        # A search that is not ours to split may look at k and exact as it likes.
        return (
            (shape, self.num_beams) if stepwise else (shape, self.num_beams, self.k, self.exact, self.exclude is None)
        )


@dataclass
class Group:
    """Rows that are searched together."""

    rows: list[Row]
    search: Pass | None = field(default=None)


def join_rows(rows: Sequence[Evaluation]) -> Batch:
    """One batch of questions that each have one row, all with times and actions, or none."""
    histories = Jagged.from_rows([row.histories.values for row in rows])
    times = [row.timestamps for row in rows if row.timestamps is not None]
    # A question that does not say when it is asked is asked at its last event; see ``question``.
    now = [row.timestamps[-1:] if row.target_timestamps is None else row.target_timestamps
           for row in rows if row.timestamps is not None]  # fmt: skip
    actions = [row.actions for row in rows if row.actions is not None]
    users = torch.cat([row.users for row in rows])
    return question(
        Evaluation(
            histories,
            users,
            users,
            torch.cat(times) if times else None,
            torch.cat(now) if times else None,
            torch.cat(actions) if actions else None,
        )
    )


def one_user(found: Ranked, row: int) -> Ranked:
    """The results of one user."""
    at = slice(row, row + 1)
    return Ranked(found.items[at], found.codes[at], found.scores[at], found.exact[at], found.bound[at])
