"""``genrec-fast serve`` as a process: how it ends, and how it bears more clients than it may open files."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import time

import httpx
import pytest

from shared.served import QUESTION, Process, connected, head, heard, toy, until

# The toy's parts are of the tests; a decoder that takes its time stands for a large model.
PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
import toy
from genrec_fast.cli import main
inner = toy.ToyDecoder.scored
def scored(self, backbone, batch, query):
    if int(batch.items.values[0]) == 13:
        time.sleep({seconds})
    return inner(self, backbone, batch, query)
toy.ToyDecoder.scored = scored
sys.exit(main(["serve", {folder!r}, "--port", "0", "--threads", "1", *{flags!r}]))
"""


@pytest.fixture
def serve(tmp_path, request):
    """``serve(flag, ...)``: a process; items 13 take ``seconds``."""
    toy().save(tmp_path)
    tests = str(request.config.rootpath / "tests")
    with contextlib.ExitStack() as stack:

        def start(*flags, seconds=0.0, **settings):
            program = PROGRAM.format(tests=tests, seconds=seconds, folder=str(tmp_path), flags=flags)
            return stack.enter_context(Process(["-c", program], **settings))

        yield start


def ask(url, item=1):
    return httpx.post(f"{url}/recommend", json={"history_ids": [[item]], "k": 3}, timeout=30)


def test_600_slow_clients_do_not_stop_the_601st(serve):
    """256 files, so at most 128 connections."""
    server = serve(files=256)
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(600):
            clients.append(stack.enter_context(connected(server.url)))
            clients[-1].sendall((b"POST /recommend HTT", head(b"{", length=50))[number % 2])
            if number % 100 == 99:
                assert ask(server.url).status_code == 200
        start = time.monotonic()
        assert ask(server.url).status_code == 200
        assert time.monotonic() - start < 2
        status, seconds = server.ended()
    assert (status, seconds < 15) == (0, True), server.lines
    log = "".join(server.lines)
    assert "max_connections is 128, not 1024: the process may open 256 files" in log
    assert "made room for another client" in log
    assert "Traceback" not in log and "out of system resource" not in log


def test_what_runs_is_answered_and_the_status_is_0(serve):
    server = serve(seconds=1.0)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, connected(server.url) as half, connected(server.url) as idle:
        half.sendall(head(b"{", length=50))
        idle.sendall(head(QUESTION))
        assert idle.recv(15) == b"HTTP/1.1 200 OK"
        asked = pool.submit(ask, server.url, 13)
        until(lambda: httpx.get(f"{server.url}/health").json()["running"])
        status, seconds = server.ended()
        assert asked.result(20).status_code == 200
        assert heard(half).startswith(b"HTTP/1.1 503")
        with pytest.raises(ConnectionRefusedError):
            connected(server.url)
    assert (status, seconds < 15) == (0, True), server.lines
    assert "Traceback" not in "".join(server.lines)


def test_what_takes_longer_than_the_grace_gets_503(serve):
    """A level that runs cannot be stopped; nobody waits for it."""
    server = serve("--drain", "1", seconds=60)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, server.url, 13)]
        until(lambda: httpx.get(f"{server.url}/health").json()["running"])
        asked.append(pool.submit(ask, server.url, 1))
        until(lambda: httpx.get(f"{server.url}/health").json()["waiting"])
        status, seconds = server.ended(signal.SIGINT)
        for one in asked:
            assert (one.result(20).status_code, one.result().headers["retry-after"]) == (503, "1")
    assert (status, seconds < 15) == (0, True), server.lines
    assert "Traceback" not in "".join(server.lines)
