"""What an event was: yes or no, from a column of numbers and a limit."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Sequence

import numpy as np

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError

_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_RULE = re.compile(r"\s*(.+?)\s*(>=|<=|==|!=|>|<)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")


def columns_of(actions: Sequence[str]) -> list[str]:
    """The columns that the rules read.

    Raises:
        InvalidTypeError: actions are not texts.
        InvalidValueError: a rule that is none, or that stands there twice.
    """
    return [name for name, _, _ in _parsed(actions)]


def read_actions(actions: Sequence[str], numbers: Callable[[str], Sequence[float] | np.ndarray]) -> np.ndarray:
    """Bool ``[E, A]``: entry (e, a) says whether event e meets the rule ``actions[a]``, such as ``"rating>=4"``.

    Args:
        actions: rules ``COLUMN COMPARISON NUMBER`` with one of ``>= <= == != > <``.
        numbers: a column's values by its name.

    Raises:
        InvalidTypeError: actions are not texts.
        InvalidValueError: a rule that is none, or that stands there twice.
    """
    columns = [
        _COMPARE[comparison](np.asarray(numbers(name), dtype=np.float64), limit)
        for name, comparison, limit in _parsed(actions)
    ]
    return np.stack(columns, 1)


def _parsed(actions: Sequence[str]) -> list[tuple[str, str, float]]:
    """Column, comparison and limit of each rule."""
    if (
        isinstance(actions, str)
        or not isinstance(actions, Collection)
        or not all(isinstance(rule, str) for rule in actions)
    ):
        raise InvalidTypeError(f"data.load: actions must be a list of rules such as 'rating>=4', got {actions!r:.80}")
    if not actions or len(set(actions)) < len(actions):
        raise InvalidValueError(f"data.load: actions must be different rules, at least one, got {list(actions)!r:.80}")
    rules = []
    for rule in actions:
        parts = _RULE.fullmatch(rule)
        try:
            limit = float(parts[3]) if parts else None
        except ValueError:
            limit = None
        if parts is None or limit is None:
            raise InvalidValueError(f"data.load: actions must be rules such as 'rating>=4', got {rule!r:.80}")
        rules.append((parts[1], parts[2], limit))
    return rules
