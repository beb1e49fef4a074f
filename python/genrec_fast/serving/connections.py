"""The connections of a server: slow, silent and too many clients, below the app. On uvicorn and h11."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from genrec_fast.serving.config import ServeConfig

_LOG = logging.getLogger(__name__)
# Bytes that must leave in write_timeout where a client takes its answer slowly.
_PROGRESS = 1 << 16


@dataclass
class _Guard:
    """The connections of one server."""

    config: ServeConfig
    open: set[Connection] = field(default_factory=set)
    waiting: dict[Connection, None] = field(default_factory=dict)  # for their client, the longest first


def guarded(config: ServeConfig) -> type[asyncio.Protocol]:
    """The connections of one server, for ``uvicorn.run(..., http=guarded(config))``.

    - A request's head must be there ``header_timeout`` seconds after its first byte (the first request: after the
      connection's begin), else the client gets 408. Bodies are the app's matter, which gives 408 likewise.
    - A client that takes none of its answer for ``write_timeout`` seconds is cut off.
    - At ``max_connections`` the connection that has waited longest for its client, idle or in the middle of a request,
      is closed for a newcomer; where all are being answered, the newcomer gets 503. So slow clients, however many, keep
      nobody out.

    uvicorn itself has no time-outs for heads and bodies and closes nobody for a newcomer; it leaves both to a proxy.
    """
    return type("Connection", (Connection,), {"guard": _Guard(config)})


class Connection(H11Protocol):
    """One connection; see ``guarded``, which makes a class of its own for each server."""

    guard: ClassVar[_Guard]

    _head: asyncio.TimerHandle | None = None  # until when the head of a request must be there
    _stall: asyncio.TimerHandle | None = None  # until when the client must have taken something
    _unsent = 0
    _began = False  # a byte of the request that is waited for has come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room, and waits for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # pause_writing is called whenever something is left unsent
        guard = self.guard
        if len(guard.open) >= guard.config.max_connections:
            oldest = next(iter(guard.waiting), None)
            if oldest is None:
                self.app = _crowded
            else:
                oldest._give_up("made room for another client")
                oldest.transport.abort()
        guard.open.add(self)
        self._wait()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left of it."""
        self._forget()
        self._watch_writing(False)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What came of a request."""
        if self._head is None and self._is_idle:
            self._expect_head()
        self._began = True
        super().data_received(data)
        if not self._is_idle:
            self._expect_head(False)
            if not self.cycle.more_body:
                self.guard.waiting.pop(self, None)

    def on_response_complete(self) -> None:
        """Idle, unless the next request is here already."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.SEND_BODY and self._is_idle:  # half a request is answered: no more of it
            self.transport.close()
        elif self._is_idle or self.cycle.more_body:
            self._began = False
            self._wait()

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """It has taken everything."""
        super().resume_writing()
        self._watch_writing(False)

    def shutdown(self) -> None:
        """The server ends: who has not asked yet will not be answered, who has will be."""
        if self in self.guard.waiting and not self._is_idle and not self.cycle.response_started:
            self._refuse(503, "the server ends")
        else:
            super().shutdown()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self.guard.waiting.pop(self, None)  # to the end
        self.guard.waiting[self] = None

    def _expect_head(self, expected: bool = True) -> None:
        if self._head is not None:
            self._head.cancel()
        self._head = self.loop.call_later(self.guard.config.header_timeout, self._too_slow) if expected else None

    def _too_slow(self) -> None:
        self._head = None
        if self._began:
            self._refuse(408, f"the head of a request must come within {self.guard.config.header_timeout:g} s")
        else:
            self._give_up("sent nothing in time")
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Says why, and closes; the app, if it was asked at all, hears that the client is gone."""
        if not self.transport.is_closing():
            self._give_up(message)
            self.transport.write(_refusal(status, message))
            self.transport.close()

    def _watch_writing(self, watched: bool = True) -> None:
        if self._stall is not None:
            self._stall.cancel()
        self._stall, self._unsent = None, self.transport.get_write_buffer_size()
        if watched:
            self._stall = self.loop.call_later(self.guard.config.write_timeout, self._look_at_writing)

    def _look_at_writing(self) -> None:
        if self.transport.get_write_buffer_size() <= self._unsent - _PROGRESS:
            self._watch_writing()
            return
        self._give_up("did not take its answer in time")
        self.transport.abort()

    def _give_up(self, why: str) -> None:
        """Counts no more, and that is one line of the log."""
        _LOG.info("a connection was closed: %s", why)
        self._forget()

    def _forget(self) -> None:
        self._expect_head(False)
        self.guard.open.discard(self)
        self.guard.waiting.pop(self, None)


def _answer(status: int, message: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    body = json.dumps({"error": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        *([(b"retry-after", b"1")] if status == 503 else []),
    ]
    return headers, body


def _refusal(status: int, message: str) -> bytes:
    """An answer as bytes, to a request that is not there yet."""
    headers, body = _answer(status, message)
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()), *(b"%s: %s" % pair for pair in headers)]
    return b"\r\n".join([*lines, b"", body])


async def _crowded(scope: Any, receive: Any, send: Any) -> None:
    """The app of a connection that is one too many."""
    headers, body = _answer(503, "the server has as many connections as it may, and all wait for answers")
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
