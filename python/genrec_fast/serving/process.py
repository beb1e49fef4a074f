"""A server as the whole of a process: its sockets and files, its log, and how it ends. On uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.serving.connections import guarded
from genrec_fast.serving.live import Server

_LOG = logging.getLogger(__name__)
# Descriptors for files and for what the process has open anyway.
_SPARE = 64
# Connections that the system keeps until they are taken.
_QUEUE = 2048


class _Process(uvicorn.Server):
    """uvicorn's, which ends within the grace time and takes few connections at once."""

    def __init__(self, config: uvicorn.Config, asked: Server) -> None:
        super().__init__(config)
        self._asked = asked

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for server in self.servers:  # asyncio has one number for the queue and for what is taken from it at once
            for listener in server.sockets:
                with socket.fromfd(listener.fileno(), listener.family, listener.type) as twin:
                    twin.listen(_QUEUE)

    async def shutdown(self, sockets: Any = None) -> None:
        cut = asyncio.ensure_future(self._asked.cut_off())
        await super().shutdown(sockets)
        cut.cancel()


def serve(app: Any, asked: Server, *, host: str, port: int) -> None:
    """Runs an app until the process is told to end; see ``http.run``."""
    config = asked.config
    room, backlog = connection_room(config.max_connections)
    logs = copy.deepcopy(LOGGING_CONFIG)
    logs["loggers"]["genrec_fast"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    server = _Process(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=guarded(replace(config, max_connections=room)),
            ws="none",
            log_config=logs,
            access_log=False,
            backlog=backlog,
            timeout_keep_alive=config.idle_timeout,  # type: ignore[arg-type] # seconds of call_later
            # Before that the app itself answers 503; uvicorn would drop the question.
            timeout_graceful_shutdown=config.drain,  # type: ignore[arg-type]
        ),
        asked,
    )
    with _told_to_end(server):
        server.run()


@contextlib.contextmanager
def _told_to_end(server: uvicorn.Server) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the server and nothing else: uvicorn raises them again when it has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def connection_room(wanted: int) -> tuple[int, int]:
    """How many connections this process can have, at most ``wanted``, and how many it should take at once.

    The limit of open files is raised as far as the system lets the process. asyncio takes all the connections that wait
    in one go, and it takes a few turns until those that are closed for them are gone: so four times the backlog stays
    free, beside what the process has open anyway.

    Raises:
        UnsupportedError: the process may open so few files that no server can run.
    """
    if sys.platform == "win32":  # no such limit
        return wanted, 128
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    files = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    need = wanted + 4 * 128 + _SPARE
    if files < need and files < most:
        files = min(need, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    backlog = max(8, min(128, files // 16))
    room = min(wanted, files - 4 * backlog - _SPARE)
    if room < 1:
        raise UnsupportedError(
            f"serve: the process must be allowed to open at least {4 * backlog + _SPARE + 1} files "
            f"(ulimit -n), got {files}"
        )
    if room < wanted:
        _LOG.warning("max_connections is %d, not %d: the process may open %d files (ulimit -n)", room, wanted, files)
    return room, backlog
