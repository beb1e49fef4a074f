"""A recommender behind HTTP: a small ASGI app over ``Recommender.batcher``; needs starlette and prometheus-client."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from genrec_fast.base.batch import Ranked
from genrec_fast.base.errors import (
    ClosedError,
    CorruptFileError,
    GenrecError,
    InvalidTypeError,
    InvalidValueError,
    QueueFullError,
    TimedOutError,
    UnsupportedError,
    install_hint,
)
from genrec_fast.recipe.batcher import Batcher
from genrec_fast.recipe.recommender import Recommender, load
from genrec_fast.serving.http_body import answer_of, question_of

try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
except ImportError as error:
    raise UnsupportedError(
        f"serve: starlette, uvicorn and prometheus-client must be installed, got {error}; {install_hint('serve')}"
    ) from error

__all__ = ["ServeConfig", "Server", "create_app", "run"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What a server allows."""

    max_waiting: int = 1024  # users that may wait; more get 503
    max_running: int = 256  # users that are searched at once
    timeout: float = 10.0  # seconds for a question; more get 504. A question may ask for less
    drain: float = 30.0  # seconds for what is asked when the server is told to end
    max_body: int = 1 << 20  # bytes of a question; more get 413
    max_users: int = 256  # histories in one question
    max_k: int = 1000  # results for one history
    max_num_beams: int = 4096
    swap_token: str | None = None  # who sends it as "Authorization: Bearer ..." may POST /swap; None: nobody

    def __post_init__(self) -> None:
        for name in ("max_waiting", "max_running", "max_body", "max_users", "max_k", "max_num_beams"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"ServeConfig: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("timeout", "drain"):
            if not 0 < getattr(self, name) < threading.TIMEOUT_MAX:
                raise InvalidValueError(f"ServeConfig: {name} must be above 0 and finite, got {getattr(self, name)}")
        if self.swap_token is not None and not self.swap_token:
            raise InvalidValueError("ServeConfig: swap_token must not be empty, got ''")


@dataclass(frozen=True)
class _Live:
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
        self._live = self._start(model, 0)
        for name, text, value in (
            ("genrec_queue_users", "Users that wait", lambda: self._live.batcher.counts.waiting),
            ("genrec_running_users", "Users that are searched", lambda: self._live.batcher.counts.running),
            ("genrec_model_version", "Models that were swapped in", lambda: self._live.version),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def _start(self, model: Recommender, version: int) -> _Live:
        batcher = model.batcher(
            max_waiting=self.config.max_waiting,
            max_running=self.config.max_running,
            timeout=self.config.timeout,
            on_group=self.group_users.observe,
        )
        return _Live(batcher, version)

    @property
    def live(self) -> _Live:
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

    def close(self) -> None:
        """Answers what was asked, within ``config.drain`` seconds, and ends."""
        end = time.monotonic() + self.config.drain
        with self._lock:
            all_of_them = [*self._draining, self._live.batcher]
            for batcher in all_of_them:
                batcher.close(wait=False)
        for batcher in all_of_them:
            if not batcher.close(timeout=max(0.0, end - time.monotonic())):
                batcher.close(drain=False, timeout=1.0)

    async def ask(self, body: Mapping[str, Any], request: Request) -> dict[str, Any]:
        """One question, as it came, to its answer; the work is dropped when its client goes."""
        while True:
            live = self._live
            arguments = question_of(body, live.model, self.config)
            try:
                future = live.batcher.submit(**arguments)
            except ClosedError:
                if live is self._live:  # not swapped: the server ends
                    raise
                continue
            ranked = await _while_there(request, future)
            return {"results": answer_of(ranked, live.model), "version": live.version}


def create_app(model: Recommender, config: ServeConfig | None = None) -> Starlette:
    """The app: ``POST /recommend``, ``GET /health``, ``GET /metrics``, and ``POST /swap`` where a token is set.

    ``app.state.swap(model)`` puts another model, with another catalog, in the place of the present one while questions
    run. When the app is told to end it answers what was asked before.

    Args:
        model: who answers.
        config: what is allowed.

    Raises:
        UnsupportedError: starlette or prometheus-client is missing (when this module is imported).

    Source: ours.

    Example:
        ``uvicorn.run(create_app(gf.load("runs/tiger")), port=8000)``
    """
    config = ServeConfig() if config is None else config
    server = Server(model, config)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(server.close)

    async def recommend(request: Request) -> Response:
        start = time.perf_counter()
        response = await _answered(request, config, lambda body: server.ask(body, request))
        server.requests.labels(str(response.status_code)).inc()
        server.seconds.observe(time.perf_counter() - start)
        return response

    async def swap(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {config.swap_token}".encode()):
            return _json({"error": "swap: Authorization must be 'Bearer' and the server's token"}, 401)

        async def put(body: Mapping[str, Any]) -> dict[str, Any]:
            folder = body.get("folder")
            if set(body) != {"folder"} or not isinstance(folder, str) or not folder:
                raise InvalidValueError("swap: the body must be {'folder': PATH of a trained model}")
            device = server.live.model.device
            try:
                new = await asyncio.to_thread(load, Path(folder), device)
            except (OSError, ValueError) as error:
                raise CorruptFileError(f"swap: folder must hold a trained model, got {folder!r} ({error})") from error
            return {"version": server.swap(new)}

        return await _answered(request, config, put)

    async def health(request: Request) -> Response:
        live = server.live
        counts = live.batcher.counts
        state = {
            "status": "closing" if counts.closed else "ok",
            "recipe": live.model.name,
            "items": live.model.num_items,
            "version": live.version,
            "waiting": counts.waiting,
            "running": counts.running,
        }
        return _json(state, 503 if counts.closed else 200)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(server.registry), media_type=CONTENT_TYPE_LATEST)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _json({"error": error.detail}, error.status_code, error.headers)

    async def broken(request: Request, error: Exception) -> Response:  # the server logs the trace
        return _json({"error": "internal error"}, 500)

    routes = [
        Route("/recommend", recommend, methods=["POST"]),
        Route("/health", health),
        Route("/metrics", metrics),
        *([Route("/swap", swap, methods=["POST"])] if config.swap_token is not None else []),
    ]
    app = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={HTTPException: refused, Exception: broken}
    )  # fmt: skip
    app.state.server, app.state.swap = server, server.swap
    return app


class _ClientGone(Exception):
    """Nobody waits for the answer."""


async def _while_there(request: Request, future: Future[Ranked]) -> Ranked:
    """The result of a future, which is cancelled when the client hangs up."""
    answer = asyncio.wrap_future(future)
    news = asyncio.ensure_future(request.receive())
    try:
        while True:
            both: set[asyncio.Future[Any]] = {answer, news}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if news.result()["type"] == "http.disconnect":
                raise _ClientGone
            news = asyncio.ensure_future(request.receive())
    finally:
        news.cancel()
        answer.cancel()


async def _answered(
    request: Request, config: ServeConfig, act: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
) -> Response:
    """The body, read as far as it may be, to ``act``; what is wrong becomes a status and a message."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > config.max_body:
            return _json({"error": f"the body must be at most {config.max_body} bytes"}, 413)
    try:
        read = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        return _json({"error": f"the body must be JSON ({str(error).partition(chr(10))[0]:.80})"}, 400)
    if not isinstance(read, dict):
        return _json({"error": f"the body must be a JSON object, got {type(read).__name__}"}, 400)
    try:
        return _json(await act(read), 200)
    except (QueueFullError, ClosedError) as error:
        return _json({"error": str(error)}, 503, {"retry-after": "1"})
    except TimedOutError as error:
        return _json({"error": str(error)}, 504)
    except _ClientGone:
        return _json({"error": "the client is gone"}, 499)  # for the figures
    except (InvalidValueError, InvalidTypeError, CorruptFileError) as error:
        return _json({"error": str(error)}, 400)
    except (GenrecError, RuntimeError, LookupError, ArithmeticError, AttributeError, TypeError, ValueError):
        _LOG.exception("a question failed")
        return _json({"error": "the model failed at this question"}, 500)


def _json(content: object, status: int, headers: Mapping[str, str] | None = None) -> Response:
    # Only ASCII: a name that UTF-8 cannot carry must not break the answer.
    text = json.dumps(content, allow_nan=False)
    return Response(text, status, headers, media_type="application/json")


def run(model: Recommender, config: ServeConfig, *, host: str, port: int) -> None:
    """Serves until it is told to end (SIGTERM, Ctrl-C); what was asked before is answered.

    Raises:
        InvalidValueError: no such port.
        UnsupportedError: uvicorn is missing.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise UnsupportedError(f"serve: uvicorn must be installed; {install_hint('serve')}") from error
    if not 0 <= port < 1 << 16:
        raise InvalidValueError(f"serve: port must be in [0, 65535], got {port}")
    app = create_app(model, config)
    uvicorn.run(app, host=host, port=port, timeout_graceful_shutdown=math.ceil(config.drain), access_log=False)
