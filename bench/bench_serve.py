"""A server under load on loopback: questions answered together, against one at a time.

The recipes as published in the package, untrained (``models.untrained``), 20 items of history, top 10, the recipe's own
beams.
Clients are a process of their own (HTTP/1.1 over kept connections), each asks its next question when it has the answer.
The rival is the same server with max_running=1: one search after the other. "cpu" is the server's processor time for a
question, which other work on the machine changes little.
Run: pytest bench/bench_serve.py -o python_files='bench_*.py' -s
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import uvicorn

import genrec_fast as gf
from genrec_fast.serving.http import ServeConfig, create_app
from models import histories, untrained
from serve_client import ask_all

QUICK = "GENREC_BENCH_SECONDS" in os.environ  # a run that only shows that it runs


@contextlib.contextmanager
def served(model: gf.Recommender, max_running: int) -> Iterator[int]:
    app = create_app(model, ServeConfig(max_running=max_running, timeout=120))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False))
    started, startup = threading.Event(), server.startup

    async def noticed(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = noticed  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(60)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)


def quantile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, math.ceil(share * len(seconds)) - 1)]


@pytest.mark.parametrize("clients", [1, 8, 32])
@pytest.mark.parametrize("name", ["tiger", "marius", "sasrec"])
def test_serve(benchmark: Any, name: str, clients: int) -> None:
    if QUICK and (name, clients) not in (("sasrec", 8), ("tiger", 8)):
        pytest.skip("a quick run shows two of the shapes")
    model = untrained(gf.recipes.get(name))
    count = 8 if QUICK else max(48, 4 * clients)
    bodies = [
        {"histories": [row], "k": 10, "exclude_seen": number % 2 == 1} for number, row in enumerate(histories(count))
    ]
    found: dict[int, tuple[list[Any], list[float], float]] = {}
    spent: dict[int, float] = {}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for max_running in (256, 1):
            with served(model, max_running) as port:
                pool.apply(ask_all, ("127.0.0.1", port, bodies[:4], 2))  # warm
                before = time.process_time()  # of this process: the server's
                if max_running == 1:
                    found[1] = pool.apply(ask_all, ("127.0.0.1", port, bodies, clients))
                else:
                    found[256] = benchmark.pedantic(
                        pool.apply, (ask_all, ("127.0.0.1", port, bodies, clients)), rounds=1
                    )
                spent[max_running] = 1000 * (time.process_time() - before) / count
    for together, alone in zip(found[256][0], found[1][0], strict=True):
        left, right = together[0]["items"], alone[0]["items"]
        scores = [torch.tensor([item["score"] for item in side]) for side in (left, right)]
        torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-4)
        for place, (mine, theirs) in enumerate(zip(left, right, strict=True)):  # items of one score may change places
            assert mine["id"] == theirs["id"] or (scores[0] - scores[0][place]).abs().le(1e-4).sum() > 1
    figures = {
        side: (count / all_of_it, 1000 * quantile(seconds, 0.5), 1000 * quantile(seconds, 0.99), spent[at])
        for side, at, (_, seconds, all_of_it) in (("together", 256, found[256]), ("one at a time", 1, found[1]))
    }
    ratio = figures["together"][0] / figures["one at a time"][0]
    benchmark.extra_info.update(figures=figures, ratio=ratio)
    print(f"\n{name}, {clients} clients:", end="")
    for side, (rate, median, late, cpu) in figures.items():
        print(f" {side} {rate:.0f}/s, p50 {median:.1f} ms, p99 {late:.1f} ms, cpu {cpu:.1f} ms;", end="")
    print(f" ratio {ratio:.2f}")
