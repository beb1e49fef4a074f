"""What a server asks: the model that answers now, those that still answer what was asked before, and the figures."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from genrec_fast.base.batch import Ranked
from genrec_fast.base.errors import ClosedError, InvalidTypeError, TimedOutError
from genrec_fast.recipe.batcher import Batcher
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.serving.config import ServeConfig
from genrec_fast.serving.http_body import answer_of, question_of

# Seconds in which a batcher, which fails late questions itself, may be late: a level of a wide search takes long.
_LATE = 0.25
# Results of one answer beyond which writing it would hold up the others.
_MANY = 2000


Receive: TypeAlias = Callable[[], Awaitable[Any]]


class ClientGone(Exception):
    """Nobody waits for the answer."""


@dataclass(frozen=True)
class Live:
    """The model that answers, and the number of those before it."""

    batcher: Batcher
    version: int

    @property
    def model(self) -> Recommender:
        return cast(Recommender, self.batcher.model)


class Server:
    """What the app is made of: the model that answers now, and the figures.

    Args:
        model: the first one.
        config: what is allowed.
    """

    def __init__(self, model: Recommender, config: ServeConfig) -> None:
        self.config = config
        self.registry = CollectorRegistry()
        self.requests = Counter("genrec_requests", "Answered questions", ["status"], registry=self.registry)
        self.seconds = Histogram(
            "genrec_request_seconds",
            "From the question to its answer",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.group_users = Histogram(
            "genrec_batch_users",
            "Users that are searched together",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self._lock = threading.Lock()
        self._draining: list[Batcher] = []
        self._asked: set[Future[Ranked]] = set()  # by clients that wait
        self._end: float | None = None  # when what was asked must be answered; None: the server goes on
        self._live = self._start(model, 0)
        for name, text, value in (
            ("genrec_queue_users", "Users that wait", lambda: self._live.batcher.counts.waiting),
            ("genrec_running_users", "Users that are searched", lambda: self._live.batcher.counts.running),
            ("genrec_model_version", "Models that were swapped in", lambda: self._live.version),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def _start(self, model: Recommender, version: int) -> Live:
        batcher = model.batcher(
            max_waiting=self.config.max_waiting,
            max_running=self.config.max_running,
            timeout=self.config.timeout,
            limits=self.config.limits,
            on_group=self.group_users.observe,
        )
        return Live(batcher, version)

    @property
    def live(self) -> Live:
        """The model that new questions go to."""
        return self._live

    def swap(self, model: Recommender) -> int:
        """From now on ``model`` answers, with its own catalog; what was asked before is answered by the one before.

        Returns:
            How many models were swapped in so far.

        Raises:
            InvalidTypeError: not a ``Recommender``.
            ClosedError: the server has ended.
        """
        if not isinstance(model, Recommender):
            raise InvalidTypeError(f"swap: model must be a Recommender, got {type(model).__name__}")
        with self._lock:
            old = self._live
            if old.batcher.counts.closed:
                raise ClosedError("swap: the server must be running, got a closed one")
            self._live = self._start(model, old.version + 1)
            old.batcher.close(wait=False)
            self._draining = [*(one for one in self._draining if one.alive), old.batcher]
            return self._live.version

    def end(self) -> None:
        """Takes no more questions; those that were asked have nine tenths of ``config.drain`` seconds from now."""
        with self._lock:
            if self._end is None:
                self._end = time.monotonic() + 0.9 * self.config.drain
            for batcher in (*self._draining, self._live.batcher):
                batcher.close(wait=False)

    async def cut_off(self) -> None:
        """``end``, and fails what has no answer when its time is over, also where a level takes longer than that."""
        self.end()
        assert self._end is not None
        await asyncio.sleep(max(0.0, self._end - time.monotonic()))
        for future in list(self._asked):
            with contextlib.suppress(InvalidStateError):  # answered just now
                future.set_exception(ClosedError("serve: the server ended before it could answer, got closed"))

    def close(self) -> bool:
        """``end``, and waits for it.

        Returns:
            Whether every search has ended; one that is in the middle of a level cannot be stopped.
        """
        self.end()
        assert self._end is not None
        ended = True
        for batcher in (*self._draining, self._live.batcher):
            if not batcher.close(timeout=max(0.0, self._end - time.monotonic())):
                ended &= batcher.close(drain=False, timeout=0.5)
        return ended

    async def ask(self, body: Mapping[str, Any], receive: Receive) -> dict[str, Any]:
        """One question, as it came, to its answer; the work is dropped when its client goes, which ``receive`` says.

        Raises:
            GenrecError: a wrong question, no room, no time, or the end of the server.
            ClientGone: the client did not wait.
        """
        while True:
            live = self._live
            arguments = question_of(body, live.model, self.config)
            try:
                future = live.batcher.submit(**arguments)
            except ClosedError:
                if live is self._live:  # not swapped: the server ends
                    raise
                continue
            ranked = await self._while_there(receive, future, arguments["timeout"])
            if ranked.items.numel() > _MANY:
                results = await asyncio.to_thread(answer_of, ranked, live.model)
            else:
                results = answer_of(ranked, live.model)
            return {"results": results, "version": live.version}

    async def _while_there(self, receive: Receive, future: Future[Ranked], timeout: float) -> Ranked:
        """The result of a future, which is cancelled when the client hangs up or has waited long enough.

        The batcher looks at the time between two levels; no client waits for that.
        """
        late = time.monotonic() + timeout + _LATE
        answer = asyncio.wrap_future(future)
        news = asyncio.ensure_future(receive())
        self._asked.add(future)
        try:
            while True:
                both: set[asyncio.Future[Any]] = {answer, news}
                left = max(0.0, late - time.monotonic())
                await asyncio.wait(both, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    return answer.result()
                if not news.done():
                    raise TimedOutError(f"batcher: timeout must leave time for the answer, got {timeout} s")
                if news.result()["type"] == "http.disconnect":
                    raise ClientGone
                news = asyncio.ensure_future(receive())
        finally:
            self._asked.discard(future)
            news.cancel()
            answer.cancel()
