"""What code a model may run: the functions that a forward pass can name, and the operations of torch that they name."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor

# Through what a function may be reached, and under which name.
_WRAPPERS: tuple[type, ...] = (
    *(staticmethod, classmethod, property, MethodType, type(functools.lru_cache(len))),
    *(functools.partial, functools.partialmethod, functools.cached_property),
)
_INSIDE = ("__wrapped__", "__func__", "fget", "func")
_SHARED = ("torch", "transformers")  # packages with base classes of every model, of whose methods few are run
_FIRST = ("__call__", "forward")

# torch's operations and the methods of its tensors, before anything that is done later can have replaced them.
_AS_IMPORTED: tuple[tuple[Any, dict[str, Any]], ...] = ((torch, {**vars(torch)}), (Tensor, {**vars(Tensor)}))


@dataclass(frozen=True)
class Reached:
    """What ``reached_code`` found."""

    functions: list[FunctionType]
    names: frozenset[str]  # all that stand in their code

    def replaced(self) -> str | None:
        """An operation of torch, or a method of its tensors, that has changed since this module was imported."""
        for place, known in _AS_IMPORTED:
            for name in sorted(self.names & vars(place).keys()):
                if callable(vars(place)[name]) and vars(place)[name] is not known.get(name):
                    return f"{place.__name__}.{name}"
        return None


def reached_code(kinds: Collection[type], homes: Iterable[ModuleType]) -> Reached:
    """What a forward pass through modules of these kinds may run, found by name alone, so rather too much.

    From the methods of the kinds themselves, from ``forward`` and from what their Python modules hold, every name that
    stands in the code is followed to all functions of that name.

    Args:
        kinds: classes of a model's modules.
        homes: Python modules in which they look up names (``called_modules``).
    """
    bases = dict.fromkeys(base for kind in kinds for base in kind.__mro__ if base is not object)
    named: dict[str, list[FunctionType]] = {}
    names = [*_FIRST]
    places: list[type | ModuleType] = [*bases, *homes]
    for home in places:
        is_shared = (home.__module__ if isinstance(home, type) else home.__name__).partition(".")[0] in _SHARED
        for name, value in [*vars(home).items()]:
            functions = [*functions_in(value)]
            named.setdefault(name, []).extend(functions)
            if functions and not is_shared:
                names.append(name)
    found: dict[int, FunctionType] = {}
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        for function in named.get(name, ()):
            found[id(function)] = function
            names.extend(_names(function.__code__))
    return Reached([*found.values()], frozenset(seen))


def functions_in(value: Any) -> Iterator[FunctionType]:
    """The function that a value is, or the ones that it wraps."""
    while value is not None:
        if isinstance(value, FunctionType):
            yield value
        if not isinstance(value, (FunctionType, *_WRAPPERS)):
            return
        value = next((inner for name in _INSIDE if (inner := getattr(value, name, None)) is not None), None)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
