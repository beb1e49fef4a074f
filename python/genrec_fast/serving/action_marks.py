"""Actions of events as a person writes them: a mark for each event."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.recipe.system import System

_DIGITS: dict[object, bool] = {"0": False, "1": True, 0: False, 1: True}  # false and true are 0 and 1 as keys


def marked(system: System, rows: Sequence[Sequence[object]] | None, lengths: Sequence[int]) -> Jagged | None:
    """Actions as ``recommend`` takes them, from a mark for each event of each history.

    Args:
        system: which says the actions and their order.
        rows: per history one mark for each event: a word with a digit per action, such as "10", or as many booleans
            (0 and 1 will do); ``None``: not given.
        lengths: how many events each history has.

    Raises:
        InvalidValueError: a recipe that reads no actions, or does and gets none; another number of histories or
            events; no mark of that size.
    """
    names = system.actions
    if rows is None:
        if system.reads_actions and any(lengths):
            raise InvalidValueError(
                f"recommend: actions must be given as {system.name} reads them ({', '.join(names)}), got None"
            )
        return None
    if not names:
        raise InvalidValueError(f"recommend: actions must not be given as {system.name} reads none")
    if len(rows) != len(lengths):
        raise InvalidValueError(
            f"recommend: actions must be a list for each of {len(lengths)} histories, got {len(rows)}"
        )
    marks: list[list[bool]] = []
    for row, events in zip(rows, lengths, strict=True):
        if len(row) != events:
            raise InvalidValueError(f"recommend: actions must be one word per event, {events} of them, got {len(row)}")
        for mark in row:
            digits = list(mark) if isinstance(mark, (str, list, tuple)) else []
            known = [_DIGITS[digit] for digit in digits if isinstance(digit, (str, int)) and digit in _DIGITS]
            if not len(known) == len(digits) == len(names):
                raise InvalidValueError(
                    f"recommend: actions must be words of {len(names)} digits 0 or 1 ({', '.join(names)}), "
                    f"got {mark!r:.40}"
                )
            marks.append(known)
    values = torch.tensor(marks, dtype=torch.bool).view(-1, len(names))
    return Jagged.from_lengths(values, torch.tensor(lengths, dtype=torch.int64))
