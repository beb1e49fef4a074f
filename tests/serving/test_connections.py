"""Slow, silent, rude and too many clients."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import resource
import socket
import time

import httpx
import pytest

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.serving.config import ServeConfig
from genrec_fast.serving.http import create_app
from genrec_fast.serving.process import connection_room
from shared.served import QUESTION, connected, head, heard, hold, served, toy, until

MODEL = toy()
SHORT = {"header_timeout": 0.3, "body_timeout": 0.3, "idle_timeout": 0.3, "write_timeout": 0.3}


def answered(url, **options):
    return httpx.post(f"{url}/recommend", content=QUESTION, timeout=20, **options)


@pytest.fixture(scope="module")
def hasty():
    """A server of little patience."""
    config = ServeConfig(**SHORT, max_body=1000)
    with served(create_app(MODEL, config), config) as (url, _):
        yield url


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", b""),
        (b"POST /reco", b"HTTP/1.1 408 Request Timeout"),
        (head(b"")[:-2] + b"x-more: 1\r\n", b"HTTP/1.1 408 Request Timeout"),
        (head(b'{"history', length=60), b"HTTP/1.1 408 Request Timeout"),
        (head(QUESTION), b"HTTP/1.1 200 OK"),
        (head(QUESTION) * 2 + b"PO", b"HTTP/1.1 200 OK"),
    ],
    ids=["silent", "half a line", "half a head", "half a body", "idle", "pipelined, then half a line"],
)
def test_who_is_slow_is_closed(hasty, sent, said):
    with connected(hasty) as client:
        start = time.monotonic()
        client.sendall(sent)
        found = heard(client)
    assert 0.2 < time.monotonic() - start < 5
    assert found.startswith(said) and bool(found) == bool(said)
    assert found.count(b'"results"') == sent.count(b"history_ids")


@pytest.mark.parametrize("part", [head(b"", "x: " + "y" * 300), head(b" " * 300)], ids=["head", "body"])
def test_who_dribbles_is_closed(hasty, part):
    with connected(hasty) as client:
        start = time.monotonic()
        for place in range(300):
            try:
                client.sendall(part[: -len(part) + 200] if not place else part[199 + place : 200 + place])
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.02)
        assert time.monotonic() - start < 3
        assert place > 3


def test_a_body_that_is_too_long_is_cut_off(hasty):
    """Up to twice the limit the client hears why; beyond, what it sends is not read."""
    for length in (1001, 2000):
        with connected(hasty) as client:
            client.sendall(head(b" " * length))
            assert client.recv(12) == b"HTTP/1.1 413"
    for sent in (head(b" " * 100, length=10**10), head(b"", "expect: 100-continue", length=1500)):
        with connected(hasty) as client:
            client.sendall(sent)
            found = heard(client)
        assert found.startswith(b"HTTP/1.1 413") and b"at most 1000 bytes" in found and b"100 Continue" not in found
    with connected(hasty) as client:  # not declared
        client.sendall(b"POST /recommend HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sendall((b"1000\r\n" + b" " * 4096 + b"\r\n") * 5000)
    assert answered(hasty).status_code == 200


def test_half_a_request_that_is_answered_is_not_read_on(hasty):
    with connected(hasty) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\nhalf")
        assert heard(client).startswith(b"HTTP/1.1 200")


def test_a_client_that_leaves_is_one_line(hasty, caplog):
    with caplog.at_level(logging.INFO, logger="genrec_fast"):
        with connected(hasty) as client:
            client.sendall(head(b'{"history', length=60))
            time.sleep(0.05)
        until(lambda: caplog.records)
        time.sleep(0.05)
    assert [record.getMessage() for record in caplog.records] == ["a client left before the end of its question"]
    assert not caplog.records[0].exc_info


def test_slow_clients_do_not_stop_the_next(caplog):
    """More of them than there may be connections: the longest waiting goes, a question that is there does not."""
    config = ServeConfig(max_connections=50, header_timeout=60, body_timeout=60)
    slow = []
    with contextlib.ExitStack() as stack, served(create_app(MODEL, config), config) as (url, server):
        for number in range(120):
            client = stack.enter_context(connected(url))
            client.sendall((b"POST /", head(b"{", length=9), b"")[number % 3])
            slow.append(client)
        start = time.monotonic()
        assert [answered(url).status_code for _ in range(5)] == [200] * 5
        assert time.monotonic() - start < 2
        assert len(server.server_state.connections) <= 51
        assert heard(slow[0]) == b""  # closed
        slow[-1].settimeout(0.01)
        with pytest.raises(TimeoutError):  # the last ones are still there
            slow[-1].recv(1)


def test_where_all_wait_for_answers_the_next_gets_503(monkeypatch):
    model = toy()
    reached, held = hold(monkeypatch, model)
    config = ServeConfig(max_connections=2)
    with served(create_app(model, config), config) as (url, server), concurrent.futures.ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(answered, url) for _ in range(2)]
        assert reached.wait(20)
        until(lambda: sum(one.cycle is not None for one in server.server_state.connections) == 2)
        for _ in range(3):
            answer = answered(url)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "as many connections as it may" in answer.json()["error"]
        held.set()
        assert [one.result(20).status_code for one in asked] == [200, 200]


def test_a_client_that_takes_no_answer_is_cut_off():
    config = ServeConfig(**SHORT, max_users=200, max_k=60)
    body = json.dumps({"history_ids": [[1]] * 200, "k": 60}).encode()
    with contextlib.ExitStack() as stack, served(create_app(MODEL, config), config) as (url, server):
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        for _ in range(10):  # more than the system takes in its place
            client.sendall(head(body))
        connections = server.server_state.connections
        until(lambda: any(one.flow.write_paused for one in connections))
        until(lambda: not connections)


def test_connections_stay_below_the_files(monkeypatch):
    limits = {"now": (256, 256)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.update(now=pair))
    for now, expected in (
        ((256, 256), (128, 16)),
        ((1024, 1024), (704, 64)),
        ((1024, 1 << 20), (1024, 100)),  # raised to 1024 + 4 * 128 + 64
        ((1 << 20, 1 << 20), (1024, 128)),
    ):
        limits["now"] = now
        assert connection_room(1024) == expected
        assert expected[0] + 4 * expected[1] < limits["now"][0]
    limits["now"] = (64, 64)
    with pytest.raises(UnsupportedError, match=r"to open at least 97 files \(ulimit -n\), got 64"):
        connection_room(1024)


def test_wrong_settings():
    with pytest.raises(InvalidValueError, match="ServeConfig: header_timeout must be above 0 and finite, got 0"):
        ServeConfig(header_timeout=0)
    with pytest.raises(InvalidTypeError, match="ServeConfig: idle_timeout must be a number, got '3'"):
        ServeConfig(idle_timeout="3")
    with pytest.raises(InvalidValueError, match="ServeConfig: max_connections must be at least 1, got 0"):
        ServeConfig(max_connections=0)
    with pytest.raises(InvalidValueError, match=r"swap_token must be given with swap_folder .*, got None with here"):
        ServeConfig(swap_folder="here")
