"""What hostile values are drawn from, and what a changed value means for the answer.

SAME: the values are those of the valid call, so the answer must be the valid call's (or a typed error). OTHER: if there
is an answer, it is the twin's for the changed arguments. REFUSE: there must be no answer. WILD: something was altered
behind a check's back; the process survives, and that is all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from .case import Rng

SAME, OTHER, REFUSE, WILD = "same", "other", "refuse", "wild"

Change = tuple[Any, str, str]  # value, how, meaning


class Odd:
    """Answers to nothing."""

    def __index__(self) -> int:
        raise TypeError("an index that fails")


class Seven:
    """A whole number by protocol alone."""

    def __index__(self) -> int:
        return 7


INTEGERS = (
    *(-1, 0, 1, 2, 3, 5, 255, 256, 257, 65535, 65536, 65537, 2**24, 2**30, 2**31 - 1, 2**31, 2**31 + 1, 2**32),
    *(2**32 + 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**70, -2, -(2**31), -(2**31) - 1, -(2**32)),
    *(-(2**63), -(2**63) - 1, -(2**70), sys.maxsize, -sys.maxsize, 10**400),
)
FLOATS = (
    *(float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, 1e-45, 1e39, 0.5, 2.0),
    *(10**400, 2**70, True, Fraction(1, 3), Decimal("0.5"), np.float32(0.5), np.float64("nan"), 3),
)
_THINGS: tuple[Callable[[], Any], ...] = (
    *(lambda: None, lambda: "x", str, lambda: b"x", lambda: 1.5, lambda: 3, lambda: True, list, tuple, dict, object),
    *(Odd, lambda: int, lambda: len, lambda: [None], lambda: ["a", 1], lambda: [[]], lambda: np.zeros(3), Seven),
    *(lambda: np.zeros((2, 2), dtype=object), lambda: np.float64(2), lambda: np.array(["a", "b"])),
    *(lambda: torch.zeros(2), lambda: torch.zeros(()), lambda: torch.tensor([1, 2]), lambda: torch.zeros(0)),
    *(lambda: iter([1]), lambda: range(3), lambda: {1, 2}, lambda: torch.float32, lambda: torch.device("cpu")),
    *(lambda: 1j, lambda: Ellipsis, lambda: torch.zeros(2, device="meta"), lambda: torch.nn.Linear(1, 1)),
    *(lambda: [torch.zeros(2)], lambda: slice(None), lambda: memoryview(b"abcd")),
)
_BY_HAND = {"a NoneType", "a str", "a int", "a float", "a bool", "a list"}
NOT_BY_HAND = {f"a {type(make()).__name__}" for make in _THINGS} - _BY_HAND


def bag(rng: Rng) -> Change:
    """A thing that belongs nowhere."""
    value = rng.choice(_THINGS)()
    return value, f"a {type(value).__name__}", OTHER


def one_of(rng: Rng, ways: Sequence[tuple[Callable[..., Any], str, str]], *value: Any) -> Change:
    """One of the ways to make a value (of another), how it is named, and what it means."""
    make, how, meaning = rng.choice(ways)
    return make(*value), how, meaning
