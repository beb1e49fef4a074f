"""A server for as long as you like, among good and rude clients: every answer checked, memory and files watched.

``genrec-fast serve`` runs in a process of its own. Good clients keep their connections and ask; each answer is compared
with ``recommend`` of the same question alone (scores up to rounding, as others are in the batch). Beside them rude ones
send heads and bodies a byte at a time, leave in the middle of a question, send too much, nonsense, and wrong questions;
each kind has the answer that it must get. In the end SIGTERM comes while questions run, and the status must be 0.
Memory is flat where the second half of the run needs at most 2 % more than the end of its first quarter.
Run: python bench/soak_server.py --minutes 60
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import genrec_fast as gf
from models import histories, untrained
from timing import environment, where

HOST = "127.0.0.1"
FLAGS = ("--port", "0", "--threads", "1", "--header-timeout", "5", "--body-timeout", "5", "--max-connections", "200")


@dataclass
class Seen:
    """What came of the run."""

    good: int = 0
    rude: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    """seconds since the start, MiB"""
    files: list[int] = field(default_factory=list)


def questions(model: gf.Recommender, count: int) -> list[tuple[bytes, list[Any]]]:
    """Bodies, and for each of their histories the ids and scores that ``recommend`` gives."""
    rows, made = histories(count), []
    for number in range(count):
        users = [rows[number], rows[(number + 7) % count][:9]][: 1 + number % 2]
        options: dict[str, Any] = {"exclude_seen": number % 3 == 0}
        if number % 5 == 0:
            options["num_beams"] = 30 + number % 40
        k = 1 + number % 20
        found = model.recommend(users, k, **options)
        body = json.dumps({"history_ids": users, "k": k, **options}).encode()
        made.append((body, list(zip(found.items.tolist(), found.scores.tolist(), strict=True))))
    return made


def mistake(results: list[Any], expected: list[Any]) -> str | None:
    """What is wrong with an answer; items of one score may change places."""
    if len(results) != len(expected):
        return f"{len(results)} answers for {len(expected)} histories"
    for result, (ids, scores) in zip(results, expected, strict=True):
        found = [item["id"] for item in result["items"]]
        near = torch.tensor([item["score"] for item in result["items"]])
        wanted = torch.tensor(scores)
        if near.shape != wanted.shape or not torch.allclose(near, wanted, rtol=1e-4, atol=1e-4):
            return f"scores {near.tolist()} for {scores}"
        for place, (mine, theirs) in enumerate(zip(found, ids, strict=True)):
            last = wanted[-1] - wanted[place]  # one more of the same score may stand behind the last
            if mine != theirs and (wanted - wanted[place]).abs().le(2e-4).sum() < 2 and last.abs() > 2e-4:
                return f"item {mine} for {theirs}"
    return None


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


def request(body: bytes, length: int | None = None) -> bytes:
    """As bytes."""
    length = len(body) if length is None else length
    return f"POST /recommend HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n".encode() + body


async def ask_often(
    port: int, asked: list[tuple[bytes, list[Any]]], end: float, seen: Seen, draw: random.Random
) -> None:
    """A good client: one connection, a question after the other."""
    reader, writer = await asyncio.open_connection(HOST, port)
    while time.monotonic() < end:
        body, expected = draw.choice(asked)
        start = time.monotonic()
        writer.write(request(body))
        status, text = await read_answer(reader)
        seen.seconds.append(time.monotonic() - start)
        seen.good += 1
        what = f"status {status}: {text[:200]!r}" if status != 200 else mistake(json.loads(text)["results"], expected)
        if what is not None:
            seen.wrong.append(what)
        await asyncio.sleep(draw.random() * 0.02)
    writer.close()


# A rude client: what it sends at once, a byte that it goes on with, whether it leaves, and the status it must get.
RUDE: dict[str, tuple[bytes, bytes, bool, int | None]] = {
    "head, a byte at a time": (b"POST /recommend HTTP/1.1\r\nx: ", b"y", False, 408),
    "body, a byte at a time": (request(b'{"history_ids": [[1', 10_000), b" ", False, 408),
    "silent": (b"", b"", False, None),
    "leaves in its body": (request(b'{"history_ids"', 400), b"", True, None),
    "leaves before its answer": (request(b'{"history_ids": [[1, 2, 3]], "k": 5}'), b"", True, None),
    "too long": (request(b" " * 1000, 1 << 40), b"", False, 413),
    "nonsense": (request(b"\xff\x00{"), b"", True, 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"", False, 400),
    "unknown item": (request(b'{"history_ids": [[99999999]]}'), b"", True, 400),
    "too wide": (request(b'{"history_ids": [[1]], "num_beams": 1000000}'), b"", True, 400),
}


async def be_rude(port: int, end: float, seen: Seen, draw: random.Random) -> None:
    """One rude client after the other."""
    while time.monotonic() < end:
        name = draw.choice(list(RUDE))
        first, more, leaves, status = RUDE[name]
        reader, writer = await asyncio.open_connection(HOST, port)
        answer = asyncio.ensure_future(reader.readline())
        with contextlib.suppress(ConnectionError):
            writer.write(first)
            while more and not answer.done():
                writer.write(more)
                await asyncio.sleep(0.05)
            if leaves and status is None:
                await asyncio.sleep(draw.random() * 0.01)
            else:
                line = await asyncio.wait_for(answer, 30)
                # Closed without a word: too many others came, which is right.
                if line and (status is None or f" {status} ".encode() not in line):
                    seen.wrong.append(f"{name}: {line!r} for {status}")
        answer.cancel()
        writer.close()
        seen.rude[name] = seen.rude.get(name, 0) + 1
        await asyncio.sleep(draw.random() * 0.2)


async def watch(process: subprocess.Popen[str], begin: float, end: float, seen: Seen) -> None:
    """Memory and open files of the server, from /proc."""
    while time.monotonic() < end:
        told = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        resident = int(told.partition("VmRSS:")[2].split()[0])
        seen.memory.append((time.monotonic() - begin, resident / 1024))
        seen.files.append(len(list(Path(f"/proc/{process.pid}/fd").iterdir())))
        await asyncio.sleep(1.0)


async def soak(
    process: subprocess.Popen[str], port: int, asked: list[Any], minutes: float, good: int, rude: int
) -> Seen:
    """All clients until the time is over; then SIGTERM while some ask."""
    seen, begin = Seen(), time.monotonic()
    end = begin + 60 * minutes
    await asyncio.gather(
        *(ask_often(port, asked, end, seen, random.Random(number)) for number in range(good)),
        *(be_rude(port, end, seen, random.Random(1000 + number)) for number in range(rude)),
        watch(process, begin, end, seen),
    )
    last = [await asyncio.open_connection(HOST, port) for _ in range(4)]
    for (_, writer), (body, _) in zip(last, asked[:4], strict=True):
        writer.write(request(body))
    await asyncio.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    for (reader, _), (_, expected) in zip(last, asked[:4], strict=True):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # not yet taken when the signal came
            status, text = await read_answer(reader)
            if status != 503 and (status != 200 or mistake(json.loads(text)["results"], expected)):
                seen.wrong.append(f"at the end: status {status}")
    return seen


def growth(memory: list[tuple[float, float]]) -> tuple[float, float, float]:
    """MiB at the end of the first quarter and in the second half (medians), and the ratio less 1."""
    whole = memory[-1][0]
    early = statistics.median(value for at, value in memory if 0.15 * whole <= at <= 0.25 * whole)
    late = statistics.median(value for at, value in memory if at >= 0.5 * whole)
    return early, late, late / early - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--recipe", default="marius")
    parser.add_argument("--good", type=int, default=4, help="clients that ask")
    parser.add_argument("--rude", type=int, default=40, help="clients that do not behave, at any time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = untrained(gf.recipes.get(arguments.recipe))
    asked = questions(model, 200)
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name) / "model", Path(name) / "log"
        model.save(folder)
        command = [sys.executable, "-m", "genrec_fast.cli", "serve", str(folder), *FLAGS]
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(command, stderr=file, text=True)
        try:
            port = port_of(process, log)
            seen = asyncio.run(soak(process, port, asked, arguments.minutes, arguments.good, arguments.rude))
            status = process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        traces = log.read_text(encoding="utf-8").count("Traceback")
    early, late, more = growth(seen.memory)
    seconds = sorted(seen.seconds)
    print(f"{arguments.recipe}, {arguments.minutes:g} minutes; {where(environment())}")
    print(f"good clients: {seen.good} answers, each as recommend's: {not seen.wrong}")
    print(f"seconds: p50 {seconds[len(seconds) // 2]:.4f}, p99 {seconds[int(0.99 * (len(seconds) - 1))]:.4f}")
    print(f"rude clients: {sum(seen.rude.values())} ({', '.join(f'{n} {c}' for n, c in sorted(seen.rude.items()))})")
    print(f"memory: {early:.1f} MiB, then {late:.1f} MiB ({100 * more:+.2f} %); open files at most {max(seen.files)}")
    print(f"end: status {status}, tracebacks in the log {traces}")
    for text in seen.wrong[:10]:
        print(f"WRONG: {text}")
    return 0 if not seen.wrong and status == 0 and traces == 0 and more <= 0.02 else 1


def port_of(process: subprocess.Popen[str], log: Path) -> int:
    """Where the server listens, once it does."""
    for _ in range(600):
        found = re.search(r"running on http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8"))
        if found:
            return int(found[1])
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"the server did not start:\n{log.read_text(encoding='utf-8')}")


if __name__ == "__main__":
    sys.exit(main())
