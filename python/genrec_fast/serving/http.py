"""A recommender behind HTTP: a small ASGI app over ``Recommender.batcher``; needs starlette and prometheus-client."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

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
from genrec_fast.recipe.recommender import Recommender, load
from genrec_fast.serving.config import ServeConfig
from genrec_fast.serving.openapi import description, page

try:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Route

    from genrec_fast.serving.live import ClientGone, Server
except ImportError as error:
    raise UnsupportedError(
        f"serve: starlette, uvicorn and prometheus-client must be installed, got {error}; {install_hint('serve')}"
    ) from error

__all__ = ["ServeConfig", "Server", "create_app", "run"]

_LOG = logging.getLogger(__name__)


def create_app(model: Recommender, config: ServeConfig | None = None) -> Starlette:
    """The app: ``POST /recommend``, ``GET /health``, ``/metrics``, ``/docs`` and ``/openapi.json``.

    ``POST /swap`` is there where a token and a folder are set. ``app.state.swap(model)`` puts another model, with
    another catalog, in the place of the present one while questions run. When the app is told to end it answers what
    was asked before.

    Args:
        model: who answers.
        config: what is allowed. Time-outs of heads and idle connections and the number of connections are the web
            server's matter: ``run`` sets them, and so does ``uvicorn.run(..., http=connections.guarded(config))``.

    Raises:
        UnsupportedError: starlette or prometheus-client is missing (when this module is imported).

    Source: ours.

    Example:
        ``uvicorn.run(create_app(gf.load("runs/tiger")), port=8000)``
    """
    config = ServeConfig() if config is None else config
    server = Server(model, config)
    swapping = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(server.close)

    async def recommend(request: Request) -> Response:
        start = time.perf_counter()
        response = await _answered(request, config, lambda body: server.ask(body, request.receive))
        server.requests.labels(str(response.status_code)).inc()
        server.seconds.observe(time.perf_counter() - start)
        return response

    async def swap(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {config.swap_token}".encode()):
            return _json({"error": "swap: Authorization must be 'Bearer' and the server's token"}, 401)

        async def put(body: Mapping[str, Any]) -> dict[str, Any]:
            folder = _inside(config.swap_folder, body)
            async with swapping:  # one more model in memory, not several
                device = server.live.model.device
                try:
                    new = await asyncio.to_thread(load, folder, device)
                except (OSError, ValueError) as error:
                    raise CorruptFileError(
                        f"swap: folder must hold a trained model, got {body['folder']!r} ({error})"
                    ) from error
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

    def described() -> dict[str, Any]:
        return description(config, server.live.model.item_ids[:2])

    async def openapi(request: Request) -> Response:
        return _json(described(), 200)

    async def docs(request: Request) -> Response:
        return HTMLResponse(page(described()))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _json({"error": error.detail}, error.status_code, error.headers)

    async def broken(request: Request, error: Exception) -> Response:  # the server logs the trace
        return _json({"error": "internal error"}, 500)

    routes = [
        Route("/recommend", recommend, methods=["POST"]),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
        Route("/docs", docs),
        *([Route("/swap", swap, methods=["POST"])] if config.can_swap else []),
    ]
    app = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={HTTPException: refused, Exception: broken}
    )  # fmt: skip
    app.state.server, app.state.swap = server, server.swap
    return app


def _inside(root: Path | None, body: Mapping[str, Any]) -> Path:
    """The folder that a body names, which lies inside ``root``, links and dots resolved."""
    given = body.get("folder")
    if set(body) != {"folder"} or not isinstance(given, str) or not given:
        raise InvalidValueError("swap: the body must be {'folder': PATH of a trained model}")
    assert root is not None
    try:
        root = root.resolve()
        folder = (root / given).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, links in a circle
        raise InvalidValueError(f"swap: folder must be a path, got {given!r:.80}") from error
    if not folder.is_relative_to(root):
        raise InvalidValueError(f"swap: folder must lie inside the server's swap_folder, got {given!r:.80}")
    return folder


class _TooLong(Exception):
    """A body beyond the limit; ``rest`` says whether some of it is still to come."""

    def __init__(self, rest: bool) -> None:
        self.rest = rest


async def _read(request: Request, limit: int) -> bytes:
    """The body; of one that is too long nothing is kept.

    Up to twice the limit it is read to its end all the same: a client that is cut off while it writes may not hear why.
    """
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isascii() and declared.isdigit() else 0
    if length > 2 * limit or (length > limit and "expect" in request.headers):
        raise _TooLong(rest=True)
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > 2 * limit:
            raise _TooLong(rest=True)
        if size <= limit:
            body += chunk
        else:
            body.clear()
    if size > limit:
        raise _TooLong(rest=False)
    return bytes(body)


async def _answered(
    request: Request, config: ServeConfig, act: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
) -> Response:
    """The body, read as far and as long as it may be, to ``act``; what is wrong becomes a status and a message."""
    try:
        body = await asyncio.wait_for(_read(request, config.max_body), config.body_timeout)
    except _TooLong as long:
        close = {"connection": "close"} if long.rest else None
        return _json({"error": f"the body must be at most {config.max_body} bytes"}, 413, close)
    except asyncio.TimeoutError:
        _LOG.info("a client was too slow: it sent no whole body within %g s", config.body_timeout)
        error = f"the body must come within {config.body_timeout:g} s"
        return _json({"error": error}, 408, {"connection": "close"})
    except ClientDisconnect:
        return _gone("question")
    try:
        read = json.loads(body)
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
    except ClientGone:
        return _gone("answer")
    except (InvalidValueError, InvalidTypeError, CorruptFileError) as error:
        return _json({"error": str(error)}, 400)
    except (GenrecError, RuntimeError, LookupError, ArithmeticError, AttributeError, TypeError, ValueError):
        _LOG.exception("a question failed")
        return _json({"error": "the model failed at this question"}, 500)


def _gone(before: str) -> Response:
    """For the figures: nobody reads it."""
    _LOG.info("a client left before the end of its %s", before)
    return _json({"error": "the client is gone"}, 499)


def _json(content: object, status: int, headers: Mapping[str, str] | None = None) -> Response:
    # Only ASCII: a name that UTF-8 cannot carry must not break the answer.
    text = json.dumps(content, allow_nan=False)
    return Response(text, status, headers, media_type="application/json")


def run(model: Recommender, config: ServeConfig, *, host: str, port: int) -> bool:
    """Serves until it is told to end (SIGTERM, Ctrl-C); what was asked before is answered within ``config.drain``.

    The limit of open files is raised as far as ``config.max_connections`` needs and the system lets.

    Returns:
        Whether every search has ended. Where one has not, it is in the middle of a level, which cannot be stopped, and
        the interpreter will wait for it; ``os._exit`` does not.

    Raises:
        InvalidValueError: no such port.
        UnsupportedError: uvicorn is missing, or too few files may be opened.
        SystemExit: the address is taken (uvicorn says so).
    """
    if not 0 <= port < 1 << 16:
        raise InvalidValueError(f"serve: port must be in [0, 65535], got {port}")
    try:
        from genrec_fast.serving.process import serve
    except ImportError as error:
        raise UnsupportedError(f"serve: uvicorn must be installed, got {error}; {install_hint('serve')}") from error
    app = create_app(model, config)
    serve(app, app.state.server, host=host, port=port)
    return bool(app.state.server.close())
