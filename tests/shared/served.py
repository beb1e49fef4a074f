"""A toy recommender and servers to ask it: in this process, in a thread of it, or a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import torch
import uvicorn

from genrec_fast.catalog.catalog import Catalog
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.serving.connections import guarded
from toy import toy_recipe


def toy(items=60, seed=0):
    torch.manual_seed(seed)
    codes = torch.arange(items, dtype=torch.int32)[:, None]
    names = [f"thing {i}" for i in range(items)]
    titles = [f"Thing {i}, \N{SNOWMAN}" for i in range(items)]
    catalog = Catalog(item_codes=codes, codebook_sizes=(items,), item_ids=names, titles=titles)
    return Recommender(toy_recipe(), catalog)


def ask(app, method, path, **options):
    async def go():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client:
            return await client.request(method, path, **options)

    return asyncio.run(go())


@contextlib.contextmanager
def served(app, config=None):
    """A real server on a free port, in a thread; with a config, its connections are guarded."""
    own = {} if config is None else {"http": guarded(config), "timeout_keep_alive": config.idle_timeout}
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="on", ws="none", **own))
    started = threading.Event()
    startup = server.startup

    async def noticed(*arguments, **options):
        await startup(*arguments, **options)
        started.set()

    server.startup = noticed
    thread = threading.Thread(target=server.run)
    thread.start()
    assert started.wait(20)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class Process:
    """``genrec-fast serve`` of a folder, or of a program that serves, with its log."""

    def __init__(self, arguments, *, files=None, **environment):
        # The shell, not preexec_fn: threads of this process must not be in the way.
        limit = [] if files is None else ["bash", "-c", f'ulimit -n {files} && exec "$@"', "serve"]
        self.process = subprocess.Popen(
            [*limit, sys.executable, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
        self.lines = []
        self._reader = threading.Thread(target=self._read_all)
        self._up = threading.Event()
        self._reader.start()
        assert self._up.wait(60), self.lines

    def _read_all(self):
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"running on http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                self._up.set()
        self._up.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def ended(self, number=signal.SIGTERM, within=30):
        """The exit status after a signal, and the seconds until then."""
        start = time.monotonic()
        self.process.send_signal(number)
        status = self.process.wait(within)
        self._reader.join(10)
        self.process.stderr.close()
        return status, time.monotonic() - start

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
            self._reader.join(10)
            self.process.stderr.close()


def head(body, *more, length=None):
    """A question as bytes."""
    length = len(body) if length is None else length
    lines = ["POST /recommend HTTP/1.1", "host: here", f"content-length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode() + body


QUESTION = json.dumps({"history_ids": [[1, 2]], "k": 3}).encode()


def hold(monkeypatch, model, only=None):
    """Events of a search that waits: when one has begun, and that it may go on; ``only``: of histories of this item."""
    reached, held = threading.Event(), threading.Event()
    begin = model.decoder.begin

    def slow(system, batch, query):
        if only is None or int(batch.items.values[0]) == only:
            reached.set()
            assert held.wait(20)
        return begin(system, batch, query)

    monkeypatch.setattr(model.decoder, "begin", slow)
    return reached, held


def until(condition):
    """Waits for it, ten seconds at most."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def connected(url):
    """A socket to a server."""
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def heard(client):
    """All that a server sends until it closes, and whether it closed by the book."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(1 << 16):
            found += chunk
    return found
