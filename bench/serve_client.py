"""Clients of a server, in a process of their own: they must not share Python's lock with it.

HTTP/1.1 by hand over kept connections: a full client library takes more processor time for a question than the server.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any


def ask_all(host: str, port: int, bodies: list[dict[str, Any]], clients: int) -> tuple[list[Any], list[float], float]:
    """Every body once, by so many clients at the same time, each with one connection.

    Returns:
        The results in the order of the bodies, each one's seconds, and the seconds of all.
    """
    return asyncio.run(_ask_all(host, port, bodies, clients))


async def _ask_all(
    host: str, port: int, bodies: list[dict[str, Any]], clients: int
) -> tuple[list[Any], list[float], float]:
    raw: list[bytes] = [b""] * len(bodies)
    seconds = [0.0] * len(bodies)
    texts = [json.dumps(body).encode() for body in bodies]
    left = iter(range(len(bodies)))
    head = f"POST /recommend HTTP/1.1\r\nHost: {host}\r\nContent-Length: "

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in left:
            start = time.perf_counter()
            writer.write(f"{head}{len(texts[number])}\r\n\r\n".encode() + texts[number])
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(answer.partition(b"content-length:")[2].partition(b"\r")[0])
            raw[number] = await reader.readexactly(length)
            seconds[number] = time.perf_counter() - start
            assert answer.startswith(b"http/1.1 200"), raw[number]
        writer.close()

    connections = [await asyncio.open_connection(host, port) for _ in range(clients)]
    begin = time.perf_counter()
    await asyncio.gather(*(client(*connection) for connection in connections))
    total = time.perf_counter() - begin
    return [json.loads(text)["results"] for text in raw], seconds, total
