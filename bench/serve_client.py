"""Clients of a server, in a process of their own: they must not share Python's lock with it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx


def ask_all(url: str, bodies: list[dict[str, Any]], clients: int) -> tuple[list[Any], list[float], float]:
    """Every body once, by so many clients at the same time.

    Returns:
        The results in the order of the bodies, each one's seconds, and the seconds of all.
    """
    return asyncio.run(_ask_all(url, bodies, clients))


async def _ask_all(url: str, bodies: list[dict[str, Any]], clients: int) -> tuple[list[Any], list[float], float]:
    answers: list[Any] = [None] * len(bodies)
    seconds = [0.0] * len(bodies)
    left = iter(range(len(bodies)))

    async def client(connections: httpx.AsyncClient) -> None:
        for number in left:
            start = time.perf_counter()
            answer = await connections.post("/recommend", json=bodies[number])
            seconds[number] = time.perf_counter() - start
            answers[number] = answer.raise_for_status().json()["results"]

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as connections:
        await connections.get("/health")
        begin = time.perf_counter()
        await asyncio.gather(*(client(connections) for _ in range(clients)))
        return answers, seconds, time.perf_counter() - begin
