"""Many threads ask, one search answers: concurrent questions are grouped, and new ones start while others run."""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from genrec_fast.base.batch import Question, Ranked
from genrec_fast.base.checks import whole_number
from genrec_fast.base.errors import (
    ClosedError,
    GenrecError,
    InvalidTypeError,
    InvalidValueError,
    QueueFullError,
    TimedOutError,
)
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import NO_LIMITS, Limits, Options, Query, ask
from genrec_fast.recipe.basis import based
from genrec_fast.recipe.requests import Group, Request, Row
from genrec_fast.recipe.system import System

# Logits of one group at its widest: 2^26 float32 are 256 MiB.
_GROUP_LOGITS = 1 << 26
# What parts raise when a question does not suit them; anything else ends the worker, and with it every question.
_FAILURES = (
    GenrecError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Counts:
    """Where a batcher stands: rows (users) that wait and that are searched, groups in flight, rows ever searched."""

    waiting: int
    running: int
    groups: int
    searched: int
    closed: bool


class Batcher:
    """Answers ``recommend`` for many threads at once, each with the answer it would get alone.

    One worker thread owns the model. A search over a trie takes L levels; after every level of what runs, the questions
    that came meanwhile begin as a group of their own, so nobody waits for another search to end. Every turn advances
    each group by one level. Questions with equal ``num_beams`` and filters of a kind share a group, whatever their k,
    lists and histories. Decoders that score items in one go are asked once per group.

    Args:
        model: who answers.
        max_waiting: users that may wait; one more raises ``QueueFullError``.
        max_running: users that are searched at once, over all groups: a matter of memory.
        timeout: seconds that a question may take where it does not say itself; ``None``: as long as it takes.
        limits: how much one question may ask for; as much as memory holds if not given.
        on_group: called by the worker with the number of users of each group that begins (for metrics); it must not
            raise.

    Raises:
        InvalidValueError: a setting below 1, a timeout that is not above 0.

    Notes:
        Equal bit for bit where the backbone's numbers do not depend on who else is in the batch, else up to rounding.
        A question that fails in a group is searched again alone, and so are its companions. A question whose time ran
        out leaves at the end of the level; its group ends early when nobody waits for it. ``close`` (or leaving the
        ``with`` block) ends the worker.

    Source: iteration-level scheduling: Orca (Yu et al., OSDI 2022); grouping by level is ours.

    Example:
        ``with model.batcher() as batcher: batcher.recommend([[3, 14]], 10, timeout=0.2)``
    """

    def __init__(
        self,
        model: System,
        *,
        max_waiting: int = 1024,
        max_running: int = 256,
        timeout: float | None = None,
        limits: Limits = NO_LIMITS,
        on_group: Callable[[int], None] | None = None,
    ) -> None:
        for name, value in (("max_waiting", max_waiting), ("max_running", max_running)):
            whole_number("batcher", name, value)
        _check_timeout(timeout)
        self.model, self.max_waiting, self.max_running = model, max_waiting, max_running
        self._timeout, self._limits, self._on_group = timeout, limits, on_group
        self._waiting: deque[Row] = deque()  # under the lock, like all that is below
        self._groups: list[Group] = []
        self._searched = 0
        self._closed = self._drop = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="genrec-fast batcher", daemon=True)
        self._worker.start()
        atexit.register(self.close, drain=False)  # torch must not run while Python ends

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(drain=kind is None)

    @property
    def counts(self) -> Counts:
        """Where it stands now."""
        with self._changed:
            running = sum(len(group.left) for group in self._groups)
            return Counts(len(self._waiting), running, len(self._groups), self._searched, self._closed)

    def submit(
        self,
        histories: Jagged | Iterable[Iterable[int | str]],
        k: int = 10,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Future[Ranked]:
        """Asks and returns at once.

        Args:
            histories: as in ``Recommender.recommend``; at most ``max_waiting`` of them.
            k: how many items.
            timeout: seconds from now; ``None``: the batcher's own.
            options: as in ``Recommender.recommend``. Tensors must not be changed before the answer is there.

        Returns:
            A future of what ``Recommender.recommend`` would return; ``cancel()`` drops the work. Its callbacks run in
            the worker and should be short.

        Raises:
            InvalidTypeError: as ``Recommender.recommend``.
            InvalidValueError: as ``Recommender.recommend``.
            QueueFullError: no room.
            ClosedError: after ``close``.
        """
        _check_timeout(timeout)
        timeout = self._timeout if timeout is None else timeout
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        question, query = ask(self.model, histories, k, options, limits=self._limits)
        query = self.model.decoder.settled(query)
        count = len(question)
        question = question.last(self.model.max_items)
        request = Request(Future(), deadline, timeout, [None] * count)
        rows = [
            Row(request, row, question.slice(row, row + 1), query.slice(row, row + 1, of=count)) for row in range(count)
        ]
        known = not self.model.may_be_empty  # what is popular needs no search
        bare = [row for row in rows if known and not row.question.items.values.numel()]
        searched = [row for row in rows if not known or row.question.items.values.numel()]
        with self._changed:
            if self._closed:
                raise ClosedError("batcher: the batcher must be open to be asked, got a closed one")
            more, waiting = len(searched), len(self._waiting)
            if waiting + more > self.max_waiting:
                raise QueueFullError(
                    f"batcher: at most max_waiting = {self.max_waiting} users may wait, got {more} more than the "
                    f"{waiting} that do"
                )
            self._waiting.extend(searched)
            self._changed.notify()
        for row in bare:
            request.answer(row.index, self.model.answer(row.question, row.query))
        return request.future

    def recommend(
        self,
        histories: Jagged | Iterable[Iterable[int | str]],
        k: int = 10,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Ranked:
        """``submit``, and waits for the answer.

        Raises:
            TimedOutError: no answer within ``timeout`` seconds; the work on it is dropped.
            GenrecError: as ``submit``, and whatever the search raises.
        """
        timeout = self._timeout if timeout is None else timeout
        future = self.submit(histories, k, timeout=timeout, **options)
        try:
            return future.result(timeout)
        except FutureTimeoutError:
            if not future.cancel():  # answered just now, or failed
                return future.result()
            raise TimedOutError(f"batcher: timeout must leave time for the answer, got {timeout} s") from None

    @property
    def alive(self) -> bool:
        """Whether the worker has something to do, or may get it."""
        return self._worker.is_alive()

    def close(self, *, drain: bool = True, wait: bool = True, timeout: float | None = None) -> bool:
        """Takes no more questions, and ends the worker; may be called again, and from any thread.

        Args:
            drain: answer what was asked before; else the futures fail with ``ClosedError`` at the end of the level.
            wait: for that; else the worker ends by itself.
            timeout: seconds to wait; ``None``: as long as it takes.

        Returns:
            Whether the worker has ended.
        """
        with self._changed:
            self._closed = True
            self._drop |= not drain
            self._changed.notify()
        if wait and threading.current_thread() is not self._worker:  # a callback of a future cannot wait for itself
            self._worker.join(timeout)
        return not self._worker.is_alive()

    # What follows runs in the worker.

    def _work(self) -> None:
        try:
            while self._wait():
                with self.model.answering():
                    while self._turn():
                        pass
        finally:  # also when the worker dies of what no part may raise
            with self._changed:
                self._closed = True
                left = [*self._waiting, *(row for group in self._groups for row in group.rows)]
                self._waiting.clear()
                self._groups.clear()
            atexit.unregister(self.close)
            for row in left:
                row.request.fail(ClosedError("batcher: the batcher must stay open until it answered, got closed"))

    def _wait(self) -> bool:
        """Until there is something to do; false when there never will be."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return bool(self._waiting) and not self._drop

    def _turn(self) -> bool:
        """Starts what waits, searches one level of every group; false when nothing is left to do, or all is dropped."""
        for group in self._admit():
            self._guarded(group, self._begin)
        for group in list(self._groups):
            self._guarded(group, self._advance)
        with self._changed:
            return bool(self._waiting or self._groups) and not self._drop

    def _admit(self) -> list[Group]:
        """Groups of what waits, oldest first, as far as there is room."""
        now = time.monotonic()
        by_key: dict[Hashable, list[Group]] = {}
        groups: list[Group] = []
        with self._changed:
            waiting = self._living(self._waiting, now)
            for group in self._groups:
                if not self._living(group.left, now):
                    group.rows = []  # nobody waits for it: it is not searched on
            self._groups = [group for group in self._groups if group.rows]
            room = self.max_running - sum(len(group.left) for group in self._groups)
            self._waiting = deque(waiting[max(room, 0) :])
            for row in waiting[: max(room, 0)]:
                same = by_key.setdefault((row.key(self.model.decoder), id(row) if row.alone else 0), [])
                if not same or len(same[-1].rows) == self._most(row):
                    same.append(Group([]))
                    groups.append(same[-1])
                same[-1].rows.append(row)
            self._groups.extend(groups)
        return groups

    @staticmethod
    def _living(rows: Sequence[Row] | deque[Row], now: float) -> list[Row]:
        """The rows that somebody waits for; fails those whose time ran out."""
        for row in rows:
            if row.request.deadline < now and not row.request.over:
                row.request.expire()
            row.request.notice()
        return [row for row in rows if not row.request.over]

    def _most(self, row: Row) -> int:
        """Rows of a group like this one: wide searches need much memory each."""
        beams: Any = row.query.num_beams
        if not self.model.decoder.by_level:
            return self.max_running
        widest = int(beams.max()) if isinstance(beams, Tensor) else max(beams) if isinstance(beams, tuple) else beams
        return max(1, _GROUP_LOGITS // (widest * max(self.model.codebook_sizes)))

    def _guarded(self, group: Group, step: Callable[[Group], None]) -> None:
        """One step of a group; if it fails, its rows go one by one, and only the failing request gets the exception."""
        try:
            step(group)
        except _FAILURES as error:
            with self._changed:
                self._groups = [other for other in self._groups if other is not group]
                if len(group.rows) > 1:
                    # Not group.left: a row may have failed on the way to its request.
                    for row in [row for row in reversed(group.rows) if row.request.found[row.index] is None]:
                        row.alone = True
                        self._waiting.appendleft(row)
                    return
            group.rows[0].request.fail(error)

    def _begin(self, group: Group) -> None:
        """Reads the histories."""
        if self._on_group is not None:
            self._on_group(len(group.rows))
        self._searched += len(group.rows)
        batch = self.model.batch(Question.cat([row.question for row in group.rows]))
        query = joined([row.query.filtered(self.model.num_items) for row in group.rows]).to(self.model.device)
        group.search = self.model.decoder.begin(self.model, batch, query)

    def _advance(self, group: Group) -> None:
        """The next step, and the answers of those who are finished."""
        search = group.search
        if search is None:
            return
        search.advance()
        places = {place for place, over in enumerate(search.finished.tolist()) if over} - group.answered
        if not places and not search.done:
            return
        found = search.results()
        with self._changed:  # before the answers: who has one must not be counted as running
            group.answered |= places
            if search.done:
                self._groups = [other for other in self._groups if other is not group]
        for place in sorted(places):
            row = group.rows[place]
            own = found.slice(place, place + 1).first(row.query.k)
            row.request.answer(row.index, based(own, row.question, self.model.may_be_empty))


def _check_timeout(timeout: float | None) -> None:
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise InvalidTypeError(f"batcher: timeout must be a number of seconds, got {timeout!r}")
    if not 0 < timeout < threading.TIMEOUT_MAX:
        raise InvalidValueError(f"batcher: timeout must be above 0 and finite, got {timeout}")


def joined(queries: Sequence[Query]) -> Query:
    """One query for all users of a group, with the largest k; a user who excludes nothing has an empty row."""
    if any(query.exclude is not None for query in queries):
        nothing = Jagged.from_rows([[]])
        queries = [replace(query, exclude=nothing) if query.exclude is None else query for query in queries]
    return replace(Query.cat(queries), k=max(query.k for query in queries))
