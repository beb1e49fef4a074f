"""A row of the table, the list of all rows, and the card's clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

WARM_CALLS, TIMED_CALLS = 5, 30


@dataclass
class Line:
    """One line of the table; times in microseconds."""

    row: str
    what: str
    ours: float | None = None
    rival: float | None = None
    against: str = ""
    wanted: str = ""
    verdict: str = ""


Row = Callable[[], Iterator[Line]]
ROWS: dict[str, Row] = {}
OPS: dict[str, tuple[str, ...]] = {}  # row -> the ops (modules of genrec_fast.ops) that it shows to be right


def row(*ops: str) -> Callable[[Row], Row]:
    """Registers a row by the function's name; it yields lines, and raises where something is wrong."""

    def register(function: Row) -> Row:
        ROWS[function.__name__], OPS[function.__name__] = function, ops
        return function

    return register


def microseconds(call: Callable[[], Any], calls: int = TIMED_CALLS) -> float:
    """The least time of one call by the card's own clock, back to back on torch's stream."""
    for _ in range(WARM_CALLS):
        call()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    return min(1e3 * before.elapsed_time(after) for before, after in itertools.pairwise(marks))


def graphed(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as a CUDA graph: what is left is the card's work."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
