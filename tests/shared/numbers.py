"""Whole numbers in JSON, each replaced in turn: what a settings file from outside may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def numbers_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where whole numbers stand."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from numbers_in(part, (*path, key))


def put(value: Any, path: tuple[Any, ...], number: int) -> Any:
    """The same with another number at a place."""
    if not path:
        return number
    part = value.copy()
    part[path[0]] = put(part[path[0]], path[1:], number)
    return part
